# SPDX-License-Identifier: Apache-2.0
"""What was gained, and lost, by not fetching layers whole."""

from __future__ import annotations

import threading

from ..errors import Interrupted, NoSpace

FINAL = (Interrupted, NoSpace)
"""Errors after which the whole layer would do no better. After all others it may, or its error tells more: what cannot
be read of an old file need not be read then."""


class Savings:
    """`saved` are the compressed bytes that were not fetched of layers that were imported, `resumed` those that an
    earlier attempt had left of them, and `wasted` those that were fetched in vain. Safe to use from several threads."""

    def __init__(self, spare: int | None = None) -> None:
        """`spare` bytes may be wasted; None for any number."""
        self.saved = 0
        self.resumed = 0
        self.wasted = 0
        self._spare = spare
        self._lock = threading.Lock()

    def risk(self, size: int) -> bool:
        """Whether `size` bytes may be fetched although it may be in vain. If so, they are spare no more, until they are
        counted as `risked` and came to something."""
        with self._lock:
            if self._spare is None:
                return True
            if size > self._spare:
                return False
            self._spare -= size
            return True

    def count(self, *, saved: int = 0, resumed: int = 0, wasted: int = 0, risked: int = 0) -> None:
        with self._lock:
            self.saved += saved
            self.resumed += resumed
            self.wasted += wasted
            if self._spare is not None:
                self._spare += risked - wasted
