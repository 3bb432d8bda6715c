# SPDX-License-Identifier: Apache-2.0
"""What is over stays for a while, and not without end."""

from __future__ import annotations

import asyncio

import pytest

from bootcd.daemon import lingering
from bootcd.daemon.lingering import MAX_ENDED, Lingering


def test_it_goes_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER", 0.01)
    gone: list[str] = []

    async def work() -> None:
        over = Lingering(gone.append)
        over.add("one")
        assert gone == []
        await asyncio.sleep(0.1)
        assert gone == ["one"]
        over.add("two")
        over.close()
        await asyncio.sleep(0.1)
        assert gone == ["one"]

    asyncio.run(work())


def test_of_too_many_those_go_that_have_been_over_for_the_longest() -> None:
    """Not those that began first: a long upgrade ends after many checks of somebody who is in the way."""
    gone: list[int] = []

    async def work() -> None:
        over = Lingering(gone.append)
        for number in (*range(1, MAX_ENDED + 1), 0):
            over.add(number)
        assert gone == [1]
        over.close()

    asyncio.run(work())
