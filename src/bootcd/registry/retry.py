# SPDX-License-Identifier: Apache-2.0
"""When a transfer counts as broken off, and how often and how long to wait then."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .sources import SourceOptions, TransientFailure

T = TypeVar("T")


class Attempts:
    """Counts failures in a row. `wait` sleeps for some seconds, and may raise to end the whole affair."""

    def __init__(self, options: SourceOptions, wait: Callable[[float], object] = time.sleep) -> None:
        self._options = options
        self._wait = wait
        self._failed = 0
        self._missing = 0

    def progress(self, count: int) -> None:
        """So many new bytes arrived: the count starts again. After a stall it takes as many as are no stall: whoever
        sends a few bytes each time is not tried for ever."""
        self._missing -= count
        if self._missing <= 0:
            self._failed = 0

    def failed(self, failure: TransientFailure) -> None:
        """Wait before the next attempt, or raise the failure's error when this was the last."""
        self._failed += 1
        options = self._options
        self._missing = options.stall_bytes if failure.stalled else 0
        if self._failed >= options.attempts:
            error = failure.error
            times = f"gave up after {self._failed} attempts"
            raise type(error)(f"{error} ({times})", advice=error.hint) from None
        # Jitter keeps machines that lost the same registry from coming back all at once.
        pause = options.backoff * 2 ** (self._failed - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        self._wait(min(options.max_backoff, max(pause, failure.retry_after or 0.0)))


def persist(options: SourceOptions, action: Callable[[], T]) -> T:
    """Do a small thing, again and again while it fails transiently."""
    attempts = Attempts(options)
    while True:
        try:
            return action()
        except TransientFailure as failure:
            attempts.failed(failure)


class Pace:
    """Notices a stall: fewer than `stall_bytes` in `stall_time` seconds of waiting for them. However long it takes, a
    transfer that moves is none."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._waited = 0.0
        self._count = 0

    def arrived(self, count: int, waited: float) -> bool:
        """So many bytes came after so many seconds; False for a stall."""
        self._waited += waited
        self._count += count
        if self._waited < self._options.stall_time:
            return True
        enough = self._count >= self._options.stall_bytes
        self._waited, self._count = 0.0, 0
        return enough


class RateLimit:
    """Lets through so many bytes in a second, for all threads together. What was not used for `_SAVED` seconds is
    lost."""

    _SAVED = 0.5

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free = time.monotonic()
        """When the next byte may pass."""

    def take(self, count: int, wait: Callable[[float], object]) -> None:
        """Let `count` bytes pass; `wait` sleeps until it is their turn, and may raise."""
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now - self._SAVED) + count / self._rate
            pause = self._free - now
        if pause > 0:
            wait(pause)
