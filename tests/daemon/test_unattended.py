# SPDX-License-Identifier: Apache-2.0
"""The daemon does what the policy allows, step by step, and takes a reboot back when the policy says no again."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootcd.config import Config
from bootcd.daemon import unattended
from bootcd.daemon.bus import Bus, BusError, Call
from bootcd.daemon.jobs import Settings
from bootcd.daemon.unattended import Unattended
from bootcd.daemon.verbs import VERBS
from bootcd.errors import Busy, RebootRefused
from bootcd.ops import surroundings
from bootcd.ops.decisions import PolicyReport
from bootcd.ops.resultjson import from_json
from bootcd.ops.results import Status
from kit.bus import SystemBus, available
from kit.lock_server import Answer, LockServer, refuse
from kit.mocks import Logind
from kit.policy import NOW, deployment, digest, facts, update

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")

CALL = Call(":1.1", "/org/bootcd1", "org.bootcd1.Manager", "RunPolicy", (), False)
RUNNING = deployment(1, "booted", "default")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as started:
        yield started


@pytest.fixture
def logind(bus: SystemBus) -> Iterator[Logind]:
    with Logind(bus) as started:
        yield started


class Scene:
    """The rest of the daemon: a status that tests change, and jobs that are only noted."""

    def __init__(self, connection: Bus, directory: Path, config: Config) -> None:
        self.status = facts(update_time=datetime.now(UTC).isoformat()).status
        self.config = config
        self.started: list[tuple[str, dict[str, Any]]] = []
        self.busy = False
        self.active: Any = None
        self._made = (connection, directory)
        self.unattended = self.again()

    def again(self) -> Unattended:
        """As a daemon that was just started has it."""
        connection, directory = self._made
        self.unattended = Unattended(connection, self, self, self.settings, str(directory))  # type: ignore[arg-type]
        return self.unattended

    def settings(self) -> Settings:
        return Settings("/nowhere", None, self.config)

    async def fresh(self) -> Status:
        return self.status

    async def start(self, call: Call, verb: Any, arguments: dict[str, Any], *, background: bool) -> str:
        assert background
        if self.busy:
            raise Busy("somebody is at it")
        self.started.append((verb.kind, arguments))
        return f"/org/bootcd1/job/{len(self.started)}"

    async def run(self) -> tuple[str, PolicyReport]:
        path, report = await self.unattended.run(CALL)
        return path, from_json(PolicyReport, _plain(report))

    def stage(self, number: int = 2) -> None:
        """Somebody has staged an image."""
        staged = deployment(number, "staged", staged=surroundings.now().isoformat())
        self.status = replace(self.status, deployments=(staged, RUNNING))


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def play(bus: SystemBus, directory: Path, work: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    """Do something with a scene, whose [update] has these keys."""
    async def authorize(call: Call, action: str) -> None: ...

    async def main() -> None:
        connection = await Bus.connect(bus.address, authorize)
        config = Config(**{"update_automatic": "reboot", "update_reboot_warning": "10min",
                           **{f"update_{key}": value for key, value in settings.items()}})
        try:
            scene = Scene(connection, directory, config)
            await work(scene)
            scene.unattended.close()
        finally:
            connection.close()
            await asyncio.sleep(0)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_one_step_after_the_other(bus: SystemBus, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.status = replace(scene.status, update_time="")
        scene.busy = True
        with pytest.raises(Busy):
            await scene.run()
        scene.busy = False
        assert (await scene.run())[0] == "/org/bootcd1/job/1"
        assert (await scene.run())[0] == "/", "the check has led to nothing"
        scene.status = replace(scene.status, update_time=datetime.now(UTC).isoformat(), update=update(2))
        assert (await scene.run())[0] == "/org/bootcd1/job/2"
        assert (await scene.run())[0] == "/", "and so has the download"
        downloaded = deployment(2, "staged", download_only=True)
        scene.status = replace(scene.status, deployments=(downloaded, RUNNING),
                               update=update(2, available=False, staged=True))
        assert (await scene.run())[0] == "/org/bootcd1/job/3"
        assert scene.started == [("check", {}), ("upgrade", {"only": digest(2), "download_only": True}),
                                 ("upgrade", {"only": digest(2), "from_downloaded": True})]

    play(bus, tmp_path, work, automatic="stage")


def test_what_cannot_be_asked_is_no_obstacle_until_it_is_needed(bus: SystemBus, tmp_path: Path) -> None:
    """There is no logind on this bus."""
    async def work(scene: Scene) -> None:
        scene.stage()
        with pytest.raises(RebootRefused, match="logind does not plan a reboot"):
            await scene.run()
        path, report = await scene.run()
        assert (path, report.reboot_time) == ("/", "")
        assert [gate.gate for gate in report.step("reboot").gates if not gate.allows] == ["tried"]

    play(bus, tmp_path, work)


def test_many_who_ask_cost_others_little(bus: SystemBus, logind: Logind, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        logind.tell("AddMethod", "sssss", logind.interface, "ListSessions", "", "a(susso)", "ret = []")
        reports = await asyncio.gather(*(scene.unattended.report() for _ in range(200)))
        assert len({report.automatic for report in reports}) == 1
        assert len(logind.calls("ListSessions")) <= 2, "what began after the question is shared"

    play(bus, tmp_path, work)


# --- the reboot -------------------------------------------------------------------------------------------------------


def test_a_reboot_is_planned_and_told(bus: SystemBus, logind: Logind, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.stage()
        began = time.time()
        path, report = await scene.run()
        assert path == "/"
        assert report.done.startswith("The machine reboots at ")
        kind, when = logind.planned or ("", 0.0)
        assert kind == "reboot"
        assert 599 <= when - began <= 605
        assert datetime.fromisoformat(report.reboot_time).timestamp() == when
        ((text, enabled),) = logind.calls("SetWallMessage")
        assert "into version 2. 'bootcctl policy cancel-reboot' puts it off." in text
        assert enabled is True
        assert (await scene.run())[1].done == "A reboot is planned already."
        assert len(logind.calls("ScheduleShutdown")) == 1
        assert scene.started == []

    play(bus, tmp_path, work)


@pytest.mark.parametrize("why", ["user", "lock", "unstaged", "configured", "window", "running"])
def test_it_is_taken_back_when_the_policy_says_no_again(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(unattended, "LOOK", 0.05)

    async def work(scene: Scene) -> None:
        scene.stage()
        await scene.run()
        await asyncio.sleep(0.2)
        assert logind.planned is not None, "nothing stands against it"
        match why:
            case "user":
                logind.log_in("c1", "eve")
            case "lock":
                logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "a(ssssuu)",
                            'ret = [("shutdown", "Backup", "it runs", "block", 0, 1)]')
            case "running":
                scene.active = SimpleNamespace(verb=VERBS["Switch"])
            case "unstaged":
                scene.status = replace(scene.status, deployments=(RUNNING,))
            case "configured":
                scene.config = replace(scene.config, update_automatic="stage")
            case "window":
                tomorrow = datetime.now(UTC) + timedelta(days=1)
                scene.config = replace(scene.config, update_time_zone="UTC",
                                       update_reboot_windows=(f"{tomorrow:%a} 00:00-24:00",))
        await until(lambda: logind.planned is None)
        assert (await scene.unattended.report()).reboot_time == ""
        assert logind.calls("SetWallMessage")[-1] == ["", False]

    play(bus, tmp_path, work)


def test_a_person_may_cancel_it(bus: SystemBus, logind: Logind, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        assert await scene.unattended.cancel(CALL) == [False]
        scene.stage()
        await scene.run()
        assert await scene.unattended.cancel(CALL) == [True]
        assert logind.planned is None
        for one in (scene.unattended, scene.again()):
            report = await one.report()
            assert report.reboot_time == ""
            gates = {gate.gate: gate for gate in report.step("reboot").gates if not gate.allows}
            assert gates["planned"].text == "Somebody has cancelled the reboot."
            left = datetime.fromisoformat(gates["planned"].next) - datetime.now(UTC)
            assert timedelta(hours=23) < left <= timedelta(hours=24, seconds=1)
        assert (await scene.run())[1].reboot_time == ""

    play(bus, tmp_path, work)


def test_also_by_shutdown(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "LOOK", 0.05)

    async def work(scene: Scene) -> None:
        scene.stage()
        await scene.run()
        logind.cancel()
        await until(lambda: scene.unattended._plan is None)
        logind.plan("poweroff", time.time() + 3600)
        report = await scene.unattended.report()
        refusing = [gate.text for gate in report.step("reboot").gates if not gate.allows]
        assert any(text.startswith("Somebody has planned a shutdown for ") for text in refusing)
        await scene.run()
        assert logind.planned is not None
        assert logind.planned[0] == "poweroff", "it is left alone"

    play(bus, tmp_path, work)


def test_a_daemon_that_starts_again_looks_after_what_it_has_planned(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "LOOK", 0.05)

    async def work(scene: Scene) -> None:
        scene.stage()
        _, planned = await scene.run()
        scene.unattended.close()
        report = await scene.again().report()
        assert report.reboot_time == planned.reboot_time
        logind.log_in("c1", "eve")
        await until(lambda: logind.planned is None)

    play(bus, tmp_path, work)


def test_one_that_ends_in_the_middle_of_planning_leaves_the_reboot_to_the_next(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by SIGKILL when logind has it, and when it has not; in neither case did a person cancel anything."""
    monkeypatch.setattr(unattended, "LOOK", 0.05)

    async def work(scene: Scene) -> None:
        scene.stage()
        for known in (False, True):
            ending = scene.again()

            async def ends(member: str, signature: str, *arguments: Any, known: bool = known,
                           ending: Unattended = ending) -> None:
                if member == "ScheduleShutdown":
                    if known:
                        logind.plan("reboot", arguments[1] / 1_000_000)
                    raise SystemExit

            monkeypatch.setattr(ending, "_logind", ends)
            with pytest.raises(SystemExit):
                await ending._reboot()
            report = await scene.again().report()
            if known:
                assert report.reboot_time, "it is looked after"
                logind.log_in("c1", "eve")
            await until(lambda: scene.unattended._plan is None)
            assert logind.planned is None
            refusing = [gate.gate for gate in (await scene.unattended.report()).step("reboot").gates
                        if not gate.allows]
            assert refusing == (["tried", "users"] if known else ["tried"])
            scene.unattended.close()

    play(bus, tmp_path, work)


