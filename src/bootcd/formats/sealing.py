# SPDX-License-Identifier: Apache-2.0
"""Digests that an image, or an artifact about it, states of itself: composefs' metadata for OCI images.

    composefs.merged.erofs.v1.fsverity-sha512-12            the whole tree as an EROFS image of format 1
    composefs.merged.bootable.erofs.v1.fsverity-sha512-12   the same as it boots
    composefs.config.fsverity-sha512-12                     the config, byte for byte
    composefs.manifest.fsverity-sha512-12                   the manifest, byte for byte; only in an artifact
    composefs.layer.erofs.v1.fsverity-sha512-12             one layer; only in the image

These are annotations. In the image they stand at what they are about: at the descriptor of the config or of a layer,
or, of the whole tree, at the top. In an artifact of type ARTIFACT, whose subject is the manifest, each stands at a
layer of its own, in the order manifest, config, merged, bootable; its content is a signature for the kernel, or
nothing.

What is written here has no signatures. Digests of single layers are neither written nor read: no machine mounts them,
and that of the whole tree covers all of them. Other formats and block sizes are for other readers, and so are keys that
are not known.

Source: composefs-rs 0.9 (composefs-oci/src/sealing_spec.rs).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from ..errors import OciError
from .documents import shown
from .fsverity import Algorithm
from .oci import Manifest

ARTIFACT = "application/vnd.composefs.metadata.v1"
"""Type of an artifact with digests."""
SIGNATURE = "application/vnd.composefs.signature.v1+pkcs7"
"""Media type of its layers."""

_KEY = re.compile(r"composefs\.(manifest|config|merged|merged\.bootable)(\.erofs\.v1)?\.fsverity-(sha256|sha512)-12")


class Role(Enum):
    """What a digest is of; the values stand in keys. In the order of an artifact."""

    MANIFEST = "manifest"
    CONFIG = "config"
    MERGED = "merged"
    BOOTABLE = "merged.bootable"

    @property
    def is_image(self) -> bool:
        """Whether it is of an EROFS image, and not of a document."""
        return self in (Role.MERGED, Role.BOOTABLE)


@dataclass(frozen=True, slots=True)
class Stated:
    """A digest that is stated; `origin` says where."""

    role: Role
    algorithm: Algorithm
    digest: bytes
    origin: str


def key(role: Role, algorithm: Algorithm) -> str:
    """The annotation for a digest."""
    return f"composefs.{role.value}{'.erofs.v1' if role.is_image else ''}.{algorithm.identifier}"


def of_image(manifest: Manifest) -> tuple[Stated, ...]:
    """What an image states of itself. Raises OciError for what is no digest."""
    at_top = _stated(manifest.annotations, "the annotations of the image")
    at_config = _stated(manifest.config.annotations, "the annotations of its config")
    return (*(one for one in at_config if one.role is Role.CONFIG), *(one for one in at_top if one.role.is_image))


def of_artifact(manifest: Manifest, origin: str) -> tuple[Stated, ...]:
    """What an artifact states. Raises OciError for what is no digest."""
    return tuple(one for layer in manifest.layers for one in _stated(layer.annotations, origin))


def _stated(annotations: Mapping[str, str], origin: str) -> Iterator[Stated]:
    for name, value in annotations.items():
        match = _KEY.fullmatch(name)
        if match is None:
            continue
        role, algorithm = Role(match[1]), Algorithm.parse(match[3])
        if role.is_image != (match[2] is not None):
            continue
        if not re.fullmatch(rf"[0-9a-f]{{{2 * algorithm.digest_size}}}", value):
            raise OciError(f"{origin}: {name}: {shown(value)} is no digest")
        yield Stated(role, algorithm, bytes.fromhex(value), origin)
