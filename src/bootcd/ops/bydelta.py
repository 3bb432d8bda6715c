# SPDX-License-Identifier: Apache-2.0
"""Import a layer by what a delta has to make it out of an image that is here.

There are two kinds of deltas. One is all that the source has, such as a file on a stick: then it has to do. The other
ones are attached to an image at its registry; they save bytes or do nothing, as `byfile` does: whatever is in the way
ends with a note, and the layer is fetched otherwise. Either way it is verified by its diff ID as ever, and nothing else
that a delta says counts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

from ..config import Config
from ..errors import (
    BootcdError,
    DeltaUnusable,
    DiffIdMismatch,
    FormatError,
    ImageUnusable,
    IntegrityError,
)
from ..formats import tardiff
from ..formats.oci import DELTA, Descriptor
from ..formats.ocidelta import Delta
from ..linux.room import Guard
from ..model import Progress
from ..registry.blob import Hold, LayerReader
from ..registry.carried import is_remote
from ..registry.partial import Partial, Partials
from ..registry.referrers import artifacts
from ..registry.sources import FetchedManifest, Source
from ..registry.tarpatch import patched
from ..store.layers import LayerStats, import_layer
from ..store.ociimages import OciImages
from ..store.oldfiles import OldFiles, has_files
from ..store.repository import Repository
from .savings import FINAL, Savings

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Compressed bytes that are missing and for which nobody asks for deltas."""

_WORTH = 0.9
"""Share of a layer that its delta may have at most; above, the whole of it comes faster."""

_UNPACKED = 16
"""How many times its compressed size a layer may have, if it is made with a delta that is attached to an image: whoever
attached it may have nothing in mind but to fill the disk. Layers with more zeros come whole."""

_MANIFESTS = 1 << 20
"""Bytes of the manifests of all deltas together that are looked at; one has about 400 for each layer."""

_WRONG = (FormatError, ImageUnusable, IntegrityError)
"""What wrong bytes may lead to."""


