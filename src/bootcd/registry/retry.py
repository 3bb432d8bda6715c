# SPDX-License-Identifier: Apache-2.0
"""How often and how long to wait when a transfer breaks off."""

from __future__ import annotations

import random
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

    def progress(self) -> None:
        """New bytes arrived: the count starts again."""
        self._failed = 0

    def failed(self, failure: TransientFailure) -> None:
        """Wait before the next attempt, or raise the failure's error when this was the last."""
        self._failed += 1
        options = self._options
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
