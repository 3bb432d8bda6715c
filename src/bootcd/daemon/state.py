# SPDX-License-Identifier: Apache-2.0
"""What is known about the installation, in memory, and how it stays true.

A worker reads it: at start, after each job, and when another process changed something, which inotify tells. While a
job works, most of what changes is its work, of which it tells itself: then changes are looked at now and then. Whoever
needs to be sure compares fingerprints first (`fresh`), which costs a few calls of stat; in a thread, since a disk may
be slow or dead. Nothing here raises because of what is read, and what was read earlier never replaces what was read
later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BootcdError, FormatError
from ..layout import Sysroot
from ..linux.watch import Watch
from ..model import SilentProgress
from ..ops.fingerprint import fingerprint, watched
from ..ops.last import LOST
from ..ops.machine import Machine
from ..ops.resultjson import from_json, to_json
from ..ops.results import LastResult, Status
from .inthread import in_thread
from .jobs import Settings
from .latest import Latest
from .worker import Outcome, Request, Worker

log = logging.getLogger(__name__)

SETTLE = 0.1
"""Seconds of quiet to wait for after a change, since one rarely comes alone."""
AT_MOST = 1.0
"""Seconds to wait for quiet."""
WORKING = 30.0
"""Seconds to wait after a change while a job works."""
PATIENCE = 20.0
"""Seconds that a caller waits for the disk; then it gets what is in memory."""
FIRST_PATIENCE = 50.0
"""The same while nothing is in memory; bootcctl waits a bit longer."""
RETRY = 10.0
"""Seconds after which a status that could not be read is read again."""
NOT_READ = "the status has not been read yet: the disk does not answer"


class State:
    """The last known status. `changed` is called with each new one; `working` tells whether a job is."""

    def __init__(self, settings: Callable[[], Settings], changed: Callable[[Status], None],
                 working: Callable[[], bool]) -> None:
        self._settings = settings
        self._changed = changed
        self._working = working
        self._fingerprint: Any = None
        self._taken = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._unquiet_since = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._readings = Latest(self._read)
        self._looks = Latest(lambda: in_thread(partial(self._look, self._machine())))
        self._watch = Watch()
        self.status = Status(settings().sysroot, "", (), None, "", (NOT_READ,))
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._something_happened)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._readings.close()
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()

    def take(self, outcome: Outcome) -> None:
        """What a worker read after its work."""
        if outcome.status is None:
            return
        try:
            status = from_json(Status, outcome.status)
        except FormatError as error:
            self._cannot_be_read(f"a worker told what makes no sense: {error}")
            return
        self._taken += 1
        self._fingerprint = outcome.fingerprint
        self._show(status)
        # Directories may have appeared that have to be watched, and things may have changed since they were read.
        self._later("look", SETTLE, self._settled)

    async def keep(self, lost: LastResult) -> None:
        """Write down how an operation ended whose worker died, and read what it has left."""
        self._show(replace(self.status, last=lost))
        settings = self._settings()
        self.take(await Worker(Request(LOST, {"result": to_json(lost)}, settings.sysroot, settings.esp,
                                       settings.config), lambda event: None).run())

    async def fresh(self) -> Status:
        """The status, read again first if another process has changed something; as it is in memory when the disk does
        not answer. Its only warning is NOT_READ when it was never read."""
        try:
            async with asyncio.timeout(PATIENCE if self._taken else FIRST_PATIENCE):
                if await self._looks.ask() != self._fingerprint:
                    await self.refresh()
        except TimeoutError:
            log.warning("the disk does not answer; the status may be an old one")
        return self.status

    def refresh(self) -> asyncio.Future[None]:
        """Read everything again; done when what holds now, or later, is known."""
        return self._readings.ask()

    async def _read(self) -> None:
        while True:
            taken, settings = self._taken, self._settings()
            outcome = await Worker(Request("status", {}, settings.sysroot, settings.esp, settings.config),
                                   lambda event: None).run()
            if self._taken == taken:
                break
            # A job ended meanwhile, and told more than could be seen when this was begun.
            if await self._looks.ask() == self._fingerprint:
                return
        if outcome.error is not None:
            self._cannot_be_read(outcome.error.message)
        else:
            self.take(outcome)

    def _cannot_be_read(self, why: str) -> None:
        """Say so, and try again: what is in memory may be wrong."""
        log.error("the status cannot be read: %s", why)
        self._fingerprint = None
        warning = f"the status cannot be read: {why}"
        if warning not in self.status.warnings:
            others = tuple(one for one in self.status.warnings if one != NOT_READ)
            self._show(replace(self.status, warnings=(*others, warning)))
        self._later("retry", RETRY, self.refresh)

    def _show(self, status: Status) -> None:
        self.status = status
        try:
            self._changed(status)
        except Exception:
            log.exception("the new status cannot be shown")

    # --- what others change ---------------------------------------------------------------------------------------

    def _machine(self) -> Machine:
        settings = self._settings()
        # What was found is not looked for again, unless another boot partition may come back or take its place.
        esp = settings.esp or (None if settings.config.boot_mirrors else self.status.esp)
        return Machine(Sysroot(Path(settings.sysroot)), Path(esp) if esp else None, settings.config, SilentProgress())

    def _look(self, machine: Machine) -> Any:
        """The fingerprint, in a thread. Watching comes first, so that nothing happens unseen in between."""
        try:
            for path in watched(machine):
                self._watch.add(path)
        except BootcdError as error:
            log.warning("changes by others may go unnoticed: %s", error)
        return fingerprint(machine)

    def _something_happened(self) -> None:
        if not self._watch.read():
            return
        now = asyncio.get_running_loop().time()
        if "look" not in self._timers:
            self._unquiet_since = now
        elif now - self._unquiet_since < AT_MOST:
            self._timers.pop("look").cancel()
        self._later("look", SETTLE, self._settled)

    def _settled(self) -> None:
        if self._working():
            self._later("look beside a job", WORKING, self._begin_to_compare)
        else:
            self._begin_to_compare()

    def _begin_to_compare(self) -> None:
        task = asyncio.get_running_loop().create_task(self._compare())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self) -> None:
        if await self._looks.ask() != self._fingerprint:
            await self.refresh()

    def _later(self, what: str, seconds: float, then: Callable[[], object]) -> None:
        """Do something later; once, however often it is asked for until then."""
        def now() -> None:
            del self._timers[what]
            then()

        if what not in self._timers:
            self._timers[what] = asyncio.get_running_loop().call_later(seconds, now)
