# SPDX-License-Identifier: Apache-2.0
"""Questions are answered by work that began after them, with as little work as possible."""

from __future__ import annotations

import asyncio

import pytest

from bootcd.daemon.latest import Latest


class Clock:
    """Work that takes until somebody lets it end, and tells how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()

    async def work(self) -> int:
        self.begun += 1
        mine = self.begun
        await self.go.wait()
        return mine


def test_who_asks_during_the_work_gets_the_next_one_and_shares_it() -> None:
    async def story() -> tuple[list[int], int]:
        clock = Clock()
        latest = Latest(clock.work)
        asked = [latest.ask()]
        await asyncio.sleep(0)
        asked += [latest.ask() for _ in range(100)]
        clock.go.set()
        return list(await asyncio.gather(*asked)), clock.begun

    answers, begun = asyncio.run(story())
    assert answers == [1, *[2] * 100]
    assert begun == 2


def test_questions_that_never_stop_are_answered() -> None:
    """Each waits for two rounds at most, however many others ask."""
    async def story() -> int:
        clock = Clock()
        clock.go.set()
        latest = Latest(clock.work)

        async def ask_on() -> None:
            while True:
                latest.ask().add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.sleep(0)

        others = asyncio.ensure_future(ask_on())
        await asyncio.sleep(0.01)
        before = clock.begun
        answer = await asyncio.wait_for(latest.ask(), 1)
        others.cancel()
        latest.close()
        await asyncio.gather(others, return_exceptions=True)
        return answer - before

    assert 1 <= asyncio.run(story()) <= 2


def test_who_gives_up_stops_nobody_else() -> None:
    async def story() -> int:
        clock = Clock()
        latest = Latest(clock.work)
        first, second = latest.ask(), latest.ask()
        first.cancel()
        clock.go.set()
        return await second

    assert asyncio.run(story()) == 2


def test_errors_reach_all_who_wait() -> None:
    async def broken() -> int:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def story() -> list[int | BaseException]:
        latest = Latest(broken)
        return await asyncio.gather(latest.ask(), latest.ask(), latest.ask(), return_exceptions=True)

    assert [str(found) for found in asyncio.run(story())] == ["broken"] * 3


def test_who_waits_at_the_end_is_cancelled() -> None:
    async def story() -> None:
        latest = Latest(Clock().work)
        waiting = [latest.ask(), latest.ask()]
        await asyncio.sleep(0)
        latest.close()
        for one in waiting:
            with pytest.raises(asyncio.CancelledError):
                await one

    asyncio.run(story())
