# SPDX-License-Identifier: Apache-2.0
"""What is known about the installation is never made up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.daemon import state
from bootcd.daemon.jobs import Settings
from bootcd.ops.results import Status
from kit.machine import install
from kit.os_images import os_image


def test_what_was_never_read_is_no_empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FIRST_PATIENCE", 0.001)

    async def story() -> list[Status]:
        shown: list[Status] = []
        known = state.State(lambda: Settings(str(tmp_path), None, Config()), shown.append, lambda: False)
        try:
            early = await known.fresh()
            await known.refresh()
            return [early, *shown]
        finally:
            known.close()

    early, *later = asyncio.run(story())
    assert early.warnings == (state.NOT_READ,)
    assert later  # it may have been read more than once by then
    assert all(one.warnings == () for one in later)


@pytest.mark.parametrize("working", [False, True])
def test_what_changes_while_a_job_works_is_its_work(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, working: bool) -> None:
    """Of that it tells itself, at its end; what somebody else changes beside it is seen a bit later."""
    monkeypatch.setattr(state, "WORKING", 3.0)
    world = install(tmp_path)

    async def story() -> list[int]:
        shown: list[Status] = []
        known = state.State(lambda: Settings(str(world.sysroot), str(world.esp), Config()), shown.append,
                            lambda: working)
        try:
            await known.refresh()
            await asyncio.sleep(2 * state.SETTLE)
            before = len(shown)
            world.upgrade(os_image("1.1"))
            await asyncio.sleep(2)
            soon = len(shown) - before
            async with asyncio.timeout(30):
                while len(known.status.deployments) < 2:
                    await asyncio.sleep(0.05)
            return [soon, len(shown) - before]
        finally:
            known.close()

    soon, later = asyncio.run(story())
    assert (soon == 0) == working
    assert later > 0
