# SPDX-License-Identifier: Apache-2.0
"""Jobs without number: the daemon is the same after them as before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from bootcd.daemon.lingering import MAX_ENDED
from kit import bus as bus_kit
from kit.bus import Daemon, SystemBus
from kit.caller import JOB, MANAGER, ROOT, Caller
from kit.churn import Churn
from kit.machine import children, descriptors, install, memory, threads, until

pytestmark = pytest.mark.skipif(not bus_kit.available(), reason="dbus-daemon is not installed")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Daemon, SystemBus]]:
    world = install(tmp_path)
    with SystemBus(tmp_path / "bus") as bus, Daemon(bus, world.sysroot, world.esp) as daemon:
        yield daemon, bus


@pytest.mark.parametrize("jobs", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_jobs_that_fail_or_are_cancelled_leave_nothing(daemon: tuple[Daemon, SystemBus], jobs: int) -> None:
    process, bus = daemon
    with Caller(bus.address) as caller:
        churn = Churn(caller)
        churn.run(80)  # until as many ended jobs are kept as ever are
        until(lambda: not children(process.pid) and threads(process.pid) == 1, "the end of all workers")
        before = descriptors(process.pid), threads(process.pid)
        used = [memory(process.pid, "Private_Dirty")]
        for _ in range(4):
            churn.run(jobs // 4)
            until(lambda: not children(process.pid) and threads(process.pid) == 1, "the end of all workers")
            used.append(memory(process.pid, "Private_Dirty"))
        assert (descriptors(process.pid), threads(process.pid)) == before
        # Python takes half a megabyte at a time, and then none for long; what leaks grows in each round.
        assert min(later - earlier for earlier, later in pairwise(used)) < 64
        assert used[-1] - used[0] < 4096
        assert churn.states == {"failed", "cancelled"}
        # The newest: their callers may not have looked yet. The last ones go when the status is read once more.
        until(lambda: len(caller.get(ROOT, MANAGER, "Jobs")) == MAX_ENDED, "the end of the older jobs")
        kept = caller.get(ROOT, MANAGER, "Jobs")
        assert set(churn.paths[8 - MAX_ENDED:]) <= set(kept), "but for those that ended before older ones"
        assert caller.get(kept[0], JOB, "State") in churn.states
        assert caller.get(ROOT, MANAGER, "ActiveJob") == "/"


def test_callers_that_come_and_go_leave_nothing(daemon: tuple[Daemon, SystemBus]) -> None:
    process, bus = daemon

    def visit(count: int) -> None:
        for number in range(count):
            with Caller(bus.address) as caller:
                caller.listen()
                caller.get(ROOT, MANAGER, "Deployments")
                caller.manager("GetStatus")
                if number % 10 == 0:  # each has a signature of its own
                    caller.send("Upgrade", "(" * (number % 30 + 1) + "s" + ")" * (number % 30 + 1),
                                _nested(number % 30 + 1), place=("org.bootcd1", ROOT, MANAGER))

    visit(400)
    before, used = descriptors(process.pid), memory(process.pid, "Private_Dirty")
    for _ in range(4):  # sooner or later the memory of the first ones is used again; what leaks goes on growing
        visit(200)
        grown, used = memory(process.pid, "Private_Dirty") - used, memory(process.pid, "Private_Dirty")
        if grown < 128:
            break
    assert grown < 128
    assert descriptors(process.pid) == before


def _nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value
