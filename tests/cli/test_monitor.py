# SPDX-License-Identifier: Apache-2.0
"""`bootcctl monitor`: events of a real daemon, and of one that talks nonsense."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any

import pytest
from dbus_next.signature import Variant

from bootcd.cli.client import Connection
from bootcd.cli.jobs import BusError
from bootcd.cli.monitor import Event, Watcher, text
from bootcd.errors import Unsupported, UsageError
from cli.conftest import PATIENCE, Client, Machine, daemon
from kit.bus import SystemBus
from kit.fake_daemon import JOB, JOB_PATH, MANAGER, ROOT, Answer, Called, FakeDaemon, Play, job
from kit.os_images import os_image


def test_monitor_needs_a_daemon(bus: SystemBus, machine: Machine) -> None:
    assert Client(machine.path, bus.environment)("monitor").status == Unsupported.exit_status
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={machine.path}/none"}
    assert Client(machine.path, nowhere)("monitor").status == Unsupported.exit_status
    assert Client(machine.path, bus.environment)("--sysroot", "sysroot", "monitor").status == UsageError.exit_status


class Monitor:
    """Reads the events of `bootcctl monitor --json`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.events: list[dict[str, Any]] = []

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for line in self._stream:
            self.events.append(json.loads(line))
            if wanted(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"it ended after {self.events}")

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def test_monitor_follows_jobs_deployments_and_the_daemon(bus: SystemBus, machine: Machine) -> None:
    machine.publish(os_image("1.2"))
    client = Client(machine.path, bus.environment)
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(daemon(bus, machine.path))
        process = stack.enter_context(client.running("monitor", "--json"))
        assert process.stdout is not None
        monitor = Monitor(process.stdout)
        stack.callback(process.kill)
        # Until the monitor listens, a job may pass unnoticed.
        deadline = time.monotonic() + PATIENCE
        while not listens(bus, process.pid):
            assert time.monotonic() < deadline
        assert client("switch", f"oci:{machine.path}/layout:latest").status == 0
        ended = monitor.until(lambda event: event["event"] == "job-ended")
        assert (ended["kind"], ended["state"], ended["error"]) == ("switch", "succeeded", "")
        started = monitor.events[0]
        assert (started["event"], started["kind"], started["uid"]) == ("job-started", "switch", os.geteuid())
        assert started["program"]
        assert "job-stage" in monitor.names()
        assert [event["version"] for event in monitor.events if event["event"] == "deployment-added"] == ["1.2"]
        assert [event["version"] for event in monitor.events if event["event"] == "deployment-removed"] == ["1.0"]
        changed = [event for event in monitor.events if event["event"] == "deployment-changed"]
        assert ("1.1", ["rollback"]) in [(event["version"], event["roles"]) for event in changed]

        assert client("pin", "nobody").status == 3
        ended = monitor.until(lambda event: event["event"] == "job-ended")
        assert (ended["state"], ended["error"]) == ("failed", "org.bootcd1.Error.DeploymentNotFound")
        assert ended["message"] == "no deployment is called 'nobody'"
        assert "bootcctl list" in ended["advice"]

        first.close()
        monitor.until(lambda event: event["event"] == "daemon-gone")
        with daemon(bus, machine.path):
            monitor.until(lambda event: event["event"] == "daemon-running")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_monitor_for_people(stalled: tuple[Client, str]) -> None:
    client, image = stalled
    with client.running("image", "pull", image) as pulling:
        client.is_running("image pull")
        with client.running("monitor") as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert re.fullmatch(r"\d\d:\d\d:\d\d  job \d+, image pull: runs, started by .*\n", first)
            pulling.send_signal(signal.SIGTERM)
            lines = [process.stdout.readline()]
            while "cancelled" not in lines[-1]:
                assert lines[-1], lines
                lines.append(process.stdout.readline())
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def listens(bus: SystemBus, pid: int) -> bool:
    """Whether the process wants to hear something of the bus."""

    def ask(interface: str, member: str, signature: str = "", *body: str) -> Any:
        return connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", interface, member, signature,
                               *body).arguments[0]

    with Connection(bus.address) as connection:
        for name in ask("org.freedesktop.DBus", "ListNames"):
            with contextlib.suppress(BusError):  # it may have left since
                if name.startswith(":") and pid == ask("org.freedesktop.DBus", "GetConnectionUnixProcessID", "s", name):
                    return len(ask("org.freedesktop.DBus.Debug.Stats", "GetAllMatchRules").get(name, ())) > 1
    return False


# --- nonsense -----------------------------------------------------------------------------------------------------


def events(bus: SystemBus, play: Play, *, clock: Callable[[], float] = time.monotonic,
           until: str = "job-ended") -> list[Event]:
    """What a watcher tells of a daemon."""
    found: list[Event] = []
    with FakeDaemon(bus.address, play), Connection(bus.address) as connection:
        for event in Watcher(connection, clock).events():
            found.append(event)
            if event["event"] == until:
                return found
    raise AssertionError


