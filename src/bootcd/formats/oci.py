# SPDX-License-Identifier: Apache-2.0
"""OCI image index, manifest and config, and the files of an image layout.

The documents come from whoever serves the image. They are read strictly where a lie would matter (types, digests,
sizes, media types, duplicate keys) and leniently where the specification says so (unknown fields are ignored). Docker's
schema 2 types are accepted beside the OCI ones, since registries still serve them. Errors name the JSON path, such as
`manifest.layers[2].size`. The raw bytes stay the identity of a document; nothing here writes one.

Source: OCI image specification 1.1 (descriptor.md, image-index.md, manifest.md, config.md, image-layout.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import ImageNotFound, NoMatchingPlatform, OciError
from ..model import Platform
from .documents import JsonObject, parse_object, shown

MAX_DOCUMENT = 4 << 20
"""Largest index, manifest or config, in bytes; the bound that registries promise to accept."""

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

DELTA = "application/vnd.io.github.containers.oci-delta.v1"
"""Type of an artifact that leads from one image to another (`ocidelta`)."""

INDEX_TYPES = frozenset({INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({CONFIG, DOCKER_CONFIG})

LAYER_COMPRESSION: Mapping[str, str] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
"""Media types of file system layers, with the compression that each promises."""

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation that gives an image of a layout its name."""

_COMPANION = re.compile(r"sha256-[0-9a-f]{64}\.(?:sig|att|sbom)")
"""Tags of what cosign attaches to an image."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob: what it is, which digest and how many bytes it has."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()

    @property
    def compression(self) -> str:
        """`none`, `gzip` or `zstd`. Raises OciError when this describes no file system layer."""
        kind = LAYER_COMPRESSION.get(self.media_type)
        if kind is None:
            raise OciError(f"layer {self.digest}: media type {shown(self.media_type)} is no file system layer")
        return kind


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image, or an artifact that looks like one (`is_image` tells)."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    subject: Descriptor | None = None
    """The manifest that this is about."""

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises OciError."""
        top = _document(data, "manifest")
        media_type = _media_type(top, MANIFEST_TYPES, MANIFEST, forbidden="manifests")
        subject = top.optional_object("subject")
        return cls(
            media_type,
            _descriptor(top.object("config")),
            tuple(_descriptor(item) for item in top.objects("layers")),
            top.strings("annotations"),
            top.optional_string("artifactType"),
            _descriptor(subject) if subject.value else None,
        )

    @property
    def is_image(self) -> bool:
        return self.config.media_type in CONFIG_TYPES

    def check_image(self, config: Config) -> tuple[tuple[Descriptor, str], ...]:
        """The layers with their diff IDs, lowest first.

        Raises OciError when this is an artifact, a layer is no file system layer, or config and manifest disagree on
        how many layers there are.
        """
        if not self.is_image:
            raise OciError(f"manifest.config.mediaType: {shown(self.config.media_type)} is no image configuration")
        for index, layer in enumerate(self.layers):
            if layer.media_type not in LAYER_COMPRESSION:
                what = f"{shown(layer.media_type)} is no file system layer"
                raise OciError(f"manifest.layers[{index}].mediaType: {what}")
        if len(self.layers) != len(config.diff_ids):
            raise OciError(
                f"manifest.layers: {len(self.layers)} layers, but config.rootfs.diff_ids has {len(config.diff_ids)}"
            )
        return tuple(zip(self.layers, config.diff_ids, strict=True))


