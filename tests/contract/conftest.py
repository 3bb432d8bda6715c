# SPDX-License-Identifier: Apache-2.0
"""One suite for every face of `ops.host.Host`: what is promised holds, whoever answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.host import Host
from kit.bus import SystemBus, available
from kit.world import FAT, World


def _direct(world: World) -> Host:
    return DirectHost(world.sysroot, world.esp, world.config, SilentProgress())


@pytest.fixture(scope="session", params=["direct", "bus"])
def face(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus | None]:
    """Who answers: this process, or a daemon on this bus. The bus is there for all tests, the daemon for one."""
    if request.param == "direct":
        yield None
    elif not available():
        pytest.skip("dbus-daemon is not installed")
    else:
        with SystemBus(tmp_path_factory.mktemp("bus")) as bus:
            yield bus


@pytest.fixture
def world(face: SystemBus | None, tmp_path: Path) -> Iterator[World]:
    boot = tmp_path if FAT is None else Path(tempfile.mkdtemp(dir=FAT))
    if face is None:
        yield World(tmp_path, _direct, boot)
    else:
        from kit.served import Served  # not where there is no bus, nor dbus-next: in the virtual machine

        with Served(face, _direct) as served:
            yield World(tmp_path, served.connect, boot)
