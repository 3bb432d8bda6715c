# SPDX-License-Identifier: Apache-2.0
"""State the digests of an image in an image layout: in its annotations, or in an artifact about it (`formats.sealing`).

Annotations make another manifest, so they come before signatures, and every tool that copies the image takes them
along. An artifact leaves the image as it is, says something about its manifest as well, and has to be copied by a tool
that knows of such things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NotBootable, UsageError
from ..formats import oci, sealing
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, measure
from ..formats.sealing import Role
from ..formats.transform import XattrMode, transform_for_boot, transform_for_oci
from ..model import ImageReference, Platform
from ..registry.blob import read_blob
from ..registry.opening import open_source
from .imagelayout import Descriptor, document, put_blob, read_index, write_index
from .trees import Pile

WAYS = ("annotations", "artifact")
_EMPTY = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class StatedDigests:
    """What was stated of an image: `merged` is the digest of its tree, `bootable` that of the tree as it boots, empty
    when it does not. `artifact_digest` is that of the artifact, if it is in one."""

    image: str
    manifest_digest: str
    artifact_digest: str
    merged: str
    bootable: str


def add_digests(target: str, *, way: str, algorithm: Algorithm = Algorithm.SHA512) -> StatedDigests:
    """Compute the digests of an image by reading it, and state them.

    Raises UsageError for what is no image in an oci: directory, or an index whose images would need another name;
    PolicyError, and what reading an image and writing a layout raise.
    """
    reference = ImageReference.parse(target)
    if reference.transport != "oci" or reference.digest is not None:
        raise UsageError(f"{target} is no image in a layout", advice="Write oci:DIR[:TAG].")
    source = open_source(reference)
    try:
        fetched = source.manifest(Platform.current())
        config = read_blob(source, fetched.manifest.config, oci.MAX_DOCUMENT)
    finally:
        source.close()
    if fetched.indexes and way == "annotations":
        raise UsageError(f"{target} is an index, which names its images by their digests",
                         advice="Annotate each image before it goes into an index, or take --way artifact.")
    layout = Path(reference.name)
    found = _digests(target, algorithm)
    descriptors, manifest, added = read_index(layout), fetched.data, ""
    if way == "annotations":
        top = json.loads(manifest)
        annotate(top, config, found, algorithm)
        manifest = document(top)
        digest = put_blob(layout, manifest)
        descriptors = [{**one, "digest": digest, "size": len(manifest)} if _is_named(one, fetched.digest, reference.tag)
                       else one for one in descriptors]
    else:
        digest = fetched.digest
        subject = {"mediaType": fetched.manifest.media_type, "digest": digest, "size": len(manifest)}
        artifact = put_artifact(layout, subject, manifest, config, found, algorithm)
        added = artifact["digest"]
        descriptors = [*(one for one in descriptors if one["digest"] != added), artifact]
    write_index(layout, descriptors)
    return StatedDigests(str(reference), digest, added, found[Role.MERGED].hex(),
                         found[Role.BOOTABLE].hex() if Role.BOOTABLE in found else "")


def annotate(manifest: dict[str, Any], config: bytes, digests: Mapping[Role, bytes], algorithm: Algorithm) -> None:
    """Put digests into a manifest, in place of any that it has."""
    def told(annotations: Mapping[str, str] | None, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in (annotations or {}).items()
                if not name.startswith(("composefs.merged.", "composefs.config."))}
        return {**kept, **more}

    manifest["annotations"] = told(manifest.get("annotations"), {
        sealing.key(role, algorithm): digest.hex() for role, digest in digests.items()})
    manifest["config"]["annotations"] = told(manifest["config"].get("annotations"), {
        sealing.key(Role.CONFIG, algorithm): measure(config, algorithm).hex()})


def put_artifact(layout: Path, subject: Descriptor, manifest: bytes, config: bytes, digests: Mapping[Role, bytes],
                 algorithm: Algorithm) -> Descriptor:
    """Write an artifact about the image `subject`, and return what index.json has to have of it."""
    stated = {Role.MANIFEST: measure(manifest, algorithm), Role.CONFIG: measure(config, algorithm), **digests}
    nothing = put_blob(layout, b"")
    data = document({
        "schemaVersion": 2, "mediaType": oci.MANIFEST, "artifactType": sealing.ARTIFACT, "subject": subject,
        "config": {"mediaType": _EMPTY, "digest": put_blob(layout, b"{}"), "size": 2},
        "layers": [{"mediaType": sealing.SIGNATURE, "digest": nothing, "size": 0,
                    "annotations": {sealing.key(role, algorithm): stated[role].hex()}}
                   for role in Role if role in stated]})
    return {"mediaType": oci.MANIFEST, "digest": put_blob(layout, data), "size": len(data),
            "artifactType": sealing.ARTIFACT}


def _digests(target: str, algorithm: Algorithm) -> dict[Role, bytes]:
    pile = Pile(algorithm)
    pile.add_image(target)
    transform_for_oci(pile.root, XattrMode.ALLOWLIST_ONLY)
    found = {Role.MERGED: measure(write_image(pile.root, Version.V1, algorithm), algorithm)}
    try:
        transform_for_boot(pile.root, pile.read)
    except NotBootable:  # an image for containers
        return found
    return {**found, Role.BOOTABLE: measure(write_image(pile.root, Version.V1, algorithm), algorithm)}


def _is_named(one: Descriptor, digest: str, tag: str | None) -> bool:
    return one["digest"] == digest and (tag is None or one.get("annotations", {}).get(oci.REF_NAME) == tag)
