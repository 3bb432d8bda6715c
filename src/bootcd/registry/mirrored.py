# SPDX-License-Identifier: Apache-2.0
"""One image that several registries may have: mirrors first, then the registry itself.

What a mirror serves is verified as everything is, so any of them may lie or be empty: the next one is asked then. The
one that delivered the manifest is asked for the blobs first, since it is likely to have them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import BlobMismatch, BootcdError, FormatError, ImageNotFound, SourceError
from ..formats.oci import Descriptor, Manifest
from ..model import ImageReference, Platform
from .sources import BlobStream, FetchedManifest, HasReferrers, Ranged, SourceOptions

log = logging.getLogger(__name__)
T = TypeVar("T")

_NEXT = (SourceError, ImageNotFound, BlobMismatch, FormatError)
"""What another registry may do better."""


class Mirrored:
    """`places` are asked in this order. `reference` is the name that people use, whatever it is called there."""

    def __init__(self, reference: ImageReference, options: SourceOptions, places: Sequence[Ranged]) -> None:
        self.reference = reference
        self.options = options
        self._places = tuple(places)
        self._first = 0
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def manifest(self, platform: Platform) -> FetchedManifest:
        return self._any(lambda place: place.manifest(platform))

    def companion(self, tag: str) -> Manifest:
        return self._any(lambda place: place.companion(tag))

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        def ask(place: Ranged) -> tuple[Descriptor, ...]:
            found = place.referrers(digest, artifact_type) if isinstance(place, HasReferrers) else ()
            if not found:  # a mirror need not have what is attached later
                raise ImageNotFound(f"{place.reference}: nothing is attached", advice="")
            return found

        try:
            return self._any(ask)
        except ImageNotFound:
            return ()

    def artifact(self, descriptor: Descriptor) -> Manifest:
        def ask(place: Ranged) -> Manifest:
            if not isinstance(place, HasReferrers):
                raise ImageNotFound(f"{place.reference}: nothing is attached", advice="")
            return place.artifact(descriptor)

        return self._any(ask)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        with self._lock:
            if descriptor.digest in self._asked:  # it broke off, so another place goes on
                self._first = (self._first + 1) % len(self._places)
            self._asked.add(descriptor.digest)
        return self._any(lambda place: place.blob(descriptor, offset))

    def part(self, descriptor: Descriptor, start: int, size: int) -> BlobStream:
        return self._any(lambda place: place.part(descriptor, start, size))

    def close(self) -> None:
        for place in self._places:
            place.close()

    def _any(self, ask: Callable[[Ranged], T]) -> T:
        """The first answer. Without any, the word of the registry itself counts, which comes last: a mirror that does
        not answer says nothing about what there is. What failed only for now is the caller's to try again."""
        first = self._first
        failed: list[tuple[Ranged, BootcdError]] = []
        for number in range(len(self._places)):
            place = self._places[(first + number) % len(self._places)]
            try:
                found = ask(place)
            except _NEXT as error:
                log.info("%s; asking the next place", error)
                if self.options.observer is not None:
                    self.options.observer.passed_over(place.reference, error)
                failed.append((place, error))
                continue
            with self._lock:
                self._first = (first + number) % len(self._places)
            return found
        own = next(error for place, error in failed if place is self._places[-1])
        others = "; ".join(str(error) for place, error in failed if place is not self._places[-1])
        raise type(own)(f"{own}{', and elsewhere: ' if others else ''}{others}", advice=own.hint)
