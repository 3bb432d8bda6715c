# SPDX-License-Identifier: Apache-2.0
"""Which delta there is for the layers that an image lacks, and what it has for each of them.

One may be all that the source has, such as a file on a stick (`FetchedManifest.delta`). Others are attached to an image
at its registry; of those that lead from an image that is here, the one is chosen with which the fewest bytes are
fetched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import BootcdError, DeltaUnusable
from ..formats import tardiff
from ..formats.oci import DELTA, Descriptor
from ..formats.ocidelta import Delta
from ..model import size_text
from ..registry.partial import Partials
from ..registry.referrers import artifacts
from ..registry.sources import Source
from ..store.ociimages import OciImages
from ..store.oldfiles import OldFiles, has_files
from ..store.repository import Repository

SMALL = 1 << 20
"""Compressed bytes that are missing and for which nobody asks for deltas."""

_WORTH = 0.9
"""Share of a layer that its delta may have at most; above, the whole of it comes faster."""

_MANIFESTS = 1 << 20
"""Bytes of the manifests of all deltas together that are looked at; one has about 400 for each layer."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of the deltas that are attached to an image. `says` is about each of them, and about what was in the
    way of asking for more."""

    delta: Delta | None = None
    files: OldFiles | None = None
    digest: str = ""
    """Of the delta as an artifact."""
    says: tuple[str, ...] = ()


def choose(
    repository: Repository, source: Source, digest: str, missing: Collection[Descriptor], partials: Partials,
) -> Choice:
    """Ask the registry for deltas to the image `digest`, and choose one, if it saves something. Whatever is wrong is
    said in what is returned."""
    least = partials.to_come(missing)
    if least < SMALL:
        return Choice(says=(f"no deltas are asked for when less than {size_text(SMALL)} are missing",))
    chosen, says = Choice(), []
    try:
        for found in artifacts(source, digest, DELTA, _MANIFESTS):
            name = found.descriptor.digest
            try:
                delta = Delta.of(found.manifest)
                files = old_files(repository, delta)
            except BootcdError as error:
                says.append(f"delta {name}: {error}")
                continue
            size = partials.to_come(part_of(delta, descriptor) for descriptor in missing)
            says.append(f"delta {name}, made from {delta.origin}: with it {size_text(size)} are fetched")
            if size < least:
                least, chosen = size, Choice(delta, files, name)
    except BootcdError as error:
        says.append(f"no deltas are looked for any more: {error}")
    return Choice(chosen.delta, chosen.files, chosen.digest, tuple(says))


def part_of(delta: Delta | None, descriptor: Descriptor) -> Descriptor:
    """What to fetch of a layer: the layer itself, unless an attached delta saves something."""
    part = delta.layers.get(descriptor.digest) if delta is not None else None
    if part is None or part.media_type != tardiff.MEDIA_TYPE or part.size > descriptor.size * _WORTH:
        return descriptor
    return part


def check_delta(repository: Repository, delta: Delta, missing: Iterable[tuple[Descriptor, str]]) -> OldFiles | None:
    """The old files that the layers that are missing are made of, if any. Raises DeltaUnusable when one of them cannot
    be made: the delta has nothing of it, or is made from an image that is not here."""
    parts = []
    for descriptor, _ in missing:
        part = delta.layers.get(descriptor.digest)
        if part is None:
            raise DeltaUnusable(f"the delta to image {delta.target} has nothing of layer {descriptor.digest}, which is "
                                f"not here either; it is made from {delta.origin}")
        parts.append(part)
    if any(part.media_type == tardiff.MEDIA_TYPE for part in parts):
        return old_files(repository, delta)
    return None


def old_files(repository: Repository, delta: Delta) -> OldFiles:
    """The files of the image that a delta is made from. Raises DeltaUnusable when it is not here, or not all of it."""
    digest = delta.source_config
    images = OciImages(repository)
    if not digest and delta.source and images.has(delta.source):
        digest = images.manifest(delta.source).config.digest
    if not digest or not has_files(repository, digest):
        raise DeltaUnusable(f"the delta to image {delta.target} is made from {delta.origin}, which is not here")
    return OldFiles(repository, digest)