class ByDelta:
    """For the `missing` layers of one pull, several at a time."""

    def __init__(
        self, repository: Repository, source: Source, fetched: FetchedManifest,
        missing: Iterable[tuple[Descriptor, str]], config: Config, guard: Guard, progress: Progress,
        hold: Hold, partials: Partials, savings: Savings,
    ) -> None:
        """Raises as `check_delta`."""
        self._repository = repository
        self._source = source
        self._digest = fetched.digest
        self._missing = tuple(missing)
        self._max_size = config.pull_max_layer_size
        self._guard = guard
        self._progress = progress
        self._hold = hold
        self._partials = partials
        self._savings = savings
        self._delta = fetched.delta
        self._files = check_delta(repository, fetched.delta, self._missing) if fetched.delta is not None else None
        self._is_only = fetched.delta is not None
        self._is_settled = self._is_only or not config.pull_deltas or not is_remote(source)

    def look(self) -> None:
        """See which deltas are attached to the image, the first time, and choose one. Asks the registry in the thread
        of the caller, who can be interrupted; whatever is wrong is noted in the log."""
        if not self._is_settled:
            self._is_settled = True
            size = self._size(None)
            if size >= SMALL:
                self._choose(size)

    def import_layer(self, descriptor: Descriptor, diff_id: str) -> LayerStats | None:
        """None when the layer has to be fetched otherwise. Raises RootFull, and what reading the delta raises when
        there is nothing else."""
        if self._is_only:
            return self._from_the_only(descriptor, diff_id)
        part = self._part(self._delta, descriptor)
        if part is descriptor:
            return None
        if not self._savings.risk(part.size):
            self._note(descriptor, "is made without the delta: if that went wrong, it would be more than max-download")
            return None
        self._note(descriptor, f"is made with a delta: {part.size} of its {descriptor.size} bytes")
        return self._try(descriptor, part, diff_id)

    def drop(self) -> bool:
        """Use no attached delta from now on. Returns whether there was one in use."""
        if self._is_only or self._delta is None:
            return False
        self._delta = None
        self._progress.note("The delta is left aside: there is no room for what it makes.")
        return True

    def _try(self, descriptor: Descriptor, part: Descriptor, diff_id: str) -> LayerStats | None:
        """A layer by an attached delta. What was kept of that and is wrong is fetched anew, once."""
        max_size = min(self._max_size, descriptor.size * _UNPACKED)
        while True:
            partial = self._partials.of(part)
            try:
                stats = self._import(descriptor, part, diff_id, max_size, partial)
            except FINAL:
                raise
            except BootcdError as error:
                if isinstance(error, _WRONG):
                    self._partials.remove(part.digest)
                    if partial is not None and partial.resumed and self._savings.risk(part.size):
                        self._note(descriptor, f"has a delta of which what was kept is wrong; it is fetched anew: "
                                               f"{error}")
                        continue
                self._note(descriptor, f"is fetched otherwise after all: {error}")
                return None
            self._partials.remove(part.digest)
            return stats

    def _from_the_only(self, descriptor: Descriptor, diff_id: str) -> LayerStats:
        assert self._delta is not None
        try:
            return self._import(descriptor, self._delta.layers[descriptor.digest], diff_id, self._max_size, None)
        except DeltaUnusable as error:
            raise DeltaUnusable(f"{self._source.reference}: layer {descriptor.digest}: {error}") from None
        except DiffIdMismatch as error:
            raise DiffIdMismatch(str(error), advice="The delta does not lead to the image that it names; take the "
                                 "whole image.") from None

    def _import(self, descriptor: Descriptor, part: Descriptor, diff_id: str, max_size: int, partial: Partial | None,
                ) -> LayerStats:
        """A layer, of what a delta has for it."""
        unpack = None
        if part.media_type == tardiff.MEDIA_TYPE:
            assert self._files is not None
            unpack = functools.partial(patched, files=self._files)
        ahead = descriptor.size - part.size
        self._progress.advance(ahead)
        with self._hold(LayerReader(self._source, part, diff_id, max_size=max_size, progress=self._progress,
                                    partial=partial, unpack=unpack)) as reader:
            try:
                stats = import_layer(self._repository, diff_id, self._guard.counting(reader.read))
            except BootcdError:
                reader.close()
                self._progress.advance(-ahead - reader.received)
                here = partial.resumed if partial is not None else 0
                self._savings.count(wasted=reader.received - here, risked=part.size)
                raise
        self._savings.count(saved=ahead, resumed=partial.resumed if partial is not None else 0, risked=part.size)
        return stats

    def _choose(self, least: int) -> None:
        """Take the delta with which the fewest bytes are fetched, and less than `least`."""
        try:
            for found in artifacts(self._source, self._digest, DELTA, _MANIFESTS):
                try:
                    delta = Delta.of(found.manifest)
                    files = old_files(self._repository, delta)
                except BootcdError as error:
                    log.info("%s: delta %s: %s", self._source.reference, found.descriptor.digest, error)
                    continue
                size = self._size(delta)
                if size < least:
                    least, self._delta, self._files = size, delta, files
        except BootcdError as error:
            log.info("%s: no deltas are looked for any more: %s", self._source.reference, error)

    def _size(self, delta: Delta | None) -> int:
        """Bytes that are fetched with a delta."""
        return self._partials.to_come(self._part(delta, descriptor) for descriptor, _ in self._missing)

    @staticmethod
    def _part(delta: Delta | None, descriptor: Descriptor) -> Descriptor:
        """What to fetch of a layer: the layer itself, unless a delta saves something."""
        part = delta.layers.get(descriptor.digest) if delta is not None else None
        if part is None or part.media_type != tardiff.MEDIA_TYPE or part.size > descriptor.size * _WORTH:
            return descriptor
        return part

    def _note(self, descriptor: Descriptor, what: str) -> None:
        self._progress.note(f"Layer {descriptor.digest} {what}")


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
