# SPDX-License-Identifier: Apache-2.0
"""The machine as plans see it, and what follows from that alone: who is who, what stays, what may go.

Everything here is pure, so that whoever explains a decision asks the same functions as whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from .records import OwnKargs, Record, Trial


@dataclass(frozen=True, slots=True)
class Entry:
    """A boot entry of ours as found on the ESP: `counted` while it has a boot counter, `failed` when that is used up,
    `bad` then and when the loader passes the entry over, `kernel` the name below `EFI/bootcd` that it starts."""

    file_name: str
    generation: int
    short_id: str
    bad: bool = False
    counted: bool = False
    failed: bool = False
    kernel: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Aside:
    """State from before a reset: the /etc of deployment `id`, or the shared /var where that is empty, as it was until
    generation `generation`."""

    generation: int
    id: str = ""


@dataclass(frozen=True)
class Facts:
    """The machine as it is.

    `entries` are ours in the loader's order, the default first. `kernels` maps names below `EFI/bootcd` to bytes used,
    `partial` are those of them that an interrupted copy left incomplete, `foreign` those that entries of others name,
    `esp_free` is how many bytes more kernels may take there. `state`, `names` and `tags` are what exists for
    collection: state directories, image names and OCI tags of ours. `images` are the ids whose image is in the
    repository, `damaged` those whose record cannot be read. `aside` is the state that resets have left and that no
    running system is in.
    """

    records: Mapping[str, Record]
    entries: tuple[Entry, ...] = ()
    booted: str | None = None
    last_generation: int = 0
    kernels: Mapping[str, int] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    esp_free: int = 0
    state: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()
    aside: frozenset[Aside] = frozenset()

    def deployed(self) -> list[Record]:
        """Deployments with an entry, in the order in which the loader tries them."""
        return list(self._deployed)

    @cached_property
    def _deployed(self) -> tuple[Record, ...]:
        found = (self.of_entry(entry) for entry in self.entries)
        return tuple({record.id: record for record in found if record is not None}.values())

    def of_entry(self, entry: Entry) -> Record | None:
        return self._by_short_id.get(entry.short_id)

    @cached_property
    def _by_short_id(self) -> dict[str, Record]:
        return {record.short_id: record for record in self.records.values()}

    @property
    def staged(self) -> Record | None:
        """The deployment that waits to be finalized; the newer one, should a replacement have stopped half-way."""
        waiting = [record for record in self.records.values() if record.generation is None]
        return max(waiting, key=lambda record: record.staged, default=None)

    @property
    def resetting(self) -> Record | None:
        """The record that says that the next finalize makes state anew."""
        return next((record for record in self.records.values() if record.reset), None)

    @property
    def default(self) -> Record | None:
        deployed = self.deployed()
        return deployed[0] if deployed else None

    @property
    def next(self) -> Record | None:
        """What boots next as far as that is decided: the staged deployment unless it is only downloaded, or the
        default."""
        staged = self.staged
        return staged if staged is not None and not staged.locked else self.default

    @property
    def current(self) -> Record | None:
        """The deployment that changes start from: the booted one, or what would boot."""
        return self.records.get(self.booted or "") or self.default

    @property
    def rollback(self) -> Record | None:
        """Where `rollback` goes: the first after the default in the loader's order that is not known to be bad."""
        return next((record for record in self.deployed()[1:] if not self.is_bad(record)), None)

    @property
    def last_good(self) -> Record | None:
        """The first in the loader's order that is known to be good: what is left if all before it fail."""
        return next((record for record in self.deployed() if record.health == "good" and not self.is_bad(record)), None)

    def entries_of(self, record: Record) -> list[Entry]:
        return [entry for entry in self.entries if record.id.startswith(entry.short_id)]

    def trial(self, record: Record) -> tuple[Trial, Entry] | None:
        """The kernel arguments that a deployment is on trial with, and their entry, which the loader may have given up;
        None when there is none."""
        entries = {entry.generation: entry for entry in self.entries_of(record)} if record.trials else {}
        return next(((trial, entries[trial.generation]) for trial in reversed(record.trials)
                     if trial.generation in entries), None)

    def own_kargs(self, record: Record) -> OwnKargs:
        """The arguments of the machine that a deployment boots with next: those on trial, unless that has failed."""
        found = self.trial(record)
        return record.own if found is None or found[1].bad else found[0].own

    def is_bad(self, record: Record) -> bool:
        """Whether a deployment is known not to boot."""
        found = self.entries_of(record)
        return record.health == "bad" or (bool(found) and all(entry.bad for entry in found))

    def has_failed(self, record: Record) -> bool:
        """Whether a deployment was tried and did not boot, which repairing its files would not change."""
        found = self.entries_of(record)
        return record.health == "bad" or (bool(found) and all(entry.failed for entry in found))

    def has_kernel(self, record: Record) -> bool:
        """Whether what a deployment boots from is on the ESP."""
        return all(name in self.kernels and name not in self.partial for name in kernel_names(record))

    def orphans(self) -> list[Entry]:
        """Entries of ours that no record belongs to: of another installation on the same ESP, or of a deployment whose
        record is damaged or lost. They are left alone, and so is all that they need."""
        return [entry for entry in self.entries if self.of_entry(entry) is None]


