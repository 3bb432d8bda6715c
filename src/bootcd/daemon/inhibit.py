# SPDX-License-Identifier: Apache-2.0
"""Keeps the machine from being shut down or put to sleep while boot entries are switched, and a reboot that was asked
of us from coming before we have answered.

The lock is logind's, in mode "block" or "delay", and held for that moment only: a download must never stop a shutdown.
It is a safety belt and not what correctness rests on, for a power cut does not ask either; where logind is absent or
slow, the switch goes on without it after `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from types import TracebackType

from .bus import inhibit

log = logging.getLogger(__name__)

WHAT = "shutdown:sleep"
WHO = "bootcd"
WHY = "The operating system that boots next is being changed."
BLOCK = "block"
DELAY = "delay"
"""Holds a shutdown back for five seconds at most (InhibitDelayMaxSec= of logind.conf(5))."""

PATIENCE = 1.0
"""Seconds that a switch waits for the lock."""


class Inhibitor:
    """One lock, taken and given back any number of times; also `async with`.

    `acquire` and `release` are for code that cannot wait. Releasing wins over an acquisition that is under way.
    """

    def __init__(self, address: str | None = None, mode: str = BLOCK) -> None:
        """`address` is that of the bus where logind is; None means the system bus."""
        self._address = address
        self._mode = mode
        self._wanted = False
        self._fd: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> bool:
        """Whether logind holds a shutdown back for us now."""
        return self._fd is not None

    def acquire(self, then: Callable[[], None]) -> None:
        """Take it, and call `then` once it is held or cannot be had."""
        self._wanted = True
        task = asyncio.get_running_loop().create_task(self._take())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._taken(done, then))

    async def take(self) -> None:
        """The same for code that can wait."""
        self._wanted = True
        await self._take()

    def release(self) -> None:
        """Give it back; harmless when it is not held."""
        self._wanted = False
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    async def __aenter__(self) -> Inhibitor:
        await self.take()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def _take(self) -> None:
        fd = await inhibit(self._address, WHAT, WHO, WHY, self._mode, timeout=PATIENCE)
        if fd is None:
            return
        if self._wanted and self._fd is None:
            self._fd = fd
        else:
            os.close(fd)

    def _taken(self, task: asyncio.Task[None], then: Callable[[], None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # the loop is being closed
            return
        if (error := task.exception()) is not None:
            log.error("cannot inhibit a shutdown", exc_info=error)
        then()
