# SPDX-License-Identifier: Apache-2.0
"""Whether an image is what is stated of it: digests in its annotations, or in an artifact about it (`formats.sealing`).

They are not needed: a machine computes every digest itself. Where they are there, they have to agree, so that an image
that this program reads otherwise than the one that has made it is noticed before it boots. They are as good as who
vouches for the manifest; an artifact is anybody's who may push, so that none can be found does not matter, and one that
disagrees keeps the image out all the same.

Documents are held against their digests before anything large is fetched, trees when they are composed. A digest by
another algorithm than that of the repository is passed over: its tree would have to be read once more as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ..errors import BootcdError, Interrupted, StatedDigestMismatch
from ..formats import sealing
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, measure
from ..formats.sealing import Role, Stated
from ..formats.transform import transform_for_boot
from ..registry.referrers import artifacts
from ..registry.sources import FetchedManifest, Source
from ..store.ociimages import ImageIds, OciImages
from ..store.repository import Repository

log = logging.getLogger(__name__)


def stated(source: Source, fetched: FetchedManifest) -> tuple[Stated, ...]:
    """All that is stated of an image. Raises OciError for a digest that is malformed; what keeps artifacts from being
    found or read is only logged."""
    found = list(sealing.of_image(fetched.manifest))
    try:
        for artifact in artifacts(source, fetched.digest, sealing.ARTIFACT):
            found += sealing.of_artifact(artifact.manifest, f"the artifact {artifact.descriptor.digest}")
    except Interrupted:
        raise
    except BootcdError as error:
        log.info("artifacts with digests are not looked at: %s", error)
    return tuple(found)


def check_documents(what: str, found: Iterable[Stated], manifest: bytes, config: bytes) -> None:
    """Hold manifest and config against what is stated. Raises StatedDigestMismatch."""
    for one in found:
        if one.role is Role.MANIFEST:
            _check(what, one, measure(manifest, one.algorithm))
        elif one.role is Role.CONFIG:
            _check(what, one, measure(config, one.algorithm))


def check_images(what: str, found: Iterable[Stated], images: OciImages, repository: Repository, manifest_digest: str,
                 ids: ImageIds) -> None:
    """Hold the trees of an image that was just composed against what is stated. Raises StatedDigestMismatch, and what
    reading a damaged image raises."""
    wanted = [one for one in found if one.role.is_image and one.algorithm is repository.algorithm]
    if not wanted:
        return
    if repository.version is Version.V1:
        real: Mapping[Role, bytes | None] = {Role.MERGED: ids.image, Role.BOOTABLE: ids.boot_image}
    else:
        real = _digests(images, manifest_digest, repository.algorithm, boot=ids.boot_image is not None)
    for one in wanted:
        digest = real.get(one.role)
        if digest is not None:  # one that is only kept, and not booted, has no image for that
            _check(what, one, digest)


def _digests(images: OciImages, manifest_digest: str, algorithm: Algorithm, *, boot: bool) -> dict[Role, bytes]:
    """In the format that is stated, which is not that of the repository."""
    tree = images.tree(images.manifest(manifest_digest).config.digest)
    found = {Role.MERGED: measure(write_image(tree, Version.V1, algorithm), algorithm)}
    if boot:
        transform_for_boot(tree, images.read_file)
        found[Role.BOOTABLE] = measure(write_image(tree, Version.V1, algorithm), algorithm)
    return found


def _check(what: str, one: Stated, real: bytes) -> None:
    if real != one.digest:
        raise StatedDigestMismatch(
            f"{what}: its {_NAMES[one.role]} has the digest {real.hex()[:12]}, and not {one.digest.hex()[:12]} as in "
            f"{one.origin} ({one.algorithm.identifier})")


_NAMES = {Role.MANIFEST: "manifest", Role.CONFIG: "config", Role.MERGED: "tree", Role.BOOTABLE: "bootable tree"}
