# SPDX-License-Identifier: Apache-2.0
"""How much memory a piece of Python takes.

    with traced() as memory:
        work()
    assert memory.peak < 1 << 20
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Memory:
    """`peak` is in bytes, more than there was at the beginning; it is there after the block."""

    peak: int = 0


@contextmanager
def traced() -> Iterator[Memory]:
    """What Python allocates in the block, in all threads. Everything takes several times as long there."""
    memory = Memory()
    tracemalloc.start()
    try:
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