def test_one_that_logind_plans_without_saying_so_is_taken_back(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(scene: Scene) -> None:
        scene.stage()
        ask = scene.unattended._logind

        async def in_vain(member: str, signature: str, *arguments: Any) -> None:
            await ask(member, signature, *arguments)
            if member == "ScheduleShutdown":
                assert logind.planned is not None
                raise BusError("org.freedesktop.DBus.Error.NoReply", "no answer in time")

        monkeypatch.setattr(scene.unattended, "_logind", in_vain)
        with pytest.raises(RebootRefused, match="no answer in time"):
            await scene.unattended._reboot()
        assert logind.planned is None
        assert (await scene.unattended.report()).reboot_time == ""

    play(bus, tmp_path, work)


def test_a_person_may_cancel_it_while_it_is_being_planned(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(scene: Scene) -> None:
        scene.stage()
        ask = scene.unattended._logind

        async def slowly(member: str, signature: str, *arguments: Any) -> None:
            if member == "ScheduleShutdown":
                assert await scene.unattended.cancel(CALL) == [True]
            await ask(member, signature, *arguments)

        monkeypatch.setattr(scene.unattended, "_logind", slowly)
        assert await scene.unattended._reboot() == "Somebody has cancelled the reboot."
        assert logind.planned is None
        assert (await scene.unattended.report()).reboot_time == ""

    play(bus, tmp_path, work)


def test_a_reboot_that_logind_does_not_take_back_is_not_called_cancelled(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "LOOK", 0.05)

    async def work(scene: Scene) -> None:
        scene.stage()
        await scene.run()
        logind.tell("AddMethod", "sssss", logind.interface, "CancelScheduledShutdown", "", "b",
                    "raise dbus.exceptions.DBusException('no', name='org.example.No')")
        with pytest.raises(RebootRefused, match="does not take the planned reboot back"):
            await scene.unattended.cancel(CALL)
        assert logind.planned is not None
        assert (await scene.unattended.report()).reboot_time, "as it is"
        logind.repair()
        await until(lambda: logind.planned is None)
        await until(lambda: scene.unattended._plan is None)

    play(bus, tmp_path, work)


def test_a_clock_that_is_put_back_holds_nothing_up(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine starts with a clock that is years ahead, until it has heard the time."""
    monkeypatch.setattr(unattended, "LOOK", 0.05)
    ahead = [timedelta(days=365 * 74)]
    monkeypatch.setattr(surroundings, "now", lambda: datetime.now(UTC) + ahead[0])

    async def work(scene: Scene) -> None:
        scene.status = replace(scene.status, update_time=surroundings.now().isoformat())
        scene.stage()
        await scene.run()
        assert logind.planned is not None
        ahead[0] = timedelta()
        await until(lambda: scene.unattended._plan is None)
        assert logind.planned is None
        ahead[0] = timedelta(days=365 * 74)
        scene.unattended.close()
        scene.again()
        await scene.run()
        assert await scene.unattended.cancel(CALL) == [True]
        with LockServer() as server:
            scene.config = replace(scene.config, update_fleetlock=server.url)
            server.answer = refuse(500, "internal", "no")
            await scene.run()
            ahead[0] = timedelta()
            report = await scene.unattended.report()
            gates = {gate.gate: gate for gate in report.step("reboot").gates if not gate.allows}
            assert datetime.fromisoformat(gates["planned"].next) - datetime.now(UTC) <= timedelta(days=1, seconds=1)
            server.answer = Answer()
            await scene.run()
            assert server.steps == ["steady-state", "steady-state"]

    play(bus, tmp_path, work)


def test_the_file_may_be_no_file(bus: SystemBus, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reboot.json")

    async def work(scene: Scene) -> None:
        assert (await scene.unattended.report()).reboot_time == ""

    play(bus, tmp_path, work)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"plan": 7}', '{"plan": {"deployment": "x"}}',
                                  '{"plan": {"deployment": "x", "time": 1e400}}', '{"plan": {"time": "soon"}}',
                                  '{"plan": {"deployment": "x", "time": 253402300799}}', '{"plan": ' * 10_000],
                         ids=range(9))
def test_a_file_that_makes_no_sense_is_as_none(bus: SystemBus, tmp_path: Path, text: str) -> None:
    (tmp_path / "reboot.json").write_text(text)

    async def work(scene: Scene) -> None:
        assert (await scene.unattended.report()).reboot_time == ""

    play(bus, tmp_path, work)


def test_a_reboot_that_does_not_come_is_given_up(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "LOOK", 0.05)
    monkeypatch.setattr(unattended, "LATE", timedelta(seconds=0.2))

    async def work(scene: Scene) -> None:
        scene.stage()
        await scene.run()
        await until(lambda: scene.unattended._plan is None)
        assert (await scene.run())[1].reboot_time == "", "not at once again"

    play(bus, tmp_path, work, reboot_warning="1s")


def test_the_daemon_loads_nothing_that_talks_to_servers() -> None:
    """Which takes time at its start, and memory for as long as it runs; a worker asks them."""
    done = subprocess.run(
        [sys.executable, "-c", "import bootcd.daemon.main, sys; print(sorted(sys.modules))"], capture_output=True,
        text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not {"requests", "urllib3", "bootcd.registry", "bootcd.store", "bootcd.ops.direct"} & set(
        ast.literal_eval(done.stdout))


# --- the lock server --------------------------------------------------------------------------------------------------


def test_the_lock_server_is_told_first_and_asked_last(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = [timedelta()]
    monkeypatch.setattr(surroundings, "now", lambda: datetime.now(UTC) + later[0])

    async def work(scene: Scene) -> None:
        with LockServer() as server:
            scene.config = replace(scene.config, update_fleetlock=server.url, update_fleetlock_group="web")
            scene.stage()
            server.answer = refuse(500, "internal", "no")
            _, report = await scene.run()
            refusing = [gate.text for gate in report.step("reboot").gates if not gate.allows]
            assert refusing == ["The lock server does not know yet that this machine is up: HTTP 500, internal, no."]
            await scene.run()
            assert server.steps == ["steady-state"], "not at once again"
            later[0] = timedelta(minutes=11)
            server.answers["steady-state"] = Answer()
            server.answer = refuse(409, "busy", "web1 reboots")
            _, report = await scene.run()
            assert report.done == "The lock server does not let the machine reboot: HTTP 409, busy, web1 reboots"
            assert logind.planned is None
            await scene.run()
            assert server.steps == ["steady-state", "steady-state", "pre-reboot"]
            later[0] = timedelta(minutes=22)
            server.answer = Answer()
            await scene.run()
            assert logind.planned is not None
            assert await scene.unattended.cancel(CALL) == [True]
            assert server.steps[-2:] == ["pre-reboot", "steady-state"], "others may have it"

    play(bus, tmp_path, work)


def test_the_lock_is_kept_until_the_boot_that_it_was_for_is_complete(
        bus: SystemBus, logind: Logind, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        with LockServer() as server:
            scene.config = replace(scene.config, update_fleetlock=server.url)
            scene.status = replace(scene.status, update_time="", deployments=(
                replace(RUNNING, health="untried", on_trial=True),))
            known, scene.status = scene.status, replace(scene.status, deployments=())
            await scene.run()
            assert server.steps == [], "the disk has not told yet what runs"
            scene.status = known
            path, report = await scene.run()
            assert (path, server.steps) == ("/", [])
            assert "its boot is not complete yet" in report.step("check").gates[-1].text
            scene.status = replace(scene.status, deployments=(RUNNING,))
            path, _ = await scene.run()
            assert (path, server.steps) == ("/org/bootcd1/job/1", ["steady-state"])

    play(bus, tmp_path, work)


def test_a_lock_server_that_hangs_or_vanishes_refuses(
        bus: SystemBus, logind: Logind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(scene: Scene) -> None:
        with LockServer() as server:
            scene.config = replace(scene.config, update_fleetlock=server.url)
            scene.stage()
            server.answers["pre-reboot"] = Answer(delay=3)
            await scene.unattended._tell_steady()
            monkeypatch.setattr(unattended, "FLEETLOCK_PATIENCE", 1.0)
            _, report = await scene.run()
            assert report.done.endswith("it did not answer in 1 seconds")
            server.vanish()
            monkeypatch.setattr(unattended, "FLEETLOCK_PATIENCE", 20.0)
            assert not (await scene.unattended._ask("pre-reboot")).granted
        assert logind.planned is None

    play(bus, tmp_path, work)


def test_what_is_kept_is_readable(bus: SystemBus, logind: Logind, tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.stage()
        await scene.run()
        kept = json.loads((tmp_path / "reboot.json").read_text())
        assert kept["plan"]["deployment"] == deployment(2).id
        assert kept["dismissed"] is None
        assert abs(kept["plan"]["time"] - NOW.timestamp()) > 0

    play(bus, tmp_path, work)
