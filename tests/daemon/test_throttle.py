# SPDX-License-Identifier: Apache-2.0
"""Progress reaches clients at a bounded pace, and the last number is never held back for good."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from bootcd.daemon.throttle import INTERVAL, Throttle


def test_at_most_four_times_a_second() -> None:
    async def flood() -> list[tuple[float, int]]:
        shown: list[tuple[float, int]] = []
        throttle = Throttle()
        throttle.begin(10_000)
        end = time.monotonic() + 1.1
        done = 0
        while time.monotonic() < end:
            done += 1
            throttle.advance(done, lambda count, rate: shown.append((time.monotonic(), count)))
            await asyncio.sleep(0.001)
        await asyncio.sleep(INTERVAL)
        assert shown[-1][1] == throttle.done == done
        return shown

    shown = asyncio.run(flood())
    assert 3 <= len(shown) <= 7
    assert min(after - before for (before, _), (after, _) in pairwise(shown)) > INTERVAL * 0.9


def test_the_first_bytes_show_at_once_and_what_is_stopped_never_does() -> None:
    async def story() -> list[int]:
        shown: list[int] = []
        throttle = Throttle()
        throttle.begin(100)
        for done in (10, 20):
            throttle.advance(done, lambda count, rate: shown.append(count))
        throttle.stop()
        await asyncio.sleep(INTERVAL * 1.5)
        return shown

    assert asyncio.run(story()) == [10]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    async def story() -> int:
        rates: list[int] = []
        throttle = Throttle()
        throttle.begin(0)
        for done in (0, 50_000, 100_000):
            await asyncio.sleep(INTERVAL * 1.2)
            throttle.advance(done, lambda count, rate: rates.append(rate))
        return rates[-1]

    assert 50_000 < asyncio.run(story()) < 200_000
