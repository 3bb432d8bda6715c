# SPDX-License-Identifier: Apache-2.0
"""What was gained, and lost, by not fetching layers whole."""

from __future__ import annotations

import threading


class Savings:
    """`saved` are the compressed bytes that were not fetched of layers that were imported, and `wasted` those that were
    fetched in vain. Safe to use from several threads."""

    def __init__(self) -> None:
        self.saved = 0
        self.wasted = 0
        self._lock = threading.Lock()

    def count(self, saved: int = 0, wasted: int = 0) -> None:
        with self._lock:
            self.saved += saved
            self.wasted += wasted
