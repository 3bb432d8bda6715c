# SPDX-License-Identifier: Apache-2.0
"""An installation, opened: repository, ESP, records, and the facts that plans are made from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

from ..boot import bootc, entries, kernels
from ..boot.esp import Esp
from ..boot.partitions import Partitions
from ..config import Config
from ..deploy.execute import Executor
from ..deploy.facts import Facts, with_generations
from ..deploy.fresh import FreshState
from ..deploy.generation import last_generation
from ..deploy.plan import SWITCHING, Plan
from ..deploy.records import Records
from ..deploy.state import States
from ..errors import NoSpace, Refused
from ..layout import IMAGE_REF_PREFIX, TAG_PREFIX
from ..model import Progress
from ..registry.partial import Partials
from ..store.ociimages import OciImages
from ..store.repository import Repository
from .machine import Machine, boot_order
from .mirrors import bring_up_to_date, open_boot


class Session:
    """An open installation."""

    def __init__(self, machine: Machine, repository: Repository) -> None:
        self.machine = machine
        self.repository = repository
        self.images = OciImages(repository)
        self.records = Records(machine.sysroot.records)
        self.completed: Plan | None = None
        """What had been cut off earlier and was finished when this session began."""

    @cached_property
    def boot(self) -> Partitions:
        """The boot partitions; looked for when they are first needed, since images can be handled without one."""
        return open_boot(self.machine)

    @property
    def esp(self) -> Esp:
        """The boot partition that is read from."""
        return self.boot.first

    @cached_property
    def executor(self) -> Executor:
        return Executor(self.machine.sysroot, self.repository, self.boot)

    @cached_property
    def partials(self) -> Partials:
        """What has come of the blobs of downloads that broke off."""
        return Partials(self.machine.sysroot.downloads)

    @property
    def config(self) -> Config:
        return self.machine.config

    @property
    def progress(self) -> Progress:
        return self.machine.progress

    def run(self, plan: Plan) -> None:
        """Carry out a plan; one that writes a boot entry is not to be disturbed. Raises Refused when bootc would undo
        that, and what a step raises."""
        switches = any(step.action in SWITCHING for step in plan.steps)
        if switches and any(bootc.has_staged(esp) for esp in self.boot.places):
            raise Refused(
                bootc.HAS_STAGED,
                advice="Use one of the two: reboot, then adopt the machine with 'bootcctl adopt'; or remove that "
                "directory from the boot partition when bootc is gone.")
        with self.machine.switching() if switches else nullcontext():
            self.executor.run(plan)

    def recover(self) -> Plan | None:
        """Finish what was cut off earlier, and return its plan, if there is one. Raises what a step raises, once."""
        with self.machine.switching() if self.machine.sysroot.journal.exists() else nullcontext():
            return self.executor.recover()

    def facts(self) -> Facts:
        """The machine as it is now."""
        records, problems = self.records.load()
        for problem in problems:
            self.progress.note(f"Passed over: {problem}")
        stems = {path.stem for path in self.machine.sysroot.records.glob("*.json")}
        listing, *others = self.boot.each(entries.list_entries)
        order = boot_order(listing)
        installed = kernels.list_kernels(self.esp)
        names = self.repository.images.refs()
        return Facts(
            records=with_generations(records, order),
            entries=order,
            booted=self.machine.booted(),
            last_generation=max([last_generation(self.machine.sysroot.generation),
                                 *(record.generation or 0 for record in records.values()),
                                 *(trial.generation for record in records.values() for trial in record.trials),
                                 *(entry.generation for other in others for entry in other.ours)]),
            kernels={**{kernel.name: kernel.size for kernel in installed.kernels}, **dict.fromkeys(installed.stray, 0)},
            partial=frozenset(kernel.name for kernel in installed.kernels if not kernel.complete),
            foreign=frozenset(
                name for one in (listing, *others) for entry in one.foreign for path in entry.content.files
                if (name := kernels.kernel_of(path)) is not None
            ),
            esp_free=self.boot.free(),
            images=frozenset(name for name in records if self.repository.images.has(bytes.fromhex(name))),
            damaged=frozenset(stems - records.keys()),
            aside=FreshState(self.machine.sysroot, self.repository).asides(),
            state=States(self.machine.sysroot, self.repository).ids(),
            names=frozenset(name.removeprefix(IMAGE_REF_PREFIX) for name in names if name.startswith(IMAGE_REF_PREFIX)),
            tags=frozenset(tag.removeprefix(TAG_PREFIX) for tag in self.images.tags() if tag.startswith(TAG_PREFIX)),
        )


@contextmanager
def change(machine: Machine, *, freeing: bool = False) -> Iterator[Session]:
    """Lock the installation, open it for changes, and finish what was cut off earlier.

    Raises what finishing it raises; with `freeing`, lack of space is only noted, since that is what it is about to end.
    """
    # Looked at before the lock is made: a mistyped --sysroot shall not be filled with directories.
    Repository.open(machine.sysroot.repository).close()
    with machine.lock(), Repository.open(machine.sysroot.repository) as repository:
        repository.require_writable()
        session = Session(machine, repository)
        session.boot.check_writable()
        if session.boot.are_several:
            for error in session.boot.away.values():
                machine.progress.note(f"A boot partition is left out: {error}.")
            bring_up_to_date(machine, session.boot)
        try:
            session.completed = session.recover()
        except NoSpace as error:
            if not freeing:
                raise
            machine.progress.note(f"What had been cut off earlier could not be completed: {error}")
        if session.completed is not None:
            machine.progress.note(f"Completed '{session.completed.verb}', which had been cut off.")
        yield session


@contextmanager
def look(machine: Machine) -> Iterator[Session]:
    """Open the installation for reading; needs no lock."""
    with Repository.open(machine.sysroot.repository) as repository:
        yield Session(machine, repository)


@contextmanager
def store(machine: Machine, *, write: bool = True) -> Iterator[Session]:
    """Open only the repository, for what has nothing to do with deployments."""
    Repository.open(machine.sysroot.repository).close()  # before the lock is made, as in `change`
    with machine.lock() if write else nullcontext(), Repository.open(machine.sysroot.repository) as repository:
        if write:
            repository.require_writable()
        yield Session(machine, repository)
