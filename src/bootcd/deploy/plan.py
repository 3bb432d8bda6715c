# SPDX-License-Identifier: Apache-2.0
"""Decide, then do: this module decides. It is pure: facts about the machine and a request give a plan.

A plan is a list of steps. Each step is idempotent and carries all it needs as JSON values, so that a journal can hold
it and a later process can go on where an earlier one stopped. The order within every plan is:

    hold image → kernel or UKI → state → sync → record (staged) → entry → record (deployed) → remove what is not kept

Nothing old is removed before the new is durable, except kernels that nothing needs when the ESP lacks room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..errors import EspFull, NoRollback, NothingStaged, Refused
from .records import Record, encode


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
class Entry:
    """A boot entry of ours as found on the ESP; `bad` when its boot counter is used up."""

    file_name: str
    generation: int
    short_id: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The machine as it is.

    `entries` are ours in the loader's order, the default first. `kernels` maps names below `EFI/bootcd` to bytes used,
    `partial` are those of them that an interrupted copy left incomplete, `foreign` those that entries of others name.
    `state`, `names` and `tags` are what exists for collection: state directories, image names and OCI tags of ours.
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

    def deployed(self) -> list[Record]:
        """Deployments with an entry, in the order in which the loader tries them."""
        found: list[Record] = []
        for entry in self.entries:
            record = self.of_entry(entry)
            if record is not None and record not in found:
                found.append(record)
        return found

    def of_entry(self, entry: Entry) -> Record | None:
        for record in self.records.values():
            if record.id.startswith(entry.short_id):
                return record
        return None

    @property
    def staged(self) -> Record | None:
        return next((record for record in self.records.values() if record.generation is None), None)

    @property
    def default(self) -> Record | None:
        deployed = self.deployed()
        return deployed[0] if deployed else None

    @property
    def current(self) -> Record | None:
        """The deployment that changes start from: the booted one, or what would boot."""
        return self.records.get(self.booted or "") or self.default

    @property
    def rollback(self) -> Record | None:
        """Where `rollback` goes: the first after the default in the loader's order that is not known to be bad."""
        bad = {entry.short_id for entry in self.entries if entry.bad}
        for record in self.deployed()[1:]:
            if record.short_id not in bad and record.health != "bad":
                return record
        return None


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that nothing refers to any more, and why it may go. `kind` is one of deployment, entry, kernel, state,
    image name, tag."""

    kind: str
    name: str
    why: str
    size: int = 0


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
        steps += _make_room(facts, record, needed)
    args = {"id": record.id}
    staged = facts.staged
    if staged is not None and staged.id != record.id:
        steps.append(Step(Action.REMOVE_RECORD, {"id": staged.id}, "another deployment takes its place"))
    steps.append(Step(Action.HOLD, {**args, "manifest": record.manifest_digest}))
    steps.append(Step(Action.INSTALL_KERNEL, {"name": kernel.name, "files": dict(kernel.files)}))
    if record.id != facts.booted:
        steps.append(Step(Action.PREPARE_STATE, {**args, "merge-from": merge_from}))
    steps.append(Step(Action.SAVE_RECORD, {"record": encode(record).decode("utf-8", "surrogateescape")}))
    return Plan("stage", tuple(steps))


def plan_finalize(facts: Facts, *, tries: int, merge: bool) -> Plan:
    """Make the staged deployment the default one. With `merge`, /etc is merged once more, so that late edits are kept.

    Raises NothingStaged.
    """
    staged = facts.staged
    if staged is None:
        raise NothingStaged("no deployment is staged")
    steps: list[Step] = []
    current = facts.current
    if merge and current is not None and staged.id not in (facts.booted, current.id):
        steps.append(Step(Action.MERGE_ETC, {"id": staged.id, "merge-from": current.id}))
    steps += _promote(facts, staged, tries if facts.entries else 0)
    return Plan("finalize", tuple(steps))


def plan_rollback(facts: Facts, target: Record, *, time: str = "") -> Plan:
    """Make an existing deployment the default one by a new generation; its old entries go afterwards.

    With `time` (ISO 8601 in UTC) this is a retreat: the image of a newer default is noted as rejected, which is part of
    the transaction, since an upgrade would take it again otherwise. A staged deployment stays staged. Raises Refused
    when the target is the default already, is only staged, or has no kernel.
    """
    if target.generation is None:
        raise Refused(f"deployment {target.short_id} is only staged",
                      advice="'bootcctl finalize' makes it the default.")
    if facts.default is not None and facts.default.id == target.id:
        raise Refused(f"deployment {target.short_id} is the default already")
    for name in kernel_names(target):
        if name not in facts.kernels or name in facts.partial:
            raise Refused(f"deployment {target.short_id} cannot boot: its kernel {name[:16]} is not on the ESP",
                          advice="'bootcctl switch' with its image installs it again.")
    steps = []
    left = facts.default
    if time and left is not None and left.manifest_digest != target.manifest_digest and (
            left.generation or 0) > target.generation:
        reason = f"rolled back from version {left.version or left.short_id}"
        steps.append(Step(Action.REJECT, {"manifest": left.manifest_digest, "reason": reason, "time": time}))
    return Plan("rollback", (*steps, *_promote(facts, target, 0)))


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


def plan_unstage(facts: Facts) -> Plan:
    """Forget the staged deployment; what only it needed is left to collection. Raises NothingStaged."""
    staged = facts.staged
    if staged is None:
        raise NothingStaged("no deployment is staged")
    # There is an entry when finalizing failed half-way: it must not lead to what nobody knows any more.
    return Plan("unstage", tuple(_drop(facts, staged, "unstaged")))


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
    previous = [record for record in facts.deployed() if reasons.get(record.id) not in ("booted", "default")]
    bad = {entry.short_id for entry in facts.entries if entry.bad}
    previous.sort(key=lambda record: record.short_id in bad or record.health == "bad")
    for record in previous[:keep_previous]:
        keep(record, "previous")
    return reasons


def plan_collect(facts: Facts, *, keep_previous: int) -> tuple[Plan, list[Removal]]:
    """Drop deployments beyond the keep policy, then all that no remaining deployment refers to.

    Objects are not part of it: the repository's own collection follows when the plan is done. Raises Refused when there
    are deployments but no entry at all: then this is the wrong partition, or a new one, and nobody knows what boots.
    """
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
    short_ids = {record.short_id for record in staying}
    dropped = {record.short_id for record in facts.records.values()} - short_ids
    for entry in facts.entries:
        if entry.short_id not in short_ids | dropped:
            why = "no deployment has this id"
            steps.append(Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, why))
            removals.append(Removal("entry", entry.file_name, why))
    in_use = {name for record in staying for name in kernel_names(record)} | facts.foreign
    for name, size in facts.kernels.items():
        if name not in in_use:
            why = "no deployment boots from it"
            steps.append(Step(Action.REMOVE_KERNEL, {"name": name}, why))
            removals.append(Removal("kernel", name, why, size))
    ids = {record.id for record in staying}
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
    return Plan("collect", tuple(steps)), removals


def kernel_names(record: Record) -> tuple[str, ...]:
    """The names below `EFI/bootcd` that a deployment boots from."""
    return (f"{record.id}.efi",) if record.boot_type == "uki" else (record.boot_digest,)


def _promote(facts: Facts, record: Record, tries: int) -> list[Step]:
    generation = max([facts.last_generation, *(entry.generation for entry in facts.entries)]) + 1
    steps = [
        Step(Action.WRITE_ENTRY, {"id": record.id, "generation": generation, "tries": tries}),
        Step(Action.SET_GENERATION, {"id": record.id, "generation": generation}),
    ]
    for entry in facts.entries:
        if record.id.startswith(entry.short_id):
            steps.append(Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, "replaced by a newer generation"))
    return steps


def _drop(facts: Facts, record: Record, why: str) -> list[Step]:
    steps = [
        Step(Action.REMOVE_ENTRY, {"file": entry.file_name}, why)
        for entry in facts.entries if record.id.startswith(entry.short_id)
    ]
    return [*steps, Step(Action.REMOVE_RECORD, {"id": record.id}, why)]


def _make_room(facts: Facts, record: Record, needed: int) -> list[Step]:
    """Make `needed` bytes free on the ESP: first kernels that nothing needs, then deployments that the keep policy
    would drop as soon as the new one is there, oldest first. Never the booted, default or a pinned one."""
    steps: list[Step] = []
    short = needed - facts.esp_free
    default = facts.default
    spare = [
        old for old in reversed(facts.deployed())
        if not old.pins and old.id != facts.booted and old is not default and old.id != record.id
    ]
    remaining = dict(facts.records)
    kernels = dict(facts.kernels)
    if facts.staged is not None and facts.staged.id != record.id:
        remaining.pop(facts.staged.id)
    wanted = {*kernel_names(record), *facts.foreign}
    while True:
        in_use = {name for old in remaining.values() for name in kernel_names(old)} | wanted
        for name in [name for name in kernels if name not in in_use]:
            steps.append(Step(Action.REMOVE_KERNEL, {"name": name}, "room on the ESP"))
            short -= kernels.pop(name)
        if short <= 0:
            return steps
        if not spare:
            break
        victim = spare.pop(0)
        steps += _drop(facts, victim, "room on the ESP")
        del remaining[victim.id]
    raise EspFull(
        f"the ESP lacks {short} bytes for the kernel of the new deployment: it needs {needed} bytes, "
        f"{facts.esp_free} are free, and only kernels of the booted, default and pinned deployments are left"
    )
