# SPDX-License-Identifier: Apache-2.0
"""Status: never fails because something is odd, but says what is."""

from __future__ import annotations

from dataclasses import replace

from ..boot import bootc, entries, kernels
from ..boot.esp import Esp
from ..boot.loader import read_variables
from ..deploy.facts import Facts, kernel_names, with_generations
from ..deploy.journal import Journal
from ..deploy.records import Record, Records
from ..deploy.verdict import fell_back_from
from ..errors import BootcdError, PermissionDenied
from ..store.repository import Repository
from . import describe, mirrors
from .chain import chain
from .downgrade import downgrade
from .last import load_last, load_update
from .machine import Machine, boot_order
from .results import ChainInfo, CheckResult, LastResult, Status


def status(machine: Machine) -> Status:
    """Everything that can be read. What cannot is a warning."""
    warnings: list[str] = []
    if not machine.sysroot.path.is_dir():
        warnings.append(f"there is no directory {machine.sysroot.path}")
    records, problems = Records(machine.sysroot.records).load()
    warnings += [str(problem) for problem in problems]
    booted = None
    listing = entries.Listing()
    esp = None
    try:
        booted = machine.booted()
        boot = mirrors.open_boot(machine)
        esp = boot.first
        listing = entries.list_entries(esp)
        warnings += entries.config_warnings(entries.read_config(boot.loader))
        warnings += mirrors.warnings(machine, boot)
        if bootc.has_staged(esp):
            warnings.append(bootc.HAS_STAGED)
        warnings += [f"boot entry {entry.file_name}: {entry.problem}" for entry in listing.ours if entry.problem]
        warnings += _kernel_warnings(records, {k.name: k.complete for k in kernels.list_kernels(esp).kernels})
    except BootcdError as error:
        if records or machine.esp_path is not None:
            warnings.append(str(error))
    order = boot_order(listing)
    facts = Facts(records=with_generations(records, order), entries=order, booted=booted)
    warnings += [f"boot entry {entry.file_name} leads to no deployment that is known here; it is left alone"
                 for entry in facts.orphans()]
    if booted is not None and booted not in records:
        warnings.append(f"the running deployment {booted[:12]} has no record; 'bootcctl adopt' takes over one of bootc")
    if records and not facts.entries:
        warnings.append("no boot entry leads to any deployment")
    unfinished = ""
    try:
        transaction = Journal(machine.sysroot.journal).load()
        unfinished = transaction.plan.verb if transaction is not None else ""
    except BootcdError as error:
        warnings.append(str(error))
    if booted is not None:
        warnings += read_variables().warnings()
    warnings += _drop_in_warnings(machine, facts)
    left = fell_back_from(facts)
    checks = _chain(machine, facts, esp, listing, warnings) if records else None
    last, update, update_time = _kept(machine, facts, warnings)
    return Status(
        sysroot=str(machine.sysroot.path), esp=esp.path if esp is not None else "",
        deployments=describe.deployments(facts), chain=checks, unfinished=unfinished, warnings=tuple(warnings),
        last=last, update=update, update_time=update_time,
        fell_back_from=left.id if left is not None else "",
    )


def _kept(
    machine: Machine, facts: Facts, warnings: list[str],
) -> tuple[LastResult | None, CheckResult | None, str]:
    """What earlier operations have left to be told."""
    last, update, when = None, None, ""
    try:
        last = load_last(machine)
    except BootcdError as error:
        warnings.append(str(error))
    try:
        update, when = load_update(machine)
        update = _still_true(machine, facts, update) if update is not None else None
    except BootcdError as error:
        warnings.append(str(error))
    return last, update, when


def _still_true(machine: Machine, facts: Facts, update: CheckResult) -> CheckResult | None:
    """What a check found, seen from now: the image may have been staged, installed or rejected since, or another one
    may be followed."""
    digest = update.manifest_digest
    tracked = facts.staged or facts.current
    in_use = {record.manifest_digest for record in (facts.default, facts.current) if record is not None}
    if not (update.available or update.staged) or digest in in_use or tracked is None or tracked.image != update.image:
        return None
    staged = facts.staged is not None and facts.staged.manifest_digest == digest
    why = describe.rejection(machine.sysroot, facts, digest) or downgrade(facts.current, update.version, update.created)
    return replace(update, available=not staged, staged=staged, current_version=tracked.version,
                   rejected="" if staged else why)


def _drop_in_warnings(machine: Machine, facts: Facts) -> list[str]:
    """Whether the files in /etc/bootcd/kargs.d have an effect, where they can have one."""
    record = facts.next
    if record is None or record.boot_type == "uki":
        return []
    try:
        if describe.local_kargs(machine.sysroot, facts, record) == facts.own_kargs(record).local:
            return []
    except PermissionDenied:  # everybody may ask for the status
        return []
    except BootcdError as error:
        return [f"{error}; nothing can be upgraded before that is corrected"]
    return ["the files in /etc/bootcd/kargs.d ask for other kernel arguments than boot next: 'bootcctl kargs reload' "
            "takes them, and so does the next upgrade"]


def _kernel_warnings(records: dict[str, Record], installed: dict[str, bool]) -> list[str]:
    broken = [(record, name) for record in records.values() for name in kernel_names(record) if not installed.get(name)]
    return [f"deployment {record.short_id} cannot boot: its kernel {name[:16]} is "
            f"{'incomplete' if name in installed else 'missing'} on the ESP" for record, name in broken]


def _chain(machine: Machine, facts: Facts, esp: Esp | None, listing: entries.Listing, warnings: list[str],
           ) -> ChainInfo | None:
    try:
        with Repository.open(machine.sysroot.repository, wait=0.2) as repository:
            missing = [record for record in facts.records.values()
                       if not repository.images.has(bytes.fromhex(record.id))]
            warnings += [f"deployment {record.short_id} cannot boot: its image is missing" for record in missing]
            return chain(repository, facts, esp, listing)
    except BootcdError as error:
        warnings.append(str(error))
        return None
