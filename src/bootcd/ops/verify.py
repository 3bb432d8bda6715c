# SPDX-License-Identifier: Apache-2.0
"""Check the repository and the kernels on the ESP, and repair what can be repaired without the network."""

from __future__ import annotations

from dataclasses import dataclass

from ..boot import entries, kernels
from ..boot.esp import Esp
from ..deploy.execute import kernel_contents
from ..deploy.facts import kernel_names
from ..deploy.journal import Journal
from ..deploy.plan import Action, Kernel, Plan, Step
from ..deploy.records import Record
from ..errors import BootcdError
from ..layout import TAG_PREFIX
from ..store import fsck
from ..store.fsck import FsckReport
from .compose import kernel_of_image
from .machine import Machine
from .results import FsckItem, FsckResult
from .session import Session, change, look

KERNEL_DAMAGED = "kernel-damaged"
ENTRY_MISSING = "entry-missing"
"""The kinds of findings about the ESP; all others are those of cfsctl's fsck."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at everything found."""

    report: FsckReport
    kernels: list[tuple[Record, FsckItem]]
    entries: list[tuple[Record, FsckItem]]

    @property
    def items(self) -> list[FsckItem]:
        return [*(FsckItem(finding.kind, finding.what, finding.detail) for finding in self.report.findings),
                *(item for _, item in (*self.kernels, *self.entries))]


def verify(machine: Machine, *, repair: bool, metadata_only: bool) -> FsckResult:
    """Run fsck; with `repair`, remove what is damaged, name what has to be pulled again, and copy kernels anew.

    After a repair everything is looked at once more, and `ok` is about that. What stays broken is among the findings
    and no error: the rest is repaired all the same.
    """
    if not repair:
        with look(machine) as session:
            found = _look(session, metadata_only)
            return _result(found, found.items, ok=not found.items)
    with change(machine) as session:
        found = _look(session, metadata_only)
        if not found.items:
            return _result(found, [], ok=True)
        pull_again = [] if found.report.ok else _by_reference(session, fsck.repair(session.repository, found.report))
        _repair_esp(session, found)
        left = _look(session, metadata_only)
        known = {(item.kind, item.what) for item in found.items}
        new = [item for item in left.items if (item.kind, item.what) not in known]
        return _result(left, [*found.items, *new], ok=not pull_again and not left.items,
                       repaired=bool(new) or len(left.items) < len(found.items), pull_again=tuple(pull_again))


def _look(session: Session, metadata_only: bool) -> _Found:
    return _Found(
        fsck.check(session.repository, metadata_only=metadata_only, progress=session.progress),
        _broken_kernels(session, metadata_only), _lost_entries(session),
    )


def _by_reference(session: Session, names: list[str]) -> list[str]:
    """Names of images as `image pull` takes them: our own tags and digests say nothing about where an image is from."""
    images = {record.manifest_digest: record.image for record in session.records.load()[0].values()}
    return list(dict.fromkeys(images.get(name.removeprefix(TAG_PREFIX), name) for name in names))


def _broken_kernels(session: Session, metadata_only: bool) -> list[tuple[Record, FsckItem]]:
    """Kernels that deployments boot from and that are missing, incomplete or have other content than they should.

    What a pair should hold is in its name; a UKI with its addons is compared with its image. When that is damaged, it
    is a finding of its own.
    """
    records = session.records.load()[0]
    if not records:
        return []
    found: dict[tuple[str, str], tuple[Record, FsckItem]] = {}
    for esp in session.boot.places:
        installed = {kernel.name: kernel for kernel in kernels.list_kernels(esp).kernels}
        for record in records.values():
            for name in kernel_names(record):
                kernel = installed.get(name)
                if kernel is None or not kernel.complete:
                    problem = "missing" if kernel is None else "incomplete"
                elif metadata_only or (esp.path, name) in found or _is_sound(session, esp, record, name):
                    continue
                else:
                    problem = "its content has another digest"
                item = FsckItem(KERNEL_DAMAGED, name, problem + _where(session, esp))
                found.setdefault((esp.path, name), (record, item))
    return list(found.values())


def _where(session: Session, esp: Esp) -> str:
    return f" on {esp.path}" if session.boot.are_several else ""


def _is_sound(session: Session, esp: Esp, record: Record, name: str) -> bool:
    try:
        if record.boot_type != "uki":
            return kernels.verify_kernel(esp, name)
        files = kernel_contents(session.repository, kernel_of_image(session, record).files)
    except BootcdError as error:
        if record.boot_type != "uki":
            session.progress.note(f"Kernel {name[:16]} cannot be read: {error}")
            return False
        session.progress.note(f"The UKI of deployment {record.short_id} cannot be compared with its image: {error}")
        return True
    return kernels.verify_uki(esp, record.id, files.pop("uki"), files)


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
    found = []
    for esp in session.boot.places:
        there = {entry.id_prefix for entry in entries.list_entries(esp).ours}
        what = f"generation {{}} has no boot entry{_where(session, esp)}"
        found += [(record, FsckItem(ENTRY_MISSING, record.id, what.format(record.generation)))
                  for record in deployed if record.short_id not in there]
    return found


def _repair_esp(session: Session, found: _Found) -> None:
    """Copy kernels and write entries anew, each for itself: what fails is noted and stays a finding."""
    session.boot.clean()  # what an interrupted repair left takes the room that this one needs
    failed: set[str] = set()
    for record, item in found.kernels:
        try:
            _repair_kernel(session, kernel_of_image(session, record))
        except BootcdError as error:
            failed.add(item.what)
            session.progress.note(f"The kernel of deployment {record.short_id} cannot be copied again: {error}")
    for record, _ in found.entries:
        if not failed.isdisjoint(kernel_names(record)):
            continue  # an entry that cannot boot would only be in the way of those that can
        step = Step(Action.WRITE_ENTRY, {"id": record.id, "generation": record.generation, "tries": 0})
        try:
            session.boot.prepare()
            session.run(Plan("repair", (step,)))
        except BootcdError as error:
            session.progress.note(f"The entry of deployment {record.short_id} cannot be written again: {error}")


def _repair_kernel(session: Session, kernel: Kernel) -> None:
    """Copy a kernel from the objects of its image to the ESP once more.

    Without a plan: a cut-off repair is found by the next one, and what is on the ESP is never removed for it.
    """
    files = kernel_contents(session.repository, kernel.files)
    session.boot.prepare()
    if "uki" in files:
        uki = files.pop("uki")
        session.boot.each(lambda esp: kernels.install_uki(esp, kernel.name.removesuffix(".efi"), uki, files))
    else:
        session.boot.each(lambda esp: kernels.replace_kernel(esp, kernel.name, files["vmlinuz"], files["initrd"]))


def _result(
    found: _Found, items: list[FsckItem], *, ok: bool, repaired: bool = False, pull_again: tuple[str, ...] = (),
) -> FsckResult:
    report = found.report
    return FsckResult(ok=ok, objects=report.objects, streams=report.streams, images=report.images,
                      findings=tuple(items), repaired=repaired, pull_again=pull_again)
