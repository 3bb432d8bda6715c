# SPDX-License-Identifier: Apache-2.0
"""Signatures in the stores that registries.d names.

    URL/REPOSITORY@sha256=HEX/signature-N        OpenPGP signatures of a manifest, N from 1 on without a gap

Source: the observed layout of the stores of skopeo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from ..errors import BlobMismatch, SignatureError, SourceUnreachable, TrustPolicyError
from ..formats.imagename import ImageName
from ..linux import files
from .gpg import MAX_SIGNATURE, SignedMessage
from .http import Http
from .registries_d import Section
from .retry import persist
from .separate import SeparateHost
from .sigstore import MAX_SIGNATURES
from .sources import SourceOptions


def lookaside(section: Section, name: ImageName, digest: str, options: SourceOptions) -> Iterator[SignedMessage]:
    """The signatures of a manifest in its store, as they are read. Raises SourceUnreachable, SignatureError when there
    are too many, TrustPolicyError when the address makes no sense."""
    base = f"{section.store.rstrip('/')}/{name.repository.partition('/')[2]}@{digest.replace(':', '=', 1)}"
    with _Store(base, options, section) as store:
        for number in range(1, MAX_SIGNATURES + 1):
            where = f"{base}/signature-{number}"
            data = store.read(where)
            if data is None:
                return
            yield SignedMessage(where, data)
        raise SignatureError(f"{base}: more than {MAX_SIGNATURES - 1} signatures")


class _Store:
    """Reads files below one address; a context manager."""

    def __init__(self, base: str, options: SourceOptions, section: Section) -> None:
        try:
            self._parts = urlsplit(base)
        except ValueError:
            raise TrustPolicyError(f"{section.origin}: lookaside: '{base}' is no address") from None
        self._options = options
        self._server: Http | SeparateHost | None = None
        if self._parts.scheme in ("http", "https") and self._parts.hostname:
            there = replace(options, insecure=False)
            self._server = (SeparateHost if options.separate else Http)(self._parts.netloc, there)
        elif self._parts.scheme != "file" or self._parts.netloc:
            raise TrustPolicyError(f"{section.origin}: lookaside: '{base}' is neither https:, http: nor file:///")

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *about: object) -> None:
        if self._server is not None:
            self._server.close()

    def read(self, url: str) -> bytes | None:
        """One signature, at most one byte more than `MAX_SIGNATURE`; None when there is none."""
        server = self._server
        if server is None:
            return _file(unquote(urlsplit(url).path))
        try:
            status, data = persist(self._options, lambda: server.file(url, MAX_SIGNATURE))
        except BlobMismatch:
            return bytes(MAX_SIGNATURE + 1)  # too large to be one, whatever it holds
        if status in (404, 410):
            return None
        if status != 200:
            raise SourceUnreachable(f"{url}: HTTP {status}")
        return data


def _file(path: str) -> bytes | None:
    with files.translate(path):
        try:
            descriptor = files.open_regular(path, follow=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            return file.read(MAX_SIGNATURE + 1)
