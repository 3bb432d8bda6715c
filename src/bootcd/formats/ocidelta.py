# SPDX-License-Identifier: Apache-2.0
"""oci-delta: an artifact that leads from one image to another.

Its manifest has the image that it leads to as `subject`, and says by annotations which one it comes from. Its layers
say each by an annotation what they are:

    image-manifest             the manifest of the new image, byte for byte
    image-config               its config
    image-layer                what makes a layer of it: a tar-diff (formats/tardiff.py), or the layer as it is;
                               `…delta.to` is the digest of that layer in the manifest
    cosign-signature           the manifest of a signature
    cosign-signature-content   what that manifest refers to

Layers whose diff ID the old image has as well are left out. Whatever else there is, is ignored.

Source: containers/oci-delta, README.md (Delta file format).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import OciError
from ..model import is_digest
from .documents import shown
from .oci import DELTA, MANIFEST_TYPES, Descriptor, Manifest

MAX_SIGNATURES = 100
"""Signatures of one image."""

_PREFIX = "io.github.containers.delta."
_CONTENT = _PREFIX + "content"
_TO = _PREFIX + "to"
_TARGET = _PREFIX + "target"
_SOURCE = _PREFIX + "source"
_SOURCE_CONFIG = _PREFIX + "source-config"


@dataclass(frozen=True, slots=True)
class Delta:
    """What a delta has: the manifest of the image that it leads to, and by the digest of a layer what makes it.

    `source` and `source_config` are the digests of manifest and config of the image that it comes from, as far as it
    says them."""

    manifest: Descriptor
    layers: Mapping[str, Descriptor]
    source: str
    source_config: str
    signatures: tuple[Descriptor, ...] = ()

    @property
    def target(self) -> str:
        """The digest of the image that it leads to."""
        return self.manifest.digest

    @property
    def origin(self) -> str:
        """The image that it comes from, in words."""
        if self.source:
            return f"image {self.source}"
        return f"the image with config {self.source_config}" if self.source_config else "an image that it does not name"

    @classmethod
    def of(cls, manifest: Manifest) -> Delta:
        """Raises OciError, also when the manifest is none of a delta."""
        if manifest.artifact_type != DELTA:
            raise OciError(f"manifest.artifactType: {shown(manifest.artifact_type or '')} is no delta")
        images: list[Descriptor] = []
        signatures: list[Descriptor] = []
        layers: dict[str, Descriptor] = {}
        for number, layer in enumerate(manifest.layers):
            where = f"manifest.layers[{number}]"
            content = layer.annotations.get(_CONTENT)
            if layer.urls:
                raise OciError(f"{where}: {layer.digest} is in another place, from which nothing is fetched")
            if content == "image-manifest":
                images.append(layer)
            elif content == "cosign-signature":
                signatures.append(layer)
            elif content == "image-layer":
                target = layer.annotations.get(_TO, "")
                if not is_digest(target):
                    raise OciError(f"{where}.annotations.{_TO}: {shown(target)} is no sha256 or sha512 digest")
                if target in layers:
                    raise OciError(f"{where}.annotations.{_TO}: {target} is named twice")
                layers[target] = layer
        if len(images) != 1 or images[0].media_type not in MANIFEST_TYPES:
            raise OciError("manifest.layers: a delta has the manifest of one image")
        if len(signatures) > MAX_SIGNATURES:
            raise OciError(f"manifest.layers: {len(signatures)} signatures, more than {MAX_SIGNATURES}")
        found = cls(images[0], layers, _digest(manifest, _SOURCE), _digest(manifest, _SOURCE_CONFIG), tuple(signatures))
        said = {_digest(manifest, _TARGET), manifest.subject.digest if manifest.subject is not None else ""}
        if said - {"", found.target}:
            raise OciError("manifest: annotation, subject and the image in it differ on where the delta leads to")
        return found


def _digest(manifest: Manifest, key: str) -> str:
    text = manifest.annotations.get(key, "")
    if text and not is_digest(text):
        raise OciError(f"manifest.annotations.{key}: {shown(text)} is no sha256 or sha512 digest")
    return text
