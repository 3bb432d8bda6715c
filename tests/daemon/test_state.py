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


def test_what_was_never_read_is_no_empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "FIRST_PATIENCE", 0.001)

    async def story() -> list[Status]:
        shown: list[Status] = []
        known = state.State(lambda: Settings(str(tmp_path), None, Config()), shown.append)
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
