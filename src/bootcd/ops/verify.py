# SPDX-License-Identifier: Apache-2.0
"""Check the repository and the kernels on the ESP, and repair what can be repaired without the network."""

from __future__ import annotations

from ..boot import entries, kernels
from ..deploy.journal import Journal
from ..deploy.plan import Action, Plan, Step, kernel_names
from ..deploy.records import Record
from ..errors import BootcdError
from ..store import fsck
from ..store.fsck import FsckReport
from .compose import kernel_of_image
from .machine import Machine
from .results import FsckItem, FsckResult
from .session import Session, change, look

KERNEL_DAMAGED = "kernel-damaged"
ENTRY_MISSING = "entry-missing"
"""The kinds of findings about the ESP; all others are those of cfsctl's fsck."""


def verify(machine: Machine, *, repair: bool, metadata_only: bool) -> FsckResult:
    """Run fsck; with `repair`, remove what is damaged, name what has to be pulled again, and copy kernels anew."""
    if not repair:
        with look(machine) as session:
            report = fsck.check(session.repository, metadata_only=metadata_only, progress=session.progress)
            broken = _broken_kernels(session, metadata_only)
            lost = _lost_entries(session)
            return _result(report, [item for _, item in (*broken, *lost)])
    with change(machine) as session:
        report = fsck.check(session.repository, metadata_only=metadata_only, progress=session.progress)
        pull_again = [] if report.ok else fsck.repair(session.repository, report)
        broken = _broken_kernels(session, metadata_only)
        left = [item for record, item in broken if not _repair_kernel(session, record)]
        lost = _lost_entries(session)
        for record, _ in lost:
            session.executor.run(Plan("repair", (
                Step(Action.WRITE_ENTRY, {"id": record.id, "generation": record.generation, "tries": 0}),
            )))
        return FsckResult(
            ok=not pull_again and not left, objects=report.objects, streams=report.streams, images=report.images,
            findings=(*_items(report), *(item for _, item in (*broken, *lost))),
            repaired=bool(report.findings or broken or lost), pull_again=tuple(pull_again),
        )


def _broken_kernels(session: Session, metadata_only: bool) -> list[tuple[Record, FsckItem]]:
    """Kernels that deployments boot from and that are missing, incomplete or have other content than their name says.

    UKIs are only looked at for being there: their name is not made from their content, and the firmware or the kernel
    they hold checks them.
    """
    records = session.records.load()[0]
    if not records:
        return []
    installed = {kernel.name: kernel for kernel in kernels.list_kernels(session.esp).kernels}
    found: dict[str, tuple[Record, FsckItem]] = {}
    for record in records.values():
        for name in kernel_names(record):
            kernel = installed.get(name)
            if kernel is None or not kernel.complete:
                problem = "missing" if kernel is None else "incomplete"
            elif kernel.is_uki or metadata_only or kernels.verify_kernel(session.esp, name):
                continue
            else:
                problem = "its content has another digest"
            found.setdefault(name, (record, FsckItem(KERNEL_DAMAGED, name, problem)))
    return list(found.values())


def _lost_entries(session: Session) -> list[tuple[Record, FsckItem]]:
    """Deployments that had an entry and have none any more, as on an ESP that was replaced.

    A transaction that was cut off may be between an entry and its record; that is for the next command to finish.
    """
    if Journal(session.machine.sysroot.journal).load() is not None:
        return []
    records = session.records.load()[0]
    deployed = [record for record in records.values() if record.generation is not None]
    if not deployed:
        return []
    there = {entry.id_prefix for entry in entries.list_entries(session.esp).ours}
    return [(record, FsckItem(ENTRY_MISSING, record.id, f"generation {record.generation} has no boot entry"))
            for record in deployed if record.short_id not in there]


def _repair_kernel(session: Session, record: Record) -> bool:
    """Copy a kernel from the objects of its image to the ESP once more; False when the image is damaged, too."""
    try:
        kernel = kernel_of_image(session, record)
    except BootcdError as error:
        session.progress.note(f"The kernel of deployment {record.short_id} cannot be copied again: {error}")
        return False
    session.executor.run(Plan("repair", (
        Step(Action.REMOVE_KERNEL, {"name": kernel.name}, "damaged"),
        Step(Action.INSTALL_KERNEL, {"name": kernel.name, "files": dict(kernel.files)}),
    )))
    return True


def _result(report: FsckReport, kernels: list[FsckItem]) -> FsckResult:
    return FsckResult(
        ok=report.ok and not kernels, objects=report.objects, streams=report.streams, images=report.images,
        findings=(*_items(report), *kernels), repaired=False, pull_again=(),
    )


def _items(report: FsckReport) -> list[FsckItem]:
    return [FsckItem(finding.kind, finding.what, finding.detail) for finding in report.findings]
