# SPDX-License-Identifier: Apache-2.0
"""Decide, then do: this module does. It runs the steps of a plan and keeps the journal.

`run` writes the plan to the journal, then each step, then how far it is. A process that dies leaves the journal;
`recover` goes on with it. A step that fails (a full disk) ends the transaction when no boot entry was written yet: what
was done is garbage that the next collection removes, since it refers to nothing. Once the entry is there nothing is
taken back; the journal stays, and `recover` tries the rest once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from ..boot import bootc, entries, kernels
from ..boot.esp import Esp
from ..boot.kargs import check_length
from ..boot.loader import read_variables
from ..boot.missed import Missed
from ..boot.partitions import Partitions
from ..errors import BootcdError, DeploymentNotFound, NoSpace
from ..formats.bls import EntryName
from ..layout import BOOTC_TAG_PREFIX, IMAGE_REF_PREFIX, TAG_PREFIX, Sysroot
from ..linux import files
from ..linux.process import boot_id
from ..store.ociimages import OciImages
from ..store.repository import Repository
from .facts import Aside
from .fresh import FreshState
from .generation import note_generation
from .journal import Journal, Transaction
from .localkargs import read_local_kargs
from .plan import INLINE, SWITCHING, Action, Plan, Step
from .records import EtcReport, Record, Records, decode
from .rejected import Rejected, Rejection
from .state import States


class Executor:
    """Carries out plans on one installation. The caller holds the lock of the installation."""

    def __init__(self, sysroot: Sysroot, repository: Repository, boot: Partitions) -> None:
        self._sysroot = sysroot
        self._repository = repository
        self._boot = boot
        self._records = Records(sysroot.records)
        self._states = States(sysroot, repository)
        self._fresh = FreshState(sysroot, repository)
        self._rejected = Rejected(sysroot.rejected)
        self._journal = Journal(sysroot.journal)
        self._reports: dict[str, EtcReport] = {}
        self._local_kargs: dict[str, tuple[str, ...]] = {}
        self._actions: dict[Action, Callable[..., None]] = {
            Action.HOLD: self._hold,
            Action.REJECT: self._reject,
            Action.INSTALL_KERNEL: self._install_kernel,
            Action.PREPARE_STATE: self._prepare_state,
            Action.MERGE_ETC: self._merge_etc,
            Action.SAVE_RECORD: self._save_record,
            Action.WRITE_ENTRY: self._write_entry,
            Action.SET_GENERATION: self._set_generation,
            Action.REMOVE_ENTRY: self._remove_entry,
            Action.REMOVE_RECORD: self._remove_record,
            Action.REMOVE_KERNEL: self._remove_kernel,
            Action.REMOVE_STATE: self._remove_state,
            Action.RELEASE: self._release,
            Action.PREPARE_RESET: self._prepare_reset,
            Action.RESET: self._reset,
            Action.REMOVE_ASIDE: self._remove_aside,
            Action.ADD_ENTRY: self._add_entry,
            Action.REMOVE_FOREIGN: self._remove_foreign,
            Action.RELEASE_FOREIGN: self._release_foreign,
        }

    def run(self, plan: Plan) -> None:
        """Carry out a plan. Raises what a step raises; what was done until then stays consistent."""
        if plan.steps:
            self._go_on(Transaction(plan, 0))

    def recover(self) -> Plan | None:
        """Finish what an earlier process left unfinished, and return its plan; None when there is nothing.

        Raises what a step raises, once: the transaction is over then, and a second call finds nothing. Otherwise a step
        that always fails would block everything behind it.
        """
        transaction = self._journal.load()
        if transaction is None:
            return None
        self._boot.clean()  # what was half copied takes the room that copying it again needs
        self._go_on(transaction, again=True)
        return transaction.plan

    def _go_on(self, transaction: Transaction, *, again: bool = False) -> None:
        steps = transaction.plan.steps
        index = transaction.done
        try:
            if not again:
                self._journal.write(transaction)
            while index < len(steps):
                files.step(f"before-{steps[index].action}")
                self._do(steps[index])
                files.step(f"after-{steps[index].action}")
                index += 1
                self._note(Transaction(transaction.plan, index))
        except BootcdError:
            if again or not any(step.action in SWITCHING for step in steps[:index]):
                self._journal.clear()
            raise
        self._journal.clear()

    def _note(self, transaction: Transaction) -> None:
        """Write down how far the transaction is."""
        if transaction.plan.steps[transaction.done - 1].action is Action.PREPARE_STATE:
            return  # its report is in memory until the record is saved
        with suppress(NoSpace):  # a step that is done twice does no harm, one that counts as failed would
            self._journal.write(transaction)

    def _do(self, step: Step) -> None:
        self._actions[step.action](**{key.replace("-", "_"): value for key, value in step.args.items()})

    def _hold(self, id: str, manifest: str) -> None:
        OciImages(self._repository).tag(manifest, TAG_PREFIX + manifest)
        self._repository.images.name(IMAGE_REF_PREFIX + id, bytes.fromhex(id))
        self._repository.sync()

    def _reject(self, manifest: str, reason: str, time: str) -> None:
        self._rejected.add(manifest, Rejection(reason, time))

    def _install_kernel(self, name: str, files: Mapping[str, tuple[int, str]]) -> None:
        self._boot.prepare()
        contents = kernel_contents(self._repository, files)
        if name.endswith(".efi"):
            uki = contents.pop("uki")
            self._boot.each(lambda esp: kernels.install_uki(esp, name.removesuffix(".efi"), uki, contents))
        else:
            self._boot.each(lambda esp: kernels.install_kernel(esp, name, contents["vmlinuz"], contents["initrd"]))

    def _prepare_state(self, id: str, merge_from: str | None) -> None:
        self._reports[id] = self._states.prepare(id, merge_from)
        self._local_kargs[id] = self._read_local_kargs(id)

    def _merge_etc(self, id: str, merge_from: str) -> None:
        report = self._states.merge(id, merge_from)
        record = _with_local_kargs(self._record(id), self._read_local_kargs(id))
        self._records.save(replace(record, etc_report=report))

    def _save_record(self, record: str) -> None:
        decoded = decode(record.encode("utf-8", "surrogateescape"), "journal")
        self._states.write_origin(decoded)
        if decoded.id in self._reports:  # what was found when its state was prepared
            decoded = _with_local_kargs(replace(decoded, etc_report=self._reports[decoded.id]),
                                        self._local_kargs[decoded.id])
        self._records.save(decoded)

    def _write_entry(self, id: str, generation: int, tries: int) -> None:
        self._entry(self._record(id), generation, tries)

    def _add_entry(self, record: str) -> None:
        decoded = decode(record.encode("utf-8", "surrogateescape"), "journal")
        self._entry(decoded, decoded.generation or 0, 0)

    def _entry(self, record: Record, generation: int, tries: int) -> None:
        note_generation(self._sysroot.generation, generation)
        self._boot.each(lambda esp: self._write_entry_on(esp, record, generation, tries))

    def _write_entry_on(self, esp: Esp, record: Record, generation: int, tries: int) -> None:
        machine_id = entries.machine_id_for(entries.list_entries(esp), None)
        title, version = record.title or f"Linux {record.short_id}", record.version or None
        if record.boot_type == "uki":
            key = read_variables().uki_key
            entry = entries.compose_uki(title, generation, version, record.id, key=key, machine_id=machine_id)
        else:
            options = record.options_at(generation)
            entry = entries.compose_kernel(title, generation, version, record.boot_digest, options, machine_id)
        entries.write_entry(esp, entries.entry_name(generation, record.id, tries or None), entry)

    def _set_generation(self, id: str, generation: int) -> None:
        record = self._record(id)
        health, reason = (record.health, record.health_reason) if record.health != "bad" else ("untried", "")
        self._records.save(replace(record, generation=generation, locked=False, health=health, health_reason=reason,
                                   attempts=(), promoted_in=boot_id(), trials=()))

    def _remove_entry(self, file: str) -> None:
        name = EntryName.parse(file)
        self._boot.each(lambda esp: entries.remove_entry(esp, name))
        if self._boot.away:
            Missed(self._sysroot.missed).add(name.stem)

    def _remove_record(self, id: str) -> None:
        self._records.remove(id)

    def _remove_kernel(self, name: str) -> None:
        self._boot.each(lambda esp: kernels.remove_kernel(esp, name))

    def _remove_state(self, id: str) -> None:
        self._states.remove(id)

    def _release(self, id: str | None = None, manifest: str | None = None) -> None:
        if id is not None:
            self._repository.images.unname(IMAGE_REF_PREFIX + id)
        if manifest is not None:
            OciImages(self._repository).untag(TAG_PREFIX + manifest)

    def _read_local_kargs(self, deployment_id: str) -> tuple[str, ...]:
        return read_local_kargs(self._sysroot.deployment(deployment_id) / "etc")

    def _prepare_reset(self, id: str, marked: str, generation: int, etc: int, var: int | None) -> None:
        new = self._fresh.prepare(id, etc, var)
        self._records.save(_with_local_kargs(self._record(id), read_local_kargs(new)))

    def _reset(self, id: str, marked: str, generation: int, etc: int, var: int | None) -> None:
        self._fresh.take(id, generation, etc, var)
        self._records.save(replace(self._record(id), reset="", health="untried", health_reason="",
                                   etc_report=EtcReport()))
        if marked != id:
            self._records.save(replace(self._record(marked), reset=""))

    def _remove_aside(self, id: str | None, generation: int) -> None:
        self._fresh.remove(Aside(generation, id or ""))

    def _remove_foreign(self, path: str) -> None:
        self._boot.each(lambda esp: bootc.remove(esp, path))

    def _release_foreign(self, manifest: str) -> None:
        OciImages(self._repository).untag(BOOTC_TAG_PREFIX + manifest)

    def _record(self, deployment_id: str) -> Record:
        record = self._records.load()[0].get(deployment_id)
        if record is None:
            raise DeploymentNotFound(f"deployment {deployment_id[:12]} has no record")
        return record


def _with_local_kargs(record: Record, arguments: tuple[str, ...]) -> Record:
    """Raises NotBootable when a kernel would not take them all; to those in a UKI nothing is added."""
    changed = replace(record, own=replace(record.own, local=arguments))
    if not record.sealed_kargs:
        check_length(changed.options)
    return changed


def kernel_contents(repository: Repository, files: Mapping[str, tuple[int, str]]) -> dict[str, kernels.Content]:
    """How to read the `files` of a `plan.Kernel` from the repository."""

    def content(size: int, source: str) -> kernels.Content:
        if source.startswith(INLINE):
            return kernels.Content.of(bytes.fromhex(source.removeprefix(INLINE)))
        return kernels.Content(size, lambda: repository.objects.chunks(bytes.fromhex(source)))

    return {name: content(size, source) for name, (size, source) in files.items()}
