# SPDX-License-Identifier: Apache-2.0
"""Daemon, worker and bus die at any moment: the installation stays sound, and the next daemon goes on from there."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootcd.errors import Interrupted
from crash import invariant
from crash.program import Program, fast_directory
from kit import bus as bus_kit
from kit.bus import Daemon, SystemBus
from kit.caller import JOB, MANAGER, ROOT, Caller
from kit.machine import alive, bulky, children, install, silent_source, until
from kit.os_images import os_image
from kit.world import World

pytestmark = pytest.mark.skipif(not bus_kit.available(), reason="dbus-daemon is not installed")

PROMPT = 15.0
"""Seconds in which whatever dies is gone, on a loaded machine."""
MEGABYTES = 30


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as bus:
        yield bus


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with fast_directory() as scratch, Program(scratch) as program:
        yield program


@dataclass
class Machine:
    """An installation, and what must not be lost of it."""

    world: World
    bus: SystemBus
    program: Program
    before: invariant.Before

    def daemon(self, **environment: str) -> Daemon:
        return Daemon(self.bus, self.world.sysroot, self.world.esp, environment=environment)

    def caller(self) -> Caller:
        return Caller(self.bus.address)

    def publish(self, version: str, megabytes: float = 0) -> None:
        self.world.publish(bulky(version, megabytes) if megabytes else os_image(version))

    def check_sound(self, version: str) -> None:
        """Nothing is lost, and a daemon that starts now checks everything and upgrades to `version`."""
        with self.daemon(), self.caller() as caller:
            assert caller.get(ROOT, MANAGER, "ActiveJob") == "/"
            job = caller.manager("Fsck")
            assert caller.wait_over(job) == "succeeded", caller.get(job, JOB, "Error")
            assert caller.get(job, JOB, "Result")["ok"] is True
            job = caller.manager("Upgrade")
            assert caller.wait_over(job) == "succeeded", caller.get(job, JOB, "Error")
            deployments = caller.manager("GetStatus")["deployments"]
            assert next(info["version"] for info in deployments if "default" in info["roles"]) == version
            assert caller.get(ROOT, MANAGER, "Unfinished") == ""
        invariant.check(self.program, self.world.directory, self.before)


@pytest.fixture
def machine(bus: SystemBus, program: Program) -> Iterator[Machine]:
    with fast_directory() as directory:
        world = install(directory)
        assert program(directory, "pin", "default", "--label", "good").status == 0
        yield Machine(world, bus, program, invariant.look(program, directory))


def gone(pid: int) -> None:
    until(lambda: not alive(pid), f"the end of process {pid}", PROMPT)


def worker_of(daemon: Daemon) -> int:
    """The process of the only job."""
    until(lambda: len(children(daemon.pid)) == 1, "the start of the worker")
    return children(daemon.pid)[0]


def field(pid: int, name: str) -> str:
    """A line of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:"))


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether it has a handler for a signal."""
    return bool(int(field(pid, "SigCgt"), 16) >> (number - 1) & 1)


# --- the worker -------------------------------------------------------------------------------------------------------


def step_names(machine: Machine) -> list[str]:
    """Each step of an upgrade, once, in order of first appearance."""
    with fast_directory() as directory:
        world = install(directory)
        world.publish(os_image("1.1"))
        return list(dict.fromkeys(machine.program.steps(directory, "upgrade")))


def dies_at(machine: Machine, step: str) -> None:
    """The worker of an upgrade ends at that step, as by SIGKILL. The daemon tells so, and knows what is there."""
    machine.publish("1.1")
    with machine.daemon(BOOTCD_CRASH_AT=step) as daemon, machine.caller() as caller:
        job = caller.manager("Upgrade")
        assert caller.wait_over(job) == "failed"
        name, message, _ = caller.get(job, JOB, "Error")
        assert (name, message) == ("org.bootcd1.Error.Failed", "the worker died (exit status 137)")
        last = caller.get(ROOT, MANAGER, "LastResult")
        assert (last["verb"], last["state"], last["message"]) == ("upgrade", "failed", message)
        assert caller.manager("GetStatus")["deployments"]
        assert caller.get(ROOT, MANAGER, "ActiveJob") == "/"
        assert alive(daemon.pid)
    machine.check_sound("1.1")


@pytest.mark.parametrize("place", [0.2, 0.9])
def test_worker_dies_at_a_step(machine: Machine, place: float) -> None:
    names = step_names(machine)
    dies_at(machine, names[int(place * len(names))])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_worker_dies_at_every_step(bus: SystemBus, program: Program, part: int) -> None:
    with fast_directory() as directory:
        names = step_names(Machine(install(directory), bus, program, invariant.look(program, directory)))
    assert len(names) > 10
    for name in names[part::4]:
        with fast_directory() as directory:
            print(name)  # shown when it fails
            dies_at(Machine(install(directory), bus, program, invariant.look(program, directory)), name)


def test_worker_is_killed_while_it_works(machine: Machine) -> None:
    machine.publish("1.1", MEGABYTES)
    with machine.daemon() as daemon, machine.caller() as caller:
        caller.listen()
        job = caller.manager("Upgrade")
        worker = worker_of(daemon)
        caller.signal(lambda signal: signal.path == job and "BytesDone" in signal.body[1])
        os.kill(worker, signal.SIGKILL)
        assert caller.wait_over(job) == "failed"
        assert caller.get(job, JOB, "Error")[1] == "the worker died (signal 9)"
        job = caller.manager("Upgrade")
        assert caller.wait_over(job) == "succeeded"
    machine.check_sound("1.1")


@pytest.mark.slow
def test_worker_that_stopped_is_cancelled_by_force(machine: Machine) -> None:
    """It does not hear SIGTERM; nobody waits for it for ever."""
    with silent_source() as image, machine.daemon() as daemon, machine.caller() as caller:
        job = caller.manager("PullImage", image)
        worker = worker_of(daemon)
        until(lambda: handles(worker, signal.SIGTERM), "the start of its program")
        os.kill(worker, signal.SIGSTOP)
        until(lambda: field(worker, "State").startswith("T"), "the stop")
        caller.cancel(job)
        assert caller.get(job, JOB, "State") == "cancelling"
        assert caller.wait_over(job, 30) == "cancelled"
        assert caller.get(job, JOB, "Error")[0] == Interrupted.bus_name()
        gone(worker)


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_daemon_ends_and_takes_its_worker_along(machine: Machine, number: signal.Signals) -> None:
    machine.publish("1.1", MEGABYTES)
    with machine.daemon() as daemon, machine.caller() as caller:
        caller.listen()
        job = caller.manager("Upgrade")
        worker = worker_of(daemon)
        caller.signal(lambda signal: signal.path == job and "BytesDone" in signal.body[1])
        os.kill(daemon.pid, number)
        assert daemon.wait() == (0 if number == signal.SIGTERM else -number)
        gone(worker)
    machine.check_sound("1.1")


def test_daemon_tells_that_it_cancelled_the_job(machine: Machine) -> None:
    """SIGTERM: the job ends first, its end is told, and then the daemon goes."""
    with silent_source() as image, machine.daemon() as daemon, machine.caller() as caller:
        caller.listen()
        job = caller.manager("PullImage", image)
        worker_of(daemon)
        start = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - start < PROMPT
        assert caller.signal(lambda signal: signal.member == "JobRemoved").body[1:3] == [job, "cancelled"]
        assert "Traceback" not in daemon.log()


@pytest.mark.slow
def test_daemon_is_killed_at_random_moments(machine: Machine) -> None:
    rng = random.Random(7)
    for round in range(1, 13):
        version = f"1.{round}"
        machine.publish(version, 5)
        with machine.daemon() as daemon, machine.caller() as caller:
            caller.manager("Upgrade")
            worker = worker_of(daemon)
            time.sleep(rng.uniform(0, 1.5))
            daemon.kill()
            gone(worker)
        if round % 4 == 0:
            machine.check_sound(version)


def test_bus_dies(machine: Machine, tmp_path: Path) -> None:
    """The daemon ends by itself, with an error, and takes the worker along."""
    machine.publish("1.1", MEGABYTES)
    with (SystemBus(tmp_path / "bus") as own, Daemon(own, machine.world.sysroot, machine.world.esp) as daemon,
          Caller(own.address) as caller):
        caller.listen()
        job = caller.manager("Upgrade")
        worker = worker_of(daemon)
        caller.signal(lambda signal: signal.path == job and "BytesDone" in signal.body[1])
        start = time.monotonic()
        own.kill()
        assert daemon.wait() != 0
        assert time.monotonic() - start < PROMPT
        assert "disconnected from the bus" in daemon.log()
        assert "Traceback" not in daemon.log()
        gone(worker)
    machine.check_sound("1.1")


def test_bus_dies_while_nothing_happens(machine: Machine, tmp_path: Path) -> None:
    with SystemBus(tmp_path / "bus") as own, Daemon(own, machine.world.sysroot, machine.world.esp) as daemon:
        own.kill()
        assert daemon.wait() != 0


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_cancel_at_random_moments(machine: Machine, rounds: int) -> None:
    """A job that is cancelled is cancelled, or was faster."""
    rng = random.Random(rounds)
    ends: list[str] = []
    with machine.daemon(), machine.caller() as caller:
        machine.publish("1.1", 4)
        start = time.monotonic()
        assert caller.wait_over(caller.manager("Upgrade")) == "succeeded"
        whole = time.monotonic() - start
        for round in range(rounds):
            machine.publish(f"1.{round + 2}", 4)
            job = caller.manager("Upgrade")
            time.sleep(whole * 1.2 * (round + rng.random()) / rounds)
            caller.cancel(job)
            ends.append(caller.wait_over(job))
            assert ends[-1] in ("cancelled", "succeeded"), caller.get(job, JOB, "Error")
            if ends[-1] == "cancelled":
                assert caller.get(job, JOB, "Error")[0] == Interrupted.bus_name()
    assert "cancelled" in ends
    machine.check_sound(f"1.{rounds + 1}")
