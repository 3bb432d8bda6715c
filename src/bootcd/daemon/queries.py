# SPDX-License-Identifier: Apache-2.0
"""Questions whose answer is not kept in memory: a worker reads it.

Everybody may ask, so what that costs is bounded: few workers at a time, a few questions of each user, and a question
that waits for its turn is asked once for all who have it, even for those who have left meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from ..errors import Busy
from .exports import BusError
from .jobs import Settings
from .worker import Request, Worker

MAX_RUNNING = 2
MAX_WAITING = 8
"""Different questions of one user; the same ones do not count, and root is not kept waiting by others."""


class Queries:
    """Asks workers, on behalf of whoever calls."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._free = asyncio.Semaphore(MAX_RUNNING)
        self._for_root = asyncio.Semaphore(MAX_RUNNING)
        self._waiting: dict[tuple[int, str], asyncio.Task[object]] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    async def ask(self, uid: int, method: str, **arguments: Any) -> object:
        """What the method of `ops.host.Host` returns, as JSON, read after this call was made. Raises Busy, and
        BusError for an error of the method."""
        key = uid, json.dumps([method, arguments])
        task = self._waiting.get(key)
        if task is None:
            if uid and sum(user == uid for user, _ in self._waiting) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} questions of uid {uid} wait for an answer already",
                           advice="Try again in a moment.")
            task = asyncio.get_running_loop().create_task(self._answer(key, method, arguments))
            self._waiting[key] = task
            self._tasks.add(task)
            task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _answer(self, key: tuple[int, str], method: str, arguments: dict[str, Any]) -> object:
        async with self._free if key[0] else self._for_root:
            del self._waiting[key]  # who asks from now on may know of something that this answer does not
            settings = self._settings()
            request = Request(method, arguments, settings.sysroot, settings.esp, settings.config)
            outcome = await Worker(request, lambda event: None).run()
        if outcome.error is not None:
            raise BusError(outcome.error.name, outcome.error.message, outcome.error.advice)
        return outcome.result

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more
