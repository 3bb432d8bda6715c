# SPDX-License-Identifier: Apache-2.0
"""Bringing a boot partition up to date that was away, is new or was restored: what it lacks comes from another one.

Only what belongs to deployments of this installation is copied or removed. Entries of others, and those of ours that
lead to no deployment known here, stay as they are, with all that they need.

What boots comes first, and nothing that boots is removed before something newer does: room is made by what nothing
needs; then each entry, the newest first, after its kernel; at last what has been replaced goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..formats.bls import EntryName
from . import entries, kernels
from .entries import OurEntry
from .esp import Esp


@dataclass(frozen=True, slots=True)
class Expected:
    """What should be on every partition. `deployments` has for the first digits of each id, as they stand in the names
    of entries, the generation (None while staged) and the names of kernels. `gone` are entries, by their names without
    counter, that were removed while a partition was away."""

    deployments: Mapping[str, tuple[int | None, tuple[str, ...]]]
    gone: frozenset[str] = frozenset()

    @property
    def kernels(self) -> frozenset[str]:
        """The names of all kernels that deployments boot from."""
        return frozenset(name for _, names in self.deployments.values() for name in names)

    def knows(self, entry: OurEntry) -> bool:
        """Whether an entry is of this installation."""
        return entry.id_prefix in self.deployments

    def drops(self, entry: OurEntry) -> bool:
        """Whether an entry was removed elsewhere, and its deployment, if that is there at all, does not name it."""
        current, _ = self.deployments.get(entry.id_prefix, (None, ()))
        return entry.name.stem in self.gone and entry.generation != current


@dataclass(frozen=True, slots=True)
class Lag:
    """How a partition differs from the one that leads: what it lacks; entries there that are gone elsewhere or that
    something newer has `replaced`, and kernels that are `unneeded`; entries with other counters, as they should be."""

    kernels: tuple[str, ...] = ()
    entries: tuple[OurEntry, ...] = ()
    replaced: tuple[OurEntry, ...] = ()
    unneeded: tuple[str, ...] = ()
    counters: tuple[EntryName, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    @property
    def past(self) -> str:
        """For people, when it is over, such as "lacked 1 kernel and had old 2 boot entries"."""
        return self._told("lacked", "had old", "had")

    def __str__(self) -> str:
        """The same as long as it is so."""
        return self._told("lacks", "has old", "has")

    def _told(self, lacks: str, old: str, has: str) -> str:
        return "; ".join(f"{verb} {' and '.join(filter(None, what))}" for verb, what in (
            (lacks, (_count(self.kernels, "kernel", "kernels"), _count(self.entries, "boot entry", "boot entries"))),
            (old, (_count(self.unneeded, "kernel", "kernels"),
                         _count(self.replaced, "boot entry", "boot entries"))),
            (has, (_count(self.counters, "other boot counter", "other boot counters"),)),
        ) if any(what))


def worth(esp: Esp, expected: Expected) -> tuple[int, int]:
    """How much of what is expected is on a partition: how many deployments can boot from there, and the newest of their
    generations."""
    bootable = {(entry.id_prefix, entry.generation) for entry in entries.list_entries(esp).ours if not entry.problem}
    there = [generation for prefix, (generation, _) in expected.deployments.items()
             if generation is not None and (prefix, generation) in bootable]
    return len(there), max(there, default=0)


def drop_gone(esp: Esp, expected: Expected) -> None:
    """Remove the entries that were removed elsewhere while this partition was away."""
    for entry in entries.list_entries(esp).ours:
        if expected.drops(entry):
            entries.remove_entry(esp, entry.name)


def compare(first: Esp, other: Esp, expected: Expected) -> Lag:
    """What `catch_up` would do. Nothing is read but names, sizes and entries; 'bootcctl fsck' compares contents."""
    lead = [entry for entry in entries.list_entries(first).ours if expected.knows(entry)]
    listing = entries.list_entries(other)
    gone = tuple(entry for entry in listing.ours if expected.drops(entry))
    have = {entry.name.stem: entry for entry in listing.ours if expected.knows(entry) and entry not in gone}
    newest = {entry.id_prefix: entry.generation for entry in reversed(lead) if not entry.problem}
    stems = {entry.name.stem for entry in lead}
    there, here = kernels.list_kernels(first), kernels.list_kernels(other)
    whole = {kernel.name: kernel.size for kernel in here.kernels if kernel.complete}
    contents = (*(entry.content for entry in listing.ours if entry not in gone),
                *(entry.content for entry in listing.foreign))
    named = {kernels.kernel_of(path) for content in contents for path in content.files}
    needed = {*expected.kernels, *named, *(kernel.name for kernel in there.kernels), *there.stray}
    return Lag(
        kernels=tuple(kernel.name for kernel in there.kernels if kernel.complete and kernel.name in expected.kernels
                      and whole.get(kernel.name) != kernel.size),
        entries=tuple(entry for entry in lead if not entry.problem
                      and (entry.name.stem not in have or have[entry.name.stem].content.loader is None)),
        replaced=(*gone, *(entry for stem, entry in have.items()
                           if stem not in stems and entry.generation < newest.get(entry.id_prefix, 0))),
        unneeded=tuple(name for name in (*(kernel.name for kernel in here.kernels), *here.stray) if name not in needed),
        counters=tuple(entries.furthest(entry.name, have[entry.name.stem].name) for entry in lead
                       if entry.name.stem in have and have[entry.name.stem].name != entry.name),
    )


def catch_up(first: Esp, other: Esp, expected: Expected) -> Lag:
    """Make `other` equal to `first`; returns what differed. Raises EspFull and what else writing raises; what was done
    until then stays, and the next time goes on."""
    lag = compare(first, other, expected)
    if not lag:
        return lag
    other.prepare()
    drop_gone(other, expected)
    for name in lag.unneeded:
        kernels.remove_kernel(other, name)
    pending = list(lag.kernels)
    for entry in lag.entries:  # newest first
        if entry.kernel is not None and entry.kernel in pending:
            pending.remove(entry.kernel)
            kernels.copy_kernel(first, other, entry.kernel)
        entries.write_entry(other, entry.name, entry.content)
    for name in pending:
        kernels.copy_kernel(first, other, name)
    for entry in lag.replaced:
        entries.remove_entry(other, entry.name)
    for counter in lag.counters:
        for esp in (first, other):
            entries.set_counter(esp, counter)
    return lag


def _count(found: tuple[object, ...], one: str, several: str) -> str:
    return f"{len(found)} {one if len(found) == 1 else several}" if found else ""
