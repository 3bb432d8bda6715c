# SPDX-License-Identifier: Apache-2.0
"""Pushes an image of `kit.images`, or signatures or an artifact about one, to a registry.

Source: OCI distribution-spec 1.1 (pushing blobs, pushing manifests).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin

import requests


class Pushable(Protocol):
    """Manifests, of which the one with `manifest_digest` gets the tag, and what they refer to."""

    @property
    def manifest_digest(self) -> str: ...

    def blobs(self) -> Mapping[str, bytes]: ...

    def manifests(self) -> Mapping[str, tuple[str, bytes]]: ...


@dataclass(frozen=True)
class Pushed:
    """What went over the wire."""

    digest: str
    blobs_sent: int
    bytes_sent: int
    blobs_present: int


def push(
    image: Pushable, reference: str, *, scheme: str = "http",
    auth: tuple[str, str] | None = None, token: str = "", verify: Path | None = None,
    cert: tuple[Path, Path] | None = None,
) -> Pushed:
    """Push to `HOST/REPOSITORY:TAG`. Blobs that the registry has are not sent. `verify` is the authority of its
    certificate, `cert` ours and its key. Raises requests.RequestException."""
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.partition(":")
    base = f"{scheme}://{host}/v2/{repository}/"
    sent = size = present = 0
    with requests.Session() as session:
        session.auth = auth
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        session.verify = os.fspath(verify) if verify is not None else True
        session.cert = (os.fspath(cert[0]), os.fspath(cert[1])) if cert is not None else None
        session.trust_env = False  # a proxy of the environment has no business with a registry on loopback
        for digest, blob in image.blobs().items():
            if session.head(base + f"blobs/{digest}").status_code == 200:
                present += 1
                continue
            start = session.post(base + "blobs/uploads/")
            start.raise_for_status()
            session.put(urljoin(base, start.headers["Location"]), params={"digest": digest}, data=blob,
                        headers={"Content-Type": "application/octet-stream"}).raise_for_status()
            sent += 1
            size += len(blob)
        for digest, (media_type, document) in image.manifests().items():
            name = (tag or digest) if digest == image.manifest_digest else digest
            session.put(base + f"manifests/{name}", data=document,
                        headers={"Content-Type": media_type}).raise_for_status()
            size += len(document)
    return Pushed(image.manifest_digest, sent, size, present)
