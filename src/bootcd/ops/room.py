# SPDX-License-Identifier: Apache-2.0
"""Room for an image before it is downloaded, and while it is.

What a layer takes when it is unpacked is not in its manifest, and of files that are here already it takes nothing. So
an image is refused before the download only when it cannot fit whatever it shares; everything else is found out while
it comes, early enough that the machine does not run full (`linux.room.Guard`). What is collected for it: first what
nothing needs, then what has come of its layers, and then one deployment after the other, the oldest first, as
`deploy.facts.spare` has them.

The boot partition is exact where the image says what it needs there, by these annotations or labels:

    org.bootcd.boot-size      bytes of kernel and initrd, or of the UKI with its addons
    org.bootcd.boot-digest    the boot digest of kernel and initrd; an image without it is taken to share none

Where it says nothing, the kernel of the current deployment is the guess. A guess makes what nothing needs go, but no
deployment, and refuses nothing.
"""

from __future__ import annotations

from ..deploy import plan
from ..deploy.facts import Facts, kernel_names, spare, without
from ..errors import BootcdError, EspFull, RootFull
from ..linux.room import Guard
from ..registry.partial import UNPACKED
from ..store.layers import layer_name
from . import collect
from .pull import Offer
from .session import Session

_FILE = 8 << 10
"""Compressed bytes for each of its files, or more."""


class Way:
    """What can be cleared out of the way of an image that is being pulled; none of its layers is among it."""

    def __init__(self, session: Session, offer: Offer) -> None:
        self._session = session
        self._streams = [layer_name(diff_id) for _, diff_id in offer.layers]
        self._blobs = [descriptor.digest for descriptor, _ in offer.missing]
        self._tidy = False

    def tidy(self) -> bool:
        """Remove what nothing needs, as far as that is possible now. Returns whether there was anything."""
        self._tidy = True
        found = collect.collect_if_free(self._session, self._streams, self._blobs)
        return found is not None and (found.objects > 0 or bool(found.items))

    def make(self) -> bool:
        """Remove what nothing needs; when that has been done, what has come of the layers, which are not kept from then
        on; then the oldest deployment that may go, and what only it needed. False when there is nothing more."""
        tidy = self._tidy
        if self.tidy() and not tidy:  # later it is only what the layers have left that did not fit
            return True
        if self._session.partials.clear():
            return True
        facts = self._session.facts()
        for victim in spare(facts)[:1]:
            self._session.progress.note(f"Deployment {victim.short_id} goes: there is no room for the new one.")
            self._session.run(plan.plan_drop(facts, victim))
            self.tidy()
            return True
        return False

    def could_make(self) -> int:
        """How many bytes would be free if `make` were called until it is of no more use."""
        facts = self._session.facts()
        try:
            result = collect.collect(self._session, dry_run=True, facts=without(facts, spare(facts)),
                                     streams=self._streams)
            return result.object_bytes + sum(self._session.partials.sizes().values())
        except BootcdError as error:
            self._session.progress.note(f"No room can be made: {error}")
            return 0


def prepare(session: Session, offer: Offer) -> Way:
    """Make room for what is to come as far as that can be known. Raises RootFull and EspFull, with the sums, before
    anything is removed, when it cannot fit."""
    way = Way(session, offer)
    session.boot.clean()
    if offer.missing:
        _on_root(session, offer, way)
    _on_esp(session, session.facts(), offer, way)
    return way


def _on_root(session: Session, offer: Offer, way: Way) -> None:
    guard = Guard(session.repository.path)
    size = offer.download_size
    if guard.fits(size * UNPACKED, size // _FILE):
        return
    way.tidy()
    # Nothing shrinks when it is unpacked, and nothing can be shared but what is here.
    least = max(size - sum(map(session.repository.objects.size, session.repository.objects.all())), 1)
    if guard.fits(least, 1):
        return
    could = way.could_make()
    if not could or not guard.fits(least - could):
        raise RootFull(f"{session.repository.path}: the image needs at least {least} bytes, {guard.sums()}; {could} "
                       "more could be made free")
    while not guard.fits(least, 1) and way.make():
        pass


def _on_esp(session: Session, facts: Facts, offer: Offer, way: Way) -> None:
    here = {record.manifest_digest for record in facts.records.values() if facts.has_kernel(record)}
    if offer.fetched.digest in here:
        return
    if offer.boot_size is not None:
        if offer.boot_digest not in facts.kernels or offer.boot_digest in facts.partial:
            session.run(plan.plan_room(facts, session.boot.needed([offer.boot_size])))
        return
    if facts.current is None:
        return
    guess = sum(facts.kernels.get(name, 0) for name in kernel_names(facts.current))
    if guess > facts.esp_free and way.tidy():
        facts = session.facts()
    try:
        plan.plan_room(facts, guess)
    except EspFull as error:
        session.progress.note(f"A kernel as large as the present one would not fit: {error}.")
