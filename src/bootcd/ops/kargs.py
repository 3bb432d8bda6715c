# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments: which the next boot has, whose they are, and the machine's own to change.

What the owner of a machine asks for follows every upgrade. A change becomes part of what is staged to boot next, or is
put on trial in the deployment that boots next (`deploy.plan.plan_kargs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..boot.booted import read_cmdline
from ..boot.kargs import check_changed_kargs, check_length, split_cmdline
from ..deploy import plan
from ..deploy.facts import Facts
from ..deploy.records import OwnKargs, Record
from ..errors import BootcdError, DeploymentNotFound, Refused
from ..linux.process import boot_id
from . import describe
from .machine import Machine
from .results import ChangeResult, Kargs
from .session import change, look


def show(machine: Machine) -> Kargs:
    """What the next boot has, with the owner of each argument, and what the kernel runs with now."""
    with look(machine) as session:
        facts = session.facts()
        record = _next(facts)
        own = facts.own_kargs(record)
        sealed = record.boot_type == "uki"
        pending, problem = None, ""
        try:
            local = describe.local_kargs(machine.sysroot, facts, record)
            pending = local if local != own.local else None
        except BootcdError as error:
            problem = str(error)
        return Kargs(
            record.id, record.version, sealed, describe.kargs(record, own), own != record.own,
            tuple(split_cmdline(read_cmdline())) if facts.booted is not None else (),
            describe.own_kargs(own) if sealed else (), pending, problem,
        )


def add(machine: Machine, arguments: Sequence[str]) -> ChangeResult:
    """Add arguments at the end, but for those that this was asked for before. Raises UsageError for what cannot be
    taken."""
    check_changed_kargs(arguments)

    def added(record: Record, own: OwnKargs) -> OwnKargs:
        there = {*_split(own.machine), *_split(own.command)}
        new = [argument for argument in _split(arguments) if argument not in there]
        return replace(own, command=(*own.command, *new))

    return _changed(machine, added)


def remove(machine: Machine, arguments: Sequence[str]) -> ChangeResult:
    """Remove arguments of the machine, each written as it is. Raises UsageError for what stays in any case, Refused for
    what is not there or belongs to others."""
    check_changed_kargs(arguments)

    def removed(record: Record, own: OwnKargs) -> OwnKargs:
        gone = _split(arguments)
        for argument in gone:
            _check_owner(record, own, argument)
        return replace(own, machine=_without(own.machine, gone), command=_without(own.command, gone))

    return _changed(machine, removed)


def swap(machine: Machine, old: str, new: str) -> ChangeResult:
    """Put another argument in the place of one of the machine; in place of one from the installation it becomes the
    first of those that were asked for later. Raises as `add` and `remove` do."""
    check_changed_kargs([old, new])

    def replaced(record: Record, own: OwnKargs) -> OwnKargs:
        _check_owner(record, own, old)
        command = _split(own.command)
        place = command.index(old) if old in command else 0
        return replace(own, machine=_without(own.machine, [old]),
                       command=(*command[:place], *_split([new]), *_without(command[place:], [old])))

    return _changed(machine, replaced)


def reload(machine: Machine) -> ChangeResult:
    """Take what the drop-ins say by now; every other change does that as well. Raises ConfigError."""
    return _changed(machine, lambda record, own: own)


def _stays(record: Record, before: OwnKargs, own: OwnKargs) -> str:
    """What to say of arguments that were taken away and are there all the same."""
    rest = {argument: owner for owner, arguments in (("the image's", record.image_kargs),
                                                     ("that of a file in /etc/bootcd/kargs.d", own.local))
            for argument in _split(arguments)}
    gone = {*_split(before.machine), *_split(before.command)} - {*_split(own.machine), *_split(own.command)}
    return "".join(f" '{argument}' stays, as {rest[argument]}." for argument in sorted(gone & rest.keys()))


def _check_owner(record: Record, own: OwnKargs, argument: str) -> None:
    """Raise Refused for an argument that the machine does not have, or that is not a command's to take away."""
    if argument in (*_split(own.machine), *_split(own.command)):
        return
    if argument in _split(own.local):
        raise Refused(f"kernel argument {argument!r} comes from a file in /etc/bootcd/kargs.d",
                      advice="Remove it there; 'bootcctl kargs reload' then takes it away.")
    if argument in _split(record.image_kargs):
        raise Refused(f"kernel argument {argument!r} is the image's, and every deployment of it has it",
                      advice="Most arguments can be overruled by a later one: 'bootcctl kargs add'.")
    raise Refused(f"this machine has no kernel argument {argument!r}", advice="'bootcctl kargs show' lists them.")


def _changed(machine: Machine, edit: Callable[[Record, OwnKargs], OwnKargs]) -> ChangeResult:
    with change(machine) as session:
        facts = session.facts()
        record = _next(facts)
        if record.boot_type == "uki":
            raise Refused(f"deployment {record.short_id} boots from a UKI, whose seal forbids other kernel arguments",
                          advice="Only the image can bring them, for example in an addon beside its UKI.")
        if facts.resetting is not None and record.generation is not None:
            raise Refused(f"a reset of deployment {record.short_id} waits for the shutdown",
                          advice="Change kernel arguments after that, or forget the reset by 'bootcctl unstage'.")
        before = facts.own_kargs(record)
        own = edit(record, replace(before, local=describe.local_kargs(machine.sysroot, facts, record)))
        if own == before:
            return ChangeResult("unchanged", "The kernel arguments are these already.",
                                describe.deployment(facts, record))
        check_length(record.options_with(own))
        session.run(plan.plan_kargs(facts, record, own, tries=session.config.boot_tries, boot=boot_id()))
        after = session.facts()
        return ChangeResult("changed", _told(record, own) + _stays(record, before, own),
                            describe.deployment(after, after.records[record.id]))


def _told(record: Record, own: OwnKargs) -> str:
    name = f"Deployment {record.short_id}"
    if record.generation is None:
        return f"{name} will have these kernel arguments when it is finalized."
    if own == record.own:
        return f"{name} has the kernel arguments from before again; the others are not tried any more."
    return f"{name} tries these kernel arguments in its next boot."


def _next(facts: Facts) -> Record:
    """Raises DeploymentNotFound."""
    if facts.next is None:
        raise DeploymentNotFound("there is no deployment that boots next")
    return facts.next


def _split(arguments: Sequence[str]) -> list[str]:
    return split_cmdline(" ".join(arguments))


def _without(arguments: Sequence[str], gone: Sequence[str]) -> tuple[str, ...]:
    return tuple(argument for argument in _split(arguments) if argument not in gone)