@dataclass(frozen=True, slots=True)
class Config:
    """What an image is made of, and what it says about itself. `created` is kept as it is written."""

    diff_ids: tuple[str, ...]
    architecture: str
    os: str
    created: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    variant: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Config:
        """Raises OciError."""
        top = _document(data, "config")
        rootfs = top.object("rootfs")
        if rootfs.string("type") != "layers":
            raise rootfs.error("type", 'expected "layers"')
        return cls(
            rootfs.digests("diff_ids"),
            top.string("architecture"),
            top.string("os"),
            top.optional_string("created"),
            top.optional_object("config").strings("Labels"),
            top.optional_string("variant") or "",
        )

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests: of one image for many platforms, or the images of a layout."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Raises OciError."""
        top = _document(data, "index")
        media_type = _media_type(top, INDEX_TYPES, INDEX, forbidden="layers")
        return cls(
            tuple(_descriptor(item) for item in top.objects("manifests")),
            media_type,
            top.strings("annotations"),
            top.optional_string("artifactType"),
        )

    def choose(self, platform: Platform) -> Descriptor:
        """The manifest that fits a machine best.

        Operating system and architecture must be equal. Variants of arm, arm64 and amd64 are levels: the highest that
        the machine can run wins, an absent one is the base level of that architecture. Any other variant must be
        equal. Among equals the first wins. When nothing names a platform and there is one manifest only, it is taken.
        Raises NoMatchingPlatform, which lists what there is.
        """
        images = [item for item in self.manifests if item.media_type in MANIFEST_TYPES]
        best: tuple[tuple[int, int], Descriptor] | None = None
        for item in images:
            level = _fitness(item.platform, platform)
            if level is not None and (best is None or level > best[0]):
                best = (level, item)
        if best is not None:
            return best[1]
        if len(images) == 1 and images[0].platform is None:
            return images[0]
        known = sorted({str(item.platform) if item.platform else "no platform named" for item in images})
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise NoMatchingPlatform(f"the index has no manifest for {platform}, only for: {listed or 'none'}")

    def named(self, name: str | None) -> Descriptor:
        """The image of a layout with this name; without a name, the only one, where signatures and other things that
        are about an image do not count; and without an image, the only delta. Raises ImageNotFound."""
        if name is None:
            found = [item for item in self.manifests if item.artifact_type in (None, *CONFIG_TYPES)
                     and not _COMPANION.fullmatch(item.annotations.get(REF_NAME, ""))]
            found = found or [item for item in self.manifests if item.artifact_type == DELTA]
        else:
            found = [item for item in self.manifests if item.annotations.get(REF_NAME) == name]
        if len({item.digest for item in found}) == 1:
            return found[0]
        names = ", ".join(sorted({shown(item.annotations.get(REF_NAME, "")) for item in self.manifests})[:20])
        if not found and name is None:
            raise ImageNotFound("the layout is empty", advice="")
        if not found:
            raise ImageNotFound(f"the layout has no image named '{name}', only: {names or 'none'}", advice="")
        what = "holds several images" if name is None else f"has several images named '{name}'"
        raise ImageNotFound(f"the layout {what}: {names}", advice="Name one, as in oci:DIRECTORY:NAME.")


def signature_tag(digest: str) -> str:
    """The tag under which cosign's signatures of a manifest are."""
    return digest.replace(":", "-") + ".sig"


def parse_layout(data: bytes) -> None:
    """Check the `oci-layout` file of an image layout. Raises OciError when its version is not 1."""
    version = _document(data, "oci-layout").string("imageLayoutVersion")
    if not re.fullmatch(r"1\.[0-9]+\.[0-9]+", version):
        raise OciError(f"oci-layout.imageLayoutVersion: {shown(version)} is not supported")


_LEVELS = {"amd64": (1, 0), "arm64": (8, 0), "arm": (7, 0)}
"""What an absent variant means (containerd's normalisation; images for arm without a variant are v7 in practice)."""


def _level(architecture: str, variant: str) -> tuple[int, int] | None:
    base = _LEVELS.get(architecture)
    if base is None:
        return None
    if not variant:
        return base
    match = re.fullmatch(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?", variant)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _fitness(offered: Platform | None, wanted: Platform) -> tuple[int, int] | None:
    """The level of what is offered, or None when the machine cannot run it."""
    if offered is None or (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    have, need = _level(offered.architecture, offered.variant), _level(wanted.architecture, wanted.variant)
    if have is None or need is None:
        return (0, 0) if offered.variant == wanted.variant else None
    return have if have <= need else None


def _media_type(top: JsonObject, allowed: Iterable[str], default: str, *, forbidden: str) -> str:
    # One document that is both index and manifest means different things to different readers (CVE-2021-41190).
    if forbidden in top.value:
        raise top.error(forbidden, f"does not belong into {'a manifest' if default == MANIFEST else 'an index'}")
    if top.integer("schemaVersion") != 2:
        raise top.error("schemaVersion", "expected 2")
    media_type = top.optional_string("mediaType")
    if media_type is None:
        return default
    if media_type not in allowed:
        raise top.error("mediaType", f"{shown(media_type)} was not expected here")
    return media_type


def _descriptor(item: JsonObject) -> Descriptor:
    platform = item.optional_object("platform")
    return Descriptor(
        item.string("mediaType"),
        item.digest("digest"),
        item.integer("size"),
        item.strings("annotations"),
        Platform(platform.string("os"), platform.string("architecture"), platform.optional_string("variant") or "")
        if platform.value else None,
        item.optional_string("artifactType"),
        item.string_list("urls"),
    )


def _document(data: bytes, name: str) -> JsonObject:
    return parse_object(data, name, MAX_DOCUMENT, OciError)
