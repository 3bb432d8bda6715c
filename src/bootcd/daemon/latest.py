# SPDX-License-Identifier: Apache-2.0
"""Work whose answer is only good if it began after the question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Does `work` once at a time. Whoever asks gets the outcome of one that began later than the question, so at most
    the one under way and the next have to be waited for; those who wait for the same one share it."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._running: asyncio.Future[T] | None = None
        self._next: asyncio.Future[T] | None = None

    def ask(self) -> asyncio.Future[T]:
        """The outcome, and what `work` raises. Giving up the future does not stop the work."""
        if self._running is None:
            self._running = self._start()
            return asyncio.shield(self._running)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._next)

    def close(self) -> None:
        """Stop; who still waits is cancelled."""
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.cancel()
        if self._running is not None:
            self._running.cancel()

    def _start(self) -> asyncio.Future[T]:
        task = asyncio.ensure_future(self._work())
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[T]) -> None:
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more
        waiting, self._next, self._running = self._next, None, None
        if waiting is not None:
            self._running = self._start()
            self._running.add_done_callback(lambda done: _copy(done, waiting))


def _copy(done: asyncio.Future[T], waiting: asyncio.Future[T]) -> None:
    if waiting.done():
        return
    if done.cancelled():
        waiting.cancel()
    elif (error := done.exception()) is not None:
        waiting.set_exception(error)
        waiting.exception()
    else:
        waiting.set_result(done.result())
