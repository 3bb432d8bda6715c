# SPDX-License-Identifier: Apache-2.0
"""Writing into an OCI image layout: blobs first, then `index.json`, which makes images of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import OciError
from ..formats import oci
from ..linux import files

Descriptor = dict[str, Any]
"""As it stands in a document, with all that others have put into it."""


def read_index(layout: Path) -> list[Descriptor]:
    """The images that a layout has already. Raises OciError for a directory that is something else."""
    if not layout.is_dir() or not any(layout.iterdir()):
        return []
    with files.translate(f"cannot read {layout}"):
        try:
            oci.parse_layout((layout / "oci-layout").read_bytes())
            data = (layout / "index.json").read_bytes()
        except FileNotFoundError as error:
            if os.listdir(layout) == ["blobs"]:  # what an attempt has left that was broken off
                return []
            raise OciError(f"{layout} is no image layout: there is no {Path(error.filename).name}",
                           advice="Name a directory that is empty or not there.") from None
    oci.Index.parse(data)
    manifests: list[Descriptor] = json.loads(data)["manifests"]
    return manifests


def with_image(descriptors: Iterable[Descriptor], image: Descriptor, tag: str | None) -> list[Descriptor]:
    """The images of a layout with one more, in place of the one that has its name."""
    kept = [one for one in descriptors if one.get("annotations", {}).get(oci.REF_NAME) != tag
            or (tag is None and one.get("artifactType"))]
    return [*kept, {**image, **({"annotations": {oci.REF_NAME: tag}} if tag is not None else {})}]


def write_index(layout: Path, descriptors: Iterable[Descriptor]) -> None:
    """Let a layout have these images."""
    files.atomic_write(layout / "oci-layout", document({"imageLayoutVersion": "1.0.0"}))
    files.atomic_write(layout / "index.json", document({
        "schemaVersion": 2, "mediaType": oci.INDEX, "manifests": list(descriptors)}))


def put_blob(layout: Path, data: bytes) -> str:
    """Write a blob, and return its digest."""
    digest = hashlib.sha256(data).hexdigest()
    files.atomic_write(layout / "blobs/sha256" / digest, data)
    return f"sha256:{digest}"


def document(value: object) -> bytes:
    """A document, always in the same bytes."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
