# SPDX-License-Identifier: Apache-2.0
"""Images in the repository that are no deployments (yet): pull, list, inspect, mount, import, remove."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import BinaryIO

from ..errors import ImageNotFound, Refused, UsageError
from ..formats import oci
from ..layout import TAG_PREFIX
from ..linux import files, mount
from ..model import ImageReference, Platform
from ..store.layers import import_layer
from ..store.ociimages import check_tag
from . import describe
from .admit import Verification, admit, judge
from .last import now
from .machine import Machine
from .pull import check_size, examine, pull, source_of
from .results import ImageInfo, ImageSignature, PullResult, PullStats, RequirementInfo, TrustReport
from .session import store
from .stated import check_images
from .uncompressed import Uncompressed

_LAYER = "application/vnd.oci.image.layer.v1.tar"


def image_pull(machine: Machine, image: str, *, name: str, bootable: bool) -> PullResult:
    """Pull an image under a name of its own, which keeps it until it is removed."""
    reference = ImageReference.parse(image)
    tag = name or str(reference)
    _check_name(tag)
    with store(machine) as session, source_of(reference, machine.config) as source:
        offer = examine(session.repository, source, admit(machine, source))
        check_size(source, offer, machine.config, session.partials)
        stats = pull(session.repository, source, offer, config=machine.config, progress=session.progress,
                     partials=session.partials, make_room=session.partials.clear)
        session.progress.begin("Composing the image")
        ids = session.images.commit_images(offer.fetched.digest, boot=bootable)
        check_images(str(reference), offer.stated, session.images, session.repository, offer.fetched.digest, ids)
        session.images.tag(offer.fetched.digest, tag)
        return PullResult(describe.image(session.images.inspect(tag), tag), stats)


def image_verify(machine: Machine, image: str) -> TrustReport:
    """What the policy says of an image, without taking it. Raises what reading the source and the policy raises."""
    reference = ImageReference.parse(image)
    with source_of(reference, machine.config) as source:
        fetched = source.manifest(Platform.current())
        judgement = judge(machine, source, fetched)
    verification = Verification.of(judgement) if judgement.accepted else Verification("rejected")
    return TrustReport(
        image=str(reference), manifest_digest=fetched.digest, reference_digest=fetched.reference_digest,
        accepted=judgement.accepted, policy=judgement.file, scope=judgement.scope, verification=verification.kind,
        signed_by=verification.signed_by,
        requirements=tuple(RequirementInfo(one.requirement, one.holds, tuple(
            ImageSignature(found.origin, found.signer, found.reason) for found in one.findings))
            for one in judgement.outcomes))


def image_list(machine: Machine) -> tuple[ImageInfo, ...]:
    """Every name, those of deployments included."""
    with store(machine, write=False) as session:
        return tuple(describe.image(stored, tag) for stored in session.images.list() for tag in stored.tags)


def image_inspect(machine: Machine, name: str) -> ImageInfo:
    """One image."""
    with store(machine, write=False) as session:
        return describe.image(session.images.inspect(name), name)


def image_mount(machine: Machine, name: str, directory: str, *, bootable: bool) -> None:
    """Mount the EROFS image of an OCI image, with the objects below it, read-only."""
    with store(machine, write=False) as session:
        ids = session.images.inspect(name).images
        digest = ids.boot_image if bootable else ids.image
        if digest is None:
            raise ImageNotFound(f"image '{name}' has no {'boot ' if bootable else ''}image",
                                advice=f"'bootcctl image pull{' --bootable' if bootable else ''}' makes it.")
        descriptor = session.repository.images.mount(digest)
        try:
            mount.attach(descriptor, directory)
        finally:
            os.close(descriptor)


def image_import_tar(machine: Machine, tar: str, name: str) -> PullResult:
    """Make an OCI image of one layer from a tar file, plain or compressed."""
    _check_name(name)
    with store(machine) as session, contextlib.ExitStack() as stack:
        if tar == "-":
            stream: BinaryIO = sys.stdin.buffer
        else:
            with files.translate(f"cannot read {tar}", named=True):
                stream = stack.enter_context(open(tar, "rb"))
        hashed = Uncompressed(stream, tar, machine.config.pull_max_layer_size)
        session.progress.begin("Importing the tar file")
        stats = import_layer(session.repository, hashed.digest, hashed.read)
        diff_id = hashed.digest()
        config = _document({
            "architecture": Platform.current().architecture, "os": "linux", "created": now(), "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        })
        images = session.images
        config_digest = images.put_config(config)
        manifest = _document({
            "schemaVersion": 2, "mediaType": oci.MANIFEST,
            "config": {"mediaType": oci.CONFIG, "digest": config_digest, "size": len(config)},
            "layers": [{"mediaType": _LAYER, "digest": diff_id, "size": hashed.size}],
        })
        digest = images.put_manifest(manifest)
        images.commit_images(digest, boot=False)
        images.tag(digest, name)
        return PullResult(describe.image(images.inspect(name), name), PullStats(
            layers=1, layers_fetched=1, downloaded=hashed.size, objects_written=stats.objects_written,
            object_bytes_written=stats.bytes_written, objects_reused=stats.objects_reused,
            object_bytes_reused=stats.bytes_reused,
        ))


def image_remove(machine: Machine, name: str) -> None:
    """Take a name away. Raises Refused for the names by which deployments are kept, ImageNotFound."""
    if name.startswith(TAG_PREFIX):
        raise Refused(f"'{name}' belongs to a deployment", advice="It goes with the deployment.")
    with store(machine) as session:
        if not session.images.untag(name):
            raise ImageNotFound(f"the repository has no image '{name}'")


def _check_name(name: str) -> None:
    check_tag(name)
    if name.startswith(TAG_PREFIX):
        raise UsageError(f"names that begin with '{TAG_PREFIX}' belong to deployments")


def _document(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
