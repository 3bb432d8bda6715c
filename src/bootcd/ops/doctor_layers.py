# SPDX-License-Identifier: Apache-2.0
"""How the layers of an image would come, for `ops.doctor`: by which delta, by file or whole, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..config import Config
from ..errors import BootcdError, DeltaUnusable
from ..formats import tardiff
from ..formats.oci import Descriptor
from ..model import size_text
from ..registry.carried import is_remote
from ..registry.chunked import table_size
from ..registry.sources import FetchedManifest, Ranged, Source
from .deltas import Choice, choose, part_of
from .doctor_places import Telling
from .machine import Machine
from .pull import lacking
from .session import Session, store

BY_DELTA, BY_FILE, WHOLE = "by-delta", "by-file", "whole"
_SHOWN = 20
"""Layers, and deltas, that are listed."""


def tell(
    told: Telling, machine: Machine, source: Source, fetched: FetchedManifest,
    layers: Iterable[tuple[Descriptor, str]],
) -> None:
    """Asks the registry for deltas, as a pull does, but for nothing of a layer. Raises DeltaUnusable, as a pull does;
    where there is no repository, that is told."""
    try:
        with store(machine, write=False) as session:
            _Layers(told, session, source, fetched).tell(tuple(layers))
    except DeltaUnusable:
        raise
    except BootcdError as error:
        told.state = "left-out"
        told.says.append(f"what of the image is here cannot be told: {error}")


class _Layers:
    def __init__(self, told: Telling, session: Session, source: Source, fetched: FetchedManifest) -> None:
        self._told = told
        self._session = session
        self._source = source
        self._fetched = fetched
        self._config: Config = session.config
        self._kept = session.partials.sizes()
        self._ways: Counter[str] = Counter()
        self._size = 0

    def tell(self, layers: tuple[tuple[Descriptor, str], ...]) -> None:
        told = self._told
        missing = [descriptor for descriptor, _ in
                   lacking(self._session.repository, self._source, self._fetched, layers)]
        size = sum(descriptor.size for descriptor in missing)
        told.says.append(f"{len(missing)} of {len(layers)} layers are not here, {size_text(size)}" if missing else
                         "all layers are here")
        choice = self._choice(missing)
        lines = [self._layer(descriptor, choice) for descriptor in missing]
        told.says += lines[:_SHOWN]
        if lines[_SHOWN:]:
            told.says.append(f"and {len(lines) - _SHOWN} more")
        told.facts |= {"missing": str(len(missing)), "missing-size": str(size), "download-size": str(self._size),
                       **{way: str(self._ways[way]) for way in (BY_DELTA, BY_FILE, WHOLE)}}
        if choice.digest:
            told.facts["delta"] = choice.digest

    def _choice(self, missing: list[Descriptor]) -> Choice:
        """Which delta a pull would use, if any is asked for."""
        if not missing or self._fetched.delta is not None or not is_remote(self._source):
            return Choice()
        if not self._config.pull_deltas:
            self._told.says.append("deltas is false in bootcd.toml, so none is asked for")
            return Choice()
        choice = choose(self._session.repository, self._source, self._fetched.digest, missing, self._session.partials)
        self._told.says += choice.says[:_SHOWN] or ("no delta to the image is attached to it",)
        if choice.delta is not None:
            self._told.says.append(f"delta {choice.digest} would be used")
        return choice

    def _layer(self, descriptor: Descriptor, choice: Choice) -> str:
        size = descriptor.size
        if self._fetched.delta is not None:
            part = self._fetched.delta.layers[descriptor.digest]
            return self._way(descriptor, BY_DELTA if part.media_type == tardiff.MEDIA_TYPE else WHOLE, part.size,
                             f"the delta has {size_text(part.size)} for its {size_text(size)}")
        if not is_remote(self._source):
            return self._way(descriptor, WHOLE, size, f"{size_text(size)}, which are on this machine")
        if descriptor.digest in self._kept:
            here = min(self._kept[descriptor.digest], size)
            return self._way(descriptor, WHOLE, size - here,
                             f"an earlier pull has left {size_text(here)} of its {size_text(size)}")
        part = part_of(choice.delta, descriptor)
        if part is not descriptor:
            left = self._session.partials.to_come([part])
            return self._way(descriptor, BY_DELTA, left, f"{size_text(left)} in place of {size_text(size)}")
        reason = self._not_by_file(descriptor)
        if choice.delta is not None:
            reason = f"the delta saves nothing of it, and {reason}" if reason else ""
        if not reason:
            return self._way(descriptor, BY_FILE, size,
                             f"of {size_text(size)} at most what is new; whole if most of it is")
        return self._way(descriptor, WHOLE, size, f"{size_text(size)}: {reason}")

    def _not_by_file(self, descriptor: Descriptor) -> str:
        """Why a layer is not fetched by file, as far as that is known before its table of contents is."""
        if not self._config.pull_by_file:
            return "by-file is false in bootcd.toml"
        if not isinstance(self._source, Ranged):
            return "only a registry gives parts"
        try:
            return "" if table_size(descriptor) else "it is small, or not in the format zstd:chunked"
        except BootcdError as error:
            return str(error)

    def _way(self, descriptor: Descriptor, way: str, size: int, why: str) -> str:
        self._ways[way] += 1
        self._size += size
        return f"layer {descriptor.digest} would come {way.replace('-', ' ')}: {why}"
