# SPDX-License-Identifier: Apache-2.0
"""What is known about the installation, in memory, and how it stays true.

A worker reads it: at start, after each job, and when another process changed something, which inotify tells. Whoever
needs to be sure compares fingerprints first (`fresh`), which costs a few calls of stat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FormatError
from ..layout import Sysroot
from ..linux.watch import Watch
from ..model import SilentProgress
from ..ops.fingerprint import fingerprint, watched
from ..ops.machine import Machine
from ..ops.results import Status, from_json
from .jobs import Settings
from .worker import Outcome, Request, Worker

log = logging.getLogger(__name__)

SETTLE = 0.1
"""Seconds to wait after a change, since one rarely comes alone."""


class State:
    """The last known status. `changed` is called with each new one."""

    def __init__(self, settings: Callable[[], Settings], changed: Callable[[Status], None]) -> None:
        self._settings = settings
        self._changed = changed
        self._fingerprint: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch = Watch()
        self.status = Status(settings().sysroot, "", (), None, "", ())
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._something_happened)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()

    def take(self, outcome: Outcome) -> None:
        """What a worker read after its work."""
        if outcome.status is None:
            self.refresh()
            return
        try:
            self.status = from_json(Status, outcome.status)
        except FormatError as error:
            log.error("a worker told a status that makes no sense: %s", error)
            return
        self._fingerprint = outcome.fingerprint
        self._watch_all()
        self._changed(self.status)

    async def fresh(self) -> Status:
        """The status, read again first if another process has changed something."""
        if self._now() != self._fingerprint:
            await self.refresh()
        return self.status

    def refresh(self) -> asyncio.Future[None]:
        """Read everything again; done when it is known. While one reading is under way, another one follows it."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        else:
            self._again = True
        return asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            while True:
                self._again = False
                settings = self._settings()
                request = Request("status", {}, settings.sysroot, settings.esp, settings.config)
                outcome = await Worker(request, lambda event: None).run()
                if outcome.error is not None:
                    log.error("the status cannot be read: %s", outcome.error.message)
                    self._fingerprint = self._now()  # until something changes, trying again would end the same way
                    return
                if not self._again:
                    self.take(outcome)
                    return
        finally:
            self._reading = None

    def _now(self) -> Any:
        return fingerprint(self._machine())

    def _machine(self) -> Machine:
        settings = self._settings()
        esp = self.status.esp or settings.esp
        return Machine(Sysroot(Path(settings.sysroot)), Path(esp) if esp else None, settings.config, SilentProgress())

    def _watch_all(self) -> None:
        for path in watched(self._machine()):
            self._watch.add(path)

    def _something_happened(self) -> None:
        self._watch.read()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._settled)

    def _settled(self) -> None:
        self._timer = None
        if self._now() != self._fingerprint:
            self.refresh()
