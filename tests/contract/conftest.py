# SPDX-License-Identifier: Apache-2.0
"""One suite for every face of `ops.host.Host`: what is promised holds, whoever answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.host import Host
from kit.world import FAT, World


def _direct(world: World) -> Host:
    return DirectHost(world.sysroot, world.esp, world.config, SilentProgress())


@pytest.fixture(params=[pytest.param(_direct, id="direct")])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if FAT is None:
        return World(tmp_path, request.param, tmp_path)
    return World(tmp_path, request.param, Path(tempfile.mkdtemp(dir=FAT)))
