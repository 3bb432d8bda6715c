# SPDX-License-Identifier: Apache-2.0
"""Objects of jobs that are over: they stay for a while, since a client that was told their path asks for their
properties, and some crash when they do not get them (GNOME Software 51)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LINGER = 30.0
"""Seconds that an object stays."""
MAX_ENDED = 64
"""Objects that stay; of more, those go earlier that have been over for the longest."""


class Lingering(Generic[T]):
    """Calls `forget` with each of what was added, when its time is over."""

    def __init__(self, forget: Callable[[T], None]) -> None:
        self._forget = forget
        self._timers: dict[T, asyncio.TimerHandle] = {}

    def add(self, one: T) -> None:
        """It is over from now on."""
        self._timers[one] = asyncio.get_running_loop().call_later(LINGER, self._drop, one)
        if len(self._timers) > MAX_ENDED:
            self._drop(next(iter(self._timers)))

    def close(self) -> None:
        """Forget nothing any more."""
        for timer in self._timers.values():
            timer.cancel()

    def _drop(self, one: T) -> None:
        self._timers.pop(one).cancel()  # or it would keep what was dropped early
        self._forget(one)
