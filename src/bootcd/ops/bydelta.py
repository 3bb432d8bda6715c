# SPDX-License-Identifier: Apache-2.0
"""Import a layer by what a delta has to make it out of an image that is here.

There are two kinds of deltas (`deltas`). One is all that the source has: then it has to do. The other ones are attached
to an image at its registry; they save bytes or do nothing, as `byfile` does: whatever is in the way ends with a note,
and the layer is fetched otherwise. Either way it is verified by its diff ID as ever, and nothing else
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
from ..formats.oci import Descriptor
from ..linux.room import Guard
from ..model import Progress
from ..registry.blob import Hold, LayerReader
from ..registry.carried import is_remote
from ..registry.partial import Partial, Partials
from ..registry.sources import FetchedManifest, Source
from ..registry.tarpatch import patched
from ..store.layers import LayerStats, import_layer
from ..store.repository import Repository
from .deltas import check_delta, choose, part_of
from .savings import FINAL, Savings

log = logging.getLogger(__name__)

_UNPACKED = 16
"""How many times its compressed size a layer may have, if it is made with a delta that is attached to an image: whoever
attached it may have nothing in mind but to fill the disk. Layers with more zeros come whole."""

_WRONG = (FormatError, ImageUnusable, IntegrityError)
"""What wrong bytes may lead to."""


class ByDelta:
    """For the `missing` layers of one pull, several at a time."""

    def __init__(
        self, repository: Repository, source: Source, fetched: FetchedManifest,
        missing: Iterable[tuple[Descriptor, str]], config: Config, guard: Guard, progress: Progress,
        hold: Hold, partials: Partials, savings: Savings,
    ) -> None:
        """Raises DeltaUnusable."""
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
            missing = [descriptor for descriptor, _ in self._missing]
            choice = choose(self._repository, self._source, self._digest, missing, self._partials)
            self._delta, self._files = choice.delta, choice.files
            for line in choice.says:
                log.info("%s: %s", self._source.reference, line)

    def import_layer(self, descriptor: Descriptor, diff_id: str) -> LayerStats | None:
        """None when the layer has to be fetched otherwise. Raises RootFull, and what reading the delta raises when
        there is nothing else."""
        if self._is_only:
            return self._from_the_only(descriptor, diff_id)
        part = part_of(self._delta, descriptor)
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

    def _note(self, descriptor: Descriptor, what: str) -> None:
        self._progress.note(f"Layer {descriptor.digest} {what}")
