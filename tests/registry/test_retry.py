# SPDX-License-Identifier: Apache-2.0
"""The bandwidth limit: all threads together get what it says, and whoever waits can be woken."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from bootcd.errors import SourceUnreachable
from bootcd.registry.retry import Attempts, Pace, RateLimit
from bootcd.registry.sources import SourceOptions, TransientFailure


class TestRateLimit:
    def test_all_threads_together(self) -> None:
        limit = RateLimit(1_000_000)
        began = time.monotonic()

        def take() -> None:
            for _ in range(10):
                limit.take(20_000, time.sleep)

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began == pytest.approx(0.6, abs=0.15)

    def test_what_was_not_used_is_lost(self) -> None:
        limit = RateLimit(1000)
        time.sleep(0.8)
        pauses: list[float] = []
        limit.take(1000, pauses.append)
        assert pauses == [pytest.approx(0.5, abs=0.05)]

    def test_the_pauses_add_up(self) -> None:
        limit = RateLimit(1000)
        pauses: list[float] = []
        for _ in range(5):
            limit.take(1000, pauses.append)
        assert all(later - earlier == pytest.approx(1, abs=0.05) for earlier, later in pairwise(pauses))

    def test_a_wait_that_raises_ends_it(self) -> None:
        def stop(seconds: float) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            RateLimit(1).take(100, stop)


def test_a_pace_is_judged_by_what_it_waited() -> None:
    pace = Pace(SourceOptions(stall_bytes=100, stall_time=10))
    assert pace.arrived(1, 9)
    assert not pace.arrived(1, 2)
    assert pace.arrived(99, 9)
    assert pace.arrived(1, 100)
    assert pace.arrived(0, 9)


def test_after_a_stall_a_few_bytes_are_no_progress() -> None:
    attempts = Attempts(SourceOptions(attempts=3, backoff=0, stall_bytes=100), lambda seconds: None)
    stall = TransientFailure(SourceUnreachable("x"), stalled=True)
    attempts.failed(stall)
    attempts.progress(100)
    attempts.failed(stall)
    attempts.progress(60)
    attempts.failed(stall)
    attempts.progress(99)
    with pytest.raises(SourceUnreachable, match="gave up after 3"):
        attempts.failed(stall)


def test_after_a_break_any_byte_is() -> None:
    attempts = Attempts(SourceOptions(attempts=2, backoff=0), lambda seconds: None)
    for _ in range(5):
        attempts.failed(TransientFailure(SourceUnreachable("x")))
        attempts.progress(1)
