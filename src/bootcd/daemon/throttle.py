# SPDX-License-Identifier: Apache-2.0
"""Progress at a pace that clients can follow: bytes and their rate, at most four times a second."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

INTERVAL = 0.25
WINDOW = 3.0
"""Seconds over which the rate is taken."""

Show = Callable[[int, int], None]
"""Called with bytes done and bytes in a second."""


class Throttle:
    """Counts the bytes of one stage after another."""

    def __init__(self) -> None:
        self.done = 0
        self._shown = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, total: int) -> None:
        """A stage starts."""
        self.stop()
        self.done = 0
        self._samples.clear()
        self._samples.append((time.monotonic(), 0))

    def advance(self, done: int, show: Show) -> None:
        """So many bytes of the stage are done; `show` is called now or a little later."""
        self.done = done
        if self._timer is None:
            wait = self._shown + INTERVAL - time.monotonic()
            if wait <= 0:
                self._show(show)
            else:
                self._timer = asyncio.get_running_loop().call_later(wait, self._show, show)

    def stop(self) -> None:
        """What has not been shown yet is not shown any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self, show: Show) -> None:
        self._timer = None
        self._shown = now = time.monotonic()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        show(self.done, int((self.done - before) / (now - since)) if now > since else 0)