def with_generations(records: Mapping[str, Record], entries: Iterable[Entry]) -> dict[str, Record]:
    """Records as the entries show them: who has an entry is deployed, even if the note of its generation failed."""
    generations: dict[str, int] = {}
    for entry in entries:
        generations[entry.short_id] = max(entry.generation, generations.get(entry.short_id, 0))
    return {
        key: replace(record, generation=generations[record.short_id], locked=False)
        if record.generation is None and record.short_id in generations else record
        for key, record in records.items()
    }


def kept(facts: Facts, keep_previous: int) -> dict[str, str]:
    """Which deployments stay, by id, each with the first reason."""
    reasons: dict[str, str] = {}

    def keep(record: Record | None, why: str) -> None:
        if record is not None:
            reasons.setdefault(record.id, why)

    keep(facts.records.get(facts.booted or ""), "booted")
    keep(facts.default, "default")
    keep(facts.staged, "staged")
    for record in facts.records.values():
        if record.pins:
            keep(record, "pinned")
    if facts.current is not None and facts.current.health != "good":
        keep(facts.last_good, "last good")
    previous = [record for record in facts.deployed() if reasons.get(record.id) not in ("booted", "default")]
    previous.sort(key=facts.is_bad)
    for record in previous[:keep_previous]:
        keep(record, "previous")
    return reasons


def outlived(facts: Facts) -> list[Aside]:
    """State from before resets that may go: a deployment that came after it, or with it, is known to be good."""
    good = max((record.generation or 0 for record in facts.records.values() if record.health == "good"), default=0)
    return sorted(aside for aside in facts.aside if aside.generation <= good)


def spare(facts: Facts, coming: str = "") -> list[Record]:
    """Deployments that may go when there is no room otherwise, oldest first: neither booted, default, pinned, nor the
    last good one. The staged one comes last, and only to make room for another, whose id is `coming` if it is known."""
    fixed = {record.id for record in (facts.default, facts.last_good) if record is not None} | {facts.booted, coming}
    found = [old for old in reversed(facts.deployed()) if not old.pins and old.id not in fixed]
    return found + [old for old in facts.records.values() if old.generation is None and old.id != coming]


def without(facts: Facts, gone: Iterable[Record]) -> Facts:
    """The machine as it is once these deployments have no entry and no record."""
    ids = {record.id for record in gone}
    left = {key: record for key, record in facts.records.items() if key not in ids}
    entries = tuple(entry for entry in facts.entries if not any(name.startswith(entry.short_id) for name in ids))
    return replace(facts, records=left, entries=entries)


def kernel_names(record: Record) -> tuple[str, ...]:
    """The names below `EFI/bootcd` that a deployment boots from."""
    return (f"{record.id}.efi",) if record.boot_type == "uki" else (record.boot_digest,)


def kernels_of_others(facts: Facts) -> set[str]:
    """Names below `EFI/bootcd` that entries need which are not ours to judge."""
    return {*facts.foreign, *(entry.kernel for entry in facts.orphans() if entry.kernel is not None)}
