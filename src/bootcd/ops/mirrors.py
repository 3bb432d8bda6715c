# SPDX-License-Identifier: Apache-2.0
"""Keeping the boot partitions of an installation equal: which leads, what the others lack, bringing them up to date.

A change does each of its steps on all of them (`Partitions.each`), so they are equal unless one was away. That one is
brought up to date at the beginning of the next change, before anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import permutations
from typing import TypeVar

from ..boot import loader
from ..boot.equal import Expected, catch_up, compare, drop_gone, worth
from ..boot.esp import Esp
from ..boot.missed import Missed
from ..boot.partitions import Partitions
from ..deploy.facts import kernel_names
from ..deploy.records import Records
from ..errors import BootcdError, PermissionDenied
from .machine import Machine

T = TypeVar("T")


def expected(machine: Machine) -> Expected:
    """What the records say."""
    records = Records(machine.sysroot.records).load()[0].values()
    return Expected({record.short_id: (record.generation, kernel_names(record)) for record in records},
                    Missed(machine.sysroot.missed).load())


def open_boot(machine: Machine) -> Partitions:
    """The boot partitions, the one first that knows most: after a repair of the disks that may be any of them. Raises
    what looking for them raises."""
    boot = machine.boot()
    if len(boot.places) > 1:
        wanted = expected(machine)
        worths = dict(boot.each(lambda esp: (esp.path, worth(esp, wanted))))
        boot.order(lambda esp: worths[esp.path])
    return boot


def bring_up_to_date(machine: Machine, boot: Partitions) -> None:
    """Make all equal to the first. One that cannot be is away from then on, and that is noted."""
    boot.clean()  # what was half copied takes the room that copying it again needs
    wanted = expected(machine)
    if wanted.gone:
        boot.each(lambda esp: drop_gone(esp, wanted))
        if not boot.away:
            Missed(machine.sysroot.missed).clear()
    done: set[str] = set()
    while waiting := [esp for esp in boot.places[1:] if esp.path not in done]:
        first, other = boot.first, waiting[0]
        lag = _between(boot, first, other, lambda source, target: catch_up(source, target, wanted))
        if lag:
            machine.progress.note(f"Boot partition {other.path} is brought up to date: it {lag.past}.")
        if boot.first is first:  # or else another one leads now
            done.add(other.path)
    for source, target in permutations(list(boot.loaders), 2):
        if source in boot.loaders and target in boot.loaders:
            _between(boot, source, target, loader.copy_loader)


def _between(boot: Partitions, source: Esp, target: Esp, work: Callable[[Esp, Esp], T]) -> T | None:
    """Copy from one to another; when that fails, give up whose fault it is."""
    try:
        return work(source, target)
    except BootcdError as error:
        try:
            source.probe()
        except BootcdError as own:
            boot.give_up(source, own)
        else:
            boot.give_up(target, error)
    return None


def warnings(machine: Machine, boot: Partitions) -> list[str]:
    """What keeps the partitions from being equal, one sentence each."""
    if not boot.are_several:
        return []
    found = [f"a boot partition is left out: {error}" for error in boot.away.values()]
    wanted = expected(machine)
    for esp in boot.places:
        try:
            with suppress(PermissionDenied):  # who asks need not be one who may write
                esp.check_writable()
            lag = compare(boot.first, esp, wanted) if esp is not boot.first else None
        except BootcdError as error:
            found.append(f"a boot partition is left out: {error}")
            continue
        if lag:
            found.append(f"boot partition {esp.path} {lag}, compared with {boot.first.path}; the next change brings "
                         "it up to date")
    missing: dict[str, set[str]] = {}
    for source, target in permutations(boot.loaders, 2):
        try:
            missing.setdefault(target.path, set()).update(loader.lacking(source, target))
        except BootcdError as error:
            found.append(f"a boot partition is left out: {error}")
    found += [f"boot partition {path} has no {', '.join(sorted(names))}; the next change copies it from another one"
              for path, names in missing.items() if names]
    return list(dict.fromkeys(found))