def acting(*acts: Callable[[FakeDaemon], None], manager: dict[str, Variant] | None = None) -> Play:
    """A daemon without deployments that does `acts` once it was asked for the manager."""
    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.arguments == [JOB]:
            return Answer("a{sv}", [fake.job])
        return Answer("a{sv}", [manager or {}], then=[lambda act=act: act(fake) for act in acts])  # type: ignore[misc]

    return play


def new_job(fake: FakeDaemon) -> None:
    fake.emit(ROOT, MANAGER, "JobNew", "tos", 7, JOB_PATH, "upgrade")


def test_nonsense_is_passed_over(bus: SystemBus) -> None:
    found = events(bus, acting(
        lambda fake: fake.emit(ROOT, MANAGER, "JobNew"),
        lambda fake: fake.emit(ROOT, MANAGER, "JobNew", "s", "x"),
        lambda fake: fake.emit(ROOT, MANAGER, "JobRemoved", "t", 1),
        lambda fake: fake.emit(JOB_PATH, JOB, "Note", "t", 1),
        lambda fake: fake.emit(ROOT, MANAGER, "Unheard", "s", "of"),
        lambda fake: fake.change(ROOT, MANAGER, Deployments=Variant("s", "none"), Pinned=Variant("t", 1)),
        lambda fake: fake.change("/org/bootcd1/job/99", JOB, Stage=Variant("s", "of no job")),
        lambda fake: fake.emit(ROOT, "org.freedesktop.DBus.Properties", "PropertiesChanged", "t", 1),
        new_job,
        lambda fake: fake.change(JOB_PATH, JOB, Stage=Variant("t", 1), BytesDone=Variant("s", "x")),
        lambda fake: fake.end("failed", "org.bootcd1.Error.EspFull", "full\x1b[2J"),
        manager={"Jobs": Variant("s", "/"), "Deployments": Variant("as", ["not a path", "/nobody"])},
    ))
    assert [event["event"] for event in found if not event["event"].startswith("deployment")] == \
        ["job-started", "job-ended"]
    assert "\x1b" not in text(found[-1], True)
    json.dumps(found)


def test_progress_is_for_machines_and_now_and_then_for_people(bus: SystemBus) -> None:
    now = iter(range(0, 1000, 2))

    def count(done: int) -> Callable[[FakeDaemon], None]:
        return lambda fake: fake.change(JOB_PATH, JOB, BytesDone=Variant("t", done * 1000))

    found = events(bus, acting(
        new_job, lambda fake: fake.change(JOB_PATH, JOB, Stage=Variant("s", "Downloading"),
                                          BytesTotal=Variant("t", 9000)),
        *(count(done) for done in range(1, 10)), lambda fake: fake.end(),
    ), clock=lambda: float(next(now)))
    progress = [event for event in found if event["event"] == "job-progress"]
    assert [event["done"] for event in progress] == [done * 1000 for done in range(1, 10)]
    shown = [line for event in progress if (line := text(event, True))]
    assert 2 <= len(shown) < 9
    assert "1.0 kB of 9.0 kB" in shown[0]
    assert not any(text(event, False) for event in progress)
    assert all(text(event, False) for event in found if event not in progress)


def test_others_are_not_believed(bus: SystemBus) -> None:
    with FakeDaemon(bus.address, lambda fake, called: None, name="") as liar:
        def lie(fake: FakeDaemon) -> None:
            liar.soon(lambda: liar.end("failed"))

        found = events(bus, acting(new_job, lie, lambda fake: fake.emit(JOB_PATH, JOB, "Note", "s", "true"),
                                   lambda fake: fake.end()))
    assert [event["event"] for event in found] == ["job-started", "job-note", "job-ended"]
    assert found[-1]["state"] == "succeeded"


def test_news_for_people(bus: SystemBus) -> None:
    """Its sentence may hold words of an image; a signal of another form is passed over."""
    def play(fake: FakeDaemon) -> None:
        fake.emit(ROOT, MANAGER, "Notice", "ss", "applied", "nonsense")
        fake.emit(ROOT, MANAGER, "Notice", "ssa{sv}", "applied", "It runs\x1b[31m.", {"image": Variant("s", "os:1")})

    (found,) = events(bus, acting(play), until="notice")
    assert (found["notice"], found["facts"]) == ("applied", {"image": "os:1"})
    assert text(found, False).endswith("  applied: It runs\N{REPLACEMENT CHARACTER}[31m.")


def test_the_bus_goes(bus: SystemBus) -> None:
    with FakeDaemon(bus.address, acting()), Connection(bus.address) as connection:
        watcher = Watcher(connection).events()
        connection._loop.call_later(0.05, connection._bus.disconnect)
        with pytest.raises(BusError):
            next(watcher)


def test_a_job_that_ran_before(bus: SystemBus) -> None:
    running = job(Stage=Variant("s", "Staging"))

    def play(fake: FakeDaemon, called: Called) -> Answer:
        if called.arguments == [JOB]:
            return Answer("a{sv}", [running])
        return Answer("a{sv}", [{"Jobs": Variant("ao", [JOB_PATH])}])

    (found,) = events(bus, play, until="job-running")
    assert text(found, False).endswith("job 7, upgrade: runs, started by gnome-software (uid 1000): Staging")
