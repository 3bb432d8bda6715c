# SPDX-License-Identifier: Apache-2.0
"""A manifest for an image that has none: one of the OCI specification, made from its config and its layers.

It is the same bytes whenever config and layers are the same, so its digest names the image, and can be pinned. It is
not the digest that the image has at a registry, where another manifest names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..errors import ImageNotFound
from ..formats.oci import CONFIG, MANIFEST, Descriptor, Manifest
from ..model import ImageReference
from .resolve import digest_of
from .sources import FetchedManifest

LAYER_TYPES = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""How compressed layers begin."""


def compression_of(start: bytes) -> str:
    """The compression of a layer that begins like this."""
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "none")


def make_manifest(config: bytes, layers: Sequence[Descriptor]) -> FetchedManifest:
    """Raises OciError when there are so many layers that it would be too large."""
    data = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in layers],
    }, separators=(",", ":"), sort_keys=True).encode()
    digest = digest_of(data)
    return FetchedManifest(data, digest, Manifest.parse(data), digest)


def check_pin(reference: ImageReference, fetched: FetchedManifest) -> FetchedManifest:
    """What was asked for, if a digest was. Raises ImageNotFound when it is another one."""
    if reference.digest in (None, fetched.digest, fetched.reference_digest):
        return fetched
    raise ImageNotFound(f"{reference}: the image there is {fetched.reference_digest}", advice="")
