# SPDX-License-Identifier: Apache-2.0
"""Decide, then do: this module decides. It is pure: facts about the machine and a request give a plan.

A plan is a list of steps. Each step is idempotent and carries all it needs as JSON values, so that a journal can hold
it and a later process can go on where an earlier one stopped. The order within every plan is:

    hold image → kernel or UKI → state → sync → record (staged) → entry → record (deployed) → remove what is not kept

Nothing old is removed before the new is durable, except kernels that nothing needs when the ESP lacks room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ..errors import EspFull, NoRollback, NothingStaged, Refused
from .facts import Facts, kept, kernel_names, kernels_of_others, outlived, spare
from .records import OwnKargs, Record, Trial, encode

_LAST_GENERATION = 10**10 - 1


class Action(StrEnum):
    """What a step does; `deploy.execute` has one function for each."""

    HOLD = "hold"
    REJECT = "reject"
    INSTALL_KERNEL = "install-kernel"
    PREPARE_STATE = "prepare-state"
    MERGE_ETC = "merge-etc"
    SAVE_RECORD = "save-record"
    WRITE_ENTRY = "write-entry"
    SET_GENERATION = "set-generation"
    REMOVE_ENTRY = "remove-entry"
    REMOVE_RECORD = "remove-record"
    REMOVE_KERNEL = "remove-kernel"
    REMOVE_STATE = "remove-state"
    RELEASE = "release"
    PREPARE_RESET = "prepare-reset"
    RESET = "reset"
    REMOVE_ASIDE = "remove-aside"
    ADD_ENTRY = "add-entry"
    REMOVE_FOREIGN = "remove-foreign"
    RELEASE_FOREIGN = "release-foreign"


SWITCHING = frozenset({Action.WRITE_ENTRY, Action.ADD_ENTRY})
"""What changes the menu of the boot loader: from then on nothing is taken back."""


@dataclass(frozen=True, slots=True)
class Step:
    """One idempotent act; `why` is for people."""

    action: Action
    args: Mapping[str, Any]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order. `verb` names the request."""

    verb: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that nothing refers to any more, and why it may go. `kind` is one of deployment, entry, kernel, state,
    image name, tag, aside."""

    kind: str
    name: str
    why: str
    size: int = 0


INLINE = "inline:"
"""What marks content that a file reference carries itself, as hex bytes; anything else names an object."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a deployment boots from: `name` below `EFI/bootcd`, the `size` of all its files in bytes, and for each of
    `vmlinuz` and `initrd`, or `uki` and the names of its addons: its length and where it is, either the hex digest of
    an object or `inline:` and hex bytes."""

    name: str
    size: int
    files: Mapping[str, tuple[int, str]]


def plan_stage(facts: Facts, record: Record, kernel: Kernel, *, merge_from: str | None) -> Plan:
    """Everything up to a staged deployment.

    `merge_from` is the deployment whose /etc is taken along, None for the first. Raises EspFull, with the sums, before
    anything is written.
    """
    steps: list[Step] = []
    needed = 0 if kernel.name in facts.kernels and kernel.name not in facts.partial else kernel.size
    if kernel.name in facts.partial:
        needed -= facts.kernels.get(kernel.name, 0)  # what is there of it makes way for the whole
    if needed > facts.esp_free:
        victims = [old for old in spare(facts, record.id) if old.generation is not None]
        staying = [old for old in facts.records.values() if old.generation is not None or old.id == record.id]
        steps += _make_room(facts, needed, victims, staying, {*kernel_names(record)})
    steps += _install(record, kernel)
    if record.id != facts.booted:
        steps.append(Step(Action.PREPARE_STATE, {"id": record.id, "merge-from": merge_from}))
    steps.append(_save(record))
    steps += [
        Step(Action.REMOVE_RECORD, {"id": old.id}, "another deployment takes its place")
        for old in facts.records.values() if old.generation is None and old.id != record.id
    ]
    return Plan("stage", tuple(steps))


def plan_renew(facts: Facts, record: Record, kernel: Kernel, *, tries: int) -> Plan:
    """Take a deployment that is kept for an image with the same tree, with its own /etc.

    The kernel is installed again, since only the tree decides the id: the new image may bring another kernel command
    line, signature or addon. What is staged makes way. The deployment becomes the default unless it is, unchanged.
    """
    old = facts.records[record.id]
    steps = [*_install(record, kernel), _save(record)]
    steps += [Step(Action.REMOVE_RECORD, {"id": waiting.id}, "another deployment takes its place")
              for waiting in facts.records.values() if waiting.generation is None]
    same_boot = (old.boot_type, old.boot_digest, old.options) == (record.boot_type, record.boot_digest, record.options)
    if not (same_boot and facts.default is not None and facts.default.id == record.id):
        steps += _promote(facts, record, _tries(facts, record, tries) if same_boot else tries)
    return Plan("renew", tuple(steps))


def plan_finalize(facts: Facts, *, tries: int, merge: bool) -> Plan:
    """Make the staged deployment the default one. With `merge`, /etc is merged once more, so that late edits are kept.

    Raises NothingStaged, and Refused when its kernel is not on the ESP any more.
    """
    staged = facts.staged
    if staged is None:
        raise NothingStaged("no deployment is staged")
    if not facts.has_kernel(staged):
        raise Refused(f"the staged deployment {staged.short_id} has no kernel on the ESP",
                      advice="'bootcctl upgrade' stages it anew.")
    steps: list[Step] = []
    current = facts.current
    if merge and current is not None and staged.id not in (facts.booted, current.id):
        steps.append(Step(Action.MERGE_ETC, {"id": staged.id, "merge-from": current.id}))
    steps += _promote(facts, staged, tries if facts.entries else 0)
    return Plan("finalize", tuple(steps))


def plan_reset(facts: Facts, marked: Record, what: str, *, etc: int, var: int, tries: int) -> Plan:
    """Let what boots next have /etc as its image has it and, when `what` is "state", /var as well.

    The old ones are kept aside under the new generation. `etc` and `var` are the inode numbers of those that are there
    now, so that a step that is done twice can tell whether they have changed places already. `marked` is the record
    that asks for it. The entry comes before the exchange, which needs no room any more and cannot be undone; it counts
    boots, since nobody knows whether the deployment comes up that way.
    """
    target = facts.next
    if target is None or not facts.has_kernel(target):
        raise Refused("nothing that could boot next is whole, so nothing is reset",
                      advice="'bootcctl fsck --repair' mends what can be mended.")
    promoted = _promote(facts, target, tries)
    entry = next(step for step in promoted if step.action is Action.WRITE_ENTRY)
    args = {"id": target.id, "marked": marked.id, "generation": entry.args["generation"], "etc": etc,
            "var": var if what == "state" else None}
    after = promoted.index(entry) + 1
    return Plan("reset", (Step(Action.PREPARE_RESET, args), *promoted[:after], Step(Action.RESET, args),
                          *promoted[after:]))


def plan_rollback(facts: Facts, target: Record, *, tries: int, time: str) -> Plan:
    """Make an existing deployment the default one by a new generation; its old entries go afterwards.

    The image of a newer default is noted as rejected at `time` (ISO 8601 in UTC), which is part of the transaction,
    since an upgrade would take it again otherwise. A staged deployment is locked, and a reset forgotten, or the next
    shutdown would undo the rollback. A target that never booted well counts its boots anew. Raises Refused when the
    target is the default already, is only staged, or lacks something that it needs to boot.
    """
    if target.generation is None:
        raise Refused(f"deployment {target.short_id} is only staged",
                      advice="'bootcctl finalize' makes it the default.")
    if facts.default is not None and facts.default.id == target.id:
        raise Refused(f"deployment {target.short_id} is the default already")
    for there, what in ((facts.has_kernel(target), "its kernel is not on the ESP"),
                        (target.id in facts.images, "its image is not in the repository"),
                        (target.id in facts.state, "its state directory is gone")):
        if not there:
            raise Refused(f"deployment {target.short_id} cannot boot: {what}",
                          advice="'bootcctl fsck --repair' mends what can be mended.")
    steps = []
    staged, left = facts.staged, facts.default
    if staged is not None and not staged.locked:
        steps.append(_save(replace(staged, locked=True)))
    if left is not None and left.manifest_digest != target.manifest_digest and (
            left.generation or 0) > target.generation:
        reason = f"rolled back from version {left.version or left.short_id}"
        steps.append(Step(Action.REJECT, {"manifest": left.manifest_digest, "reason": reason, "time": time}))
    steps += _forget_reset(facts)
    return Plan("rollback", (*steps, *_promote(facts, target, _tries(facts, target, tries))))


def rollback_target(facts: Facts) -> Record:
    """Where a rollback without a target goes. Raises NoRollback."""
    if facts.booted is not None and facts.default is not None and facts.default.id != facts.booted:
        # Something newer waits for the next boot: going back means staying where we are.
        booted = facts.records.get(facts.booted)
        if booted is not None and booted.generation is not None:
            return booted
    target = facts.rollback
    if target is None:
        raise NoRollback("there is no deployment to go back to")
    return target


def plan_kargs(facts: Facts, record: Record, own: OwnKargs, *, tries: int, boot: str) -> Plan:
    """Give a deployment other kernel arguments of the machine.

    One that is staged gets them with its entry. Any other is put on trial: an entry of a new generation has them, with
    its boots counted, and the entry from before stays until this one has booted well. An earlier trial ends; going back
    to what is not on trial is no more than that. `boot` is the boot that asks for it.
    """
    if record.generation is None:
        return Plan("kargs", (_save(replace(record, own=own)),))
    found = facts.trial(record)
    earlier = (found[0],) if found is not None else ()
    over = _remove_entries(facts, record, {trial.generation for trial in earlier},
                           "other kernel arguments take its place")
    if own == record.own:
        return Plan("kargs", (*over, _save(replace(record, trials=()))))
    generation, entry = _new_entry(facts, record, tries)
    changed = replace(record, attempts=(), trials=(*earlier, Trial(generation, own, boot)))
    return Plan("kargs", (_save(changed), *entry, *over))


def plan_settle(facts: Facts, record: Record, *, good: bool) -> Plan:
    """End the trial of kernel arguments, if there is one. Good ones are those of the deployment from now on, and the
    entry from before goes; otherwise the entry on trial goes, and what was staged with these arguments gets those from
    before."""
    found = facts.trial(record)
    if found is None:
        return Plan("kargs", ())
    trial, _ = found
    others = {entry.generation for entry in facts.entries_of(record)} - {trial.generation}
    if good:
        settled = replace(record, own=trial.own, generation=trial.generation, attempts=(), trials=())
        return Plan("kargs", (_save(settled), *_remove_entries(facts, record, others,
                                                               "other kernel arguments have booted well")))
    tried = {one.generation for one in record.trials}
    steps = [*_remove_entries(facts, record, tried, "its kernel arguments did not boot"),
             _save(replace(record, attempts=(), trials=()))]
    staged = facts.staged
    if staged is not None and (staged.own.machine, staged.own.command) == (trial.own.machine, trial.own.command):
        own = replace(record.own, local=staged.own.local)
        steps.append(_save(replace(staged, own=own)))
    return Plan("kargs", tuple(steps))


def plan_unstage(facts: Facts, *, reset: bool = False) -> Plan:
    """Forget the staged deployment, and with `reset` a reset that waits; what only the deployment needed is left to
    collection. Raises NothingStaged."""
    staged = facts.staged
    steps = _forget_reset(facts) if reset else []
    if staged is not None:
        steps += _drop(facts, staged, "unstaged")
    if not steps:
        raise NothingStaged("no deployment is staged")
    return Plan("unstage", tuple(steps))


def plan_drop(facts: Facts, record: Record) -> Plan:
    """Give up a deployment of `spare`; what only it needed is left to collection."""
    return Plan("make room", tuple(_drop(facts, record, "room on the root file system")))


def plan_room(facts: Facts, needed: int) -> Plan:
    """Make room on the ESP for a kernel of `needed` bytes that is to come. Raises EspFull, with the sums."""
    if needed <= facts.esp_free:
        return Plan("make room", ())
    return Plan("make room", tuple(_make_room(facts, needed, spare(facts), facts.records.values(), set())))


def plan_collect(facts: Facts, *, keep_previous: int) -> tuple[Plan, list[Removal]]:
    """Drop deployments beyond the keep policy, then all that no remaining deployment refers to.

    Objects are not part of it: the repository's own collection follows when the plan is done. Raises Refused when there
    are deployments but no entry at all (then this is the wrong partition, or a new one, and nobody knows what boots),
    when a record cannot be read, and when the running deployment has none.
    """
    if facts.damaged:
        raise Refused(f"the record of deployment {min(facts.damaged)[:12]} cannot be read, so nothing is collected",
                      advice="'bootcctl status' names the file; restore it, or remove it and its boot entry.")
    if facts.booted is not None and facts.booted not in facts.records:
        raise Refused(f"the running deployment {facts.booted[:12]} has no record, so nothing is collected",
                      advice="Upgrade or switch it by what made it, or boot a deployment that 'bootcctl list' shows.")
    if not facts.entries and any(record.generation is not None for record in facts.records.values()):
        raise Refused("no boot entry leads to any deployment, so nothing is collected",
                      advice="Mount the right ESP, or let 'bootcctl fsck --repair' write kernels and entries anew.")
    reasons = kept(facts, keep_previous)
    steps: list[Step] = []
    removals: list[Removal] = []
    for record in facts.records.values():
        if record.id not in reasons:
            why = "neither booted, default, staged nor pinned, and older than what [keep] previous keeps"
            steps += _drop(facts, record, why)
            removals.append(Removal("deployment", record.id, why))
    staying = [record for record in facts.records.values() if record.id in reasons]
    orphans = facts.orphans()
    in_use = {name for record in staying for name in kernel_names(record)} | kernels_of_others(facts)
    for name, size in facts.kernels.items():
        if name not in in_use:
            why = "no deployment boots from it"
            steps.append(Step(Action.REMOVE_KERNEL, {"name": name}, why))
            removals.append(Removal("kernel", name, why, size))
    ids = {record.id for record in staying}
    ids |= {name for name in facts.state | facts.names for entry in orphans if name.startswith(entry.short_id)}
    manifests = {record.manifest_digest for record in staying}
    going = {name for record in facts.records.values() for name in (record.id, record.manifest_digest)}

    def collect(kind: str, name: str, step: Step) -> None:
        why = "its deployment goes" if name in going else "it belongs to no deployment"
        steps.append(replace(step, why=why))
        removals.append(Removal(kind, name, why))

    # A state directory without our image name is somebody else's, for example bootc's on an adopted machine.
    for name in sorted((facts.state & facts.names) - ids):
        collect("state", name, Step(Action.REMOVE_STATE, {"id": name}))
    for name in sorted(facts.names - ids):
        collect("image name", name, Step(Action.RELEASE, {"id": name}))
    for name in sorted(facts.tags - manifests):
        collect("tag", name, Step(Action.RELEASE, {"manifest": name}))
    for aside in outlived(facts):
        why = "what was reset has proven itself without it"
        steps.append(Step(Action.REMOVE_ASIDE, {"id": aside.id or None, "generation": aside.generation}, why))
        name = f"/etc of {aside.id[:12]}" if aside.id else "/var"
        removals.append(Removal("aside", f"{name} before generation {aside.generation}", why))
    return Plan("collect", tuple(steps)), removals


def _install(record: Record, kernel: Kernel) -> list[Step]:
    return [
        Step(Action.HOLD, {"id": record.id, "manifest": record.manifest_digest}),
        Step(Action.INSTALL_KERNEL, {"name": kernel.name, "files": dict(kernel.files)}),
    ]


def _save(record: Record) -> Step:
    return Step(Action.SAVE_RECORD, {"record": encode(record).decode("utf-8", "surrogateescape")})


def _forget_reset(facts: Facts) -> list[Step]:
    return [_save(replace(record, reset="")) for record in facts.records.values() if record.reset]


def _tries(facts: Facts, record: Record, tries: int) -> int:
    """How often the loader shall try a deployment that had an entry: without a counter if it has proven itself."""
    return tries if any(entry.counted for entry in facts.entries_of(record)) else 0


def _promote(facts: Facts, record: Record, tries: int) -> list[Step]:
    generation, entry = _new_entry(facts, record, tries)
    steps = [*entry, Step(Action.SET_GENERATION, {"id": record.id, "generation": generation})]
    for old in facts.entries_of(record):
        steps.append(Step(Action.REMOVE_ENTRY, {"file": old.file_name}, "replaced by a newer generation"))
    return steps


def _new_entry(facts: Facts, record: Record, tries: int) -> tuple[int, list[Step]]:
    """The next generation, and the steps that write its entry."""
    room = []
    if facts.esp_free <= 0:  # kernels that nothing needs must not keep the entry out
        needed = {name for old in facts.records.values() for name in kernel_names(old)} | kernels_of_others(facts)
        room = [Step(Action.REMOVE_KERNEL, {"name": name}, "room on the ESP")
                for name in facts.kernels if name not in needed]
    # A number at the very end of the range is no generation of ours, and nothing could follow it.
    used = (entry.generation for entry in facts.entries if entry.generation < _LAST_GENERATION)
    generation = max([facts.last_generation, *used]) + 1
    return generation, [
        *room, Step(Action.WRITE_ENTRY, {"id": record.id, "generation": generation, "tries": tries})]


def _remove_entries(facts: Facts, record: Record, generations: set[int], why: str) -> list[Step]:
    return [Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, why)
            for entry in facts.entries_of(record) if entry.generation in generations]


def _drop(facts: Facts, record: Record, why: str) -> list[Step]:
    steps = [
        Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, why)
        for entry in facts.entries if record.id.startswith(entry.short_id)
    ]
    return [*steps, Step(Action.REMOVE_RECORD, {"id": record.id}, why)]


def _make_room(
    facts: Facts, needed: int, victims: list[Record], staying: Iterable[Record], wanted: set[str]
) -> list[Step]:
    """Make `needed` bytes free on the ESP: first by kernels that neither `staying` deployments nor others need and that
    are not `wanted`, then by one of the `victims` after the other."""
    steps: list[Step] = []
    short = needed - facts.esp_free
    remaining = {record.id: record for record in staying}
    kernels = dict(facts.kernels)
    wanted = wanted | kernels_of_others(facts)
    while True:
        in_use = {name for old in remaining.values() for name in kernel_names(old)} | wanted
        for name in [name for name in kernels if name not in in_use]:
            steps.append(Step(Action.REMOVE_KERNEL, {"name": name}, "room on the ESP"))
            short -= kernels.pop(name)
        if short <= 0:
            return steps
        if not victims:
            break
        victim, *victims = victims
        steps += _drop(facts, victim, "room on the ESP")
        del remaining[victim.id]
    raise EspFull(
        f"the ESP lacks {short} bytes for the kernel of the new deployment: it needs {needed} bytes, {facts.esp_free} "
        f"are free, {needed - facts.esp_free - short} could be made free, and only kernels of the booted, default, "
        "pinned and last good deployments would be left"
    )
