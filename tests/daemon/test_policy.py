# SPDX-License-Identifier: Apache-2.0
"""The whole way: a real daemon, a registry, a lock server and logind; from a check to a reboot that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Variant

from kit.bus import ROOT, Daemon, SystemBus, available
from kit.lock_server import Answer, LockServer, refuse
from kit.machine import install
from kit.mocks import Logind, Mock
from kit.network_manager import NetworkManager
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer
from kit.world import World

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")

_CONFIG = """
[update]
automatic = "reboot"
cool-down = "0"
fleetlock = "{url}"
fleetlock-group = "web"
"""


@pytest.fixture
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as started:
        yield started


class Machine:
    """An installation of 1.0, which runs, that follows a registry where 1.1 is by now."""

    def __init__(self, world: World, bus: SystemBus, server: ScriptedServer, locks: LockServer) -> None:
        self.world = world
        self.bus = bus
        self.server = server
        self.locks = locks
        self.runtime = world.directory / "run"
        self.runtime.mkdir()
        self._config = world.directory / "bootcd.toml"
        self._config.write_text(_CONFIG.format(url=locks.url))
        (world.directory / "booted").write_text(world.host.status().deployments[0].id)

    def daemon(self) -> Daemon:
        path = os.pathsep.join((os.fspath(ROOT / "tests/kit/booted"), os.fspath(ROOT / "src"), *sys.path))
        return Daemon(self.bus, self.world.sysroot, self.world.esp, self._config, environment={
            "PYTHONPATH": path, "BOOTED": os.fspath(self.world.directory / "booted"),
            "RUNTIME_DIRECTORY": os.fspath(self.runtime)})

    def __call__(self, *words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "bootcd.cli", "--quiet", "policy", *words], capture_output=True,
                              text=True, check=False, env={**self.bus.environment, "PYTHONPATH": ":".join(sys.path)})
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def refusals(self, step: str) -> list[str]:
        report = json.loads(self("show", "--json"))
        (found,) = [one for one in report["steps"] if one["step"] == step]
        return [gate["text"] for gate in found["gates"] if not gate["allows"]]

    def staged(self) -> list[tuple[str, bool]]:
        with_role = [info for info in self.world.host.status().deployments if "staged" in info.roles]
        return [(info.version, info.download_only) for info in with_role]


@pytest.fixture
def machine(bus: SystemBus, tmp_path: Path) -> Iterator[Machine]:
    with ScriptedServer() as server, LockServer() as locks:
        world = install(tmp_path)
        serve_image(server, os_image("1.0"))
        world.host.switch(f"{server.host}/os:1")
        serve_image(server, os_image("1.1"))
        yield Machine(world, bus, server, locks)


def test_the_whole_way(machine: Machine) -> None:
    with Logind(machine.bus), Mock(machine.bus, "upower", OnBattery=True), \
            NetworkManager(machine.bus.address, Variant("u", 1)):
        with machine.daemon():
            said = machine("run")
            assert "offers version 1.1" in said, "a check costs little"
            assert machine.locks.steps == ["steady-state"], "before the registry was asked"
            assert machine.staged() == []
            assert machine.refusals("download") == [
                "The connection is metered.",
                "The machine runs on battery, and nobody tells how much is left."]
        machine.locks.answers["pre-reboot"] = refuse(409, "busy", "another one")
    with Logind(machine.bus) as logind, machine.daemon():
        said = machine("run")
        assert "is downloaded" in said
        assert "is staged" in said
        assert said.endswith("The lock server does not let the machine reboot: HTTP 409, busy, another one\n")
        assert machine.staged() == [("1.1", False)]
        assert logind.planned is None
        assert machine.locks.steps[1:] == ["steady-state", "pre-reboot"]
        assert {parameters["group"] for _, parameters, _ in machine.locks.asked} == {"web"}
        assert "  no   fleetlock " in machine("explain")
    machine.locks.answers["pre-reboot"] = Answer()
    with Logind(machine.bus) as logind:
        with machine.daemon():
            said = machine("run")
            assert said.startswith("The machine reboots at ")
            assert logind.planned is not None
            assert logind.planned[0] == "reboot"
            assert 590 < logind.planned[1] - time.time() < 610
            assert "; 'bootcctl policy cancel-reboot' puts it off." in machine("show")
        with machine.daemon():  # which has it from its file
            assert machine("run") == "A reboot is planned already.\n"
            assert machine("cancel-reboot") == "The reboot is cancelled; it does not come back for a day.\n"
            assert logind.planned is None
            assert "Somebody has cancelled the reboot." in machine.refusals("reboot")
            assert machine("cancel-reboot") == "No reboot is planned.\n"
            assert json.loads(machine("run", "--json"))["done"] == "Nothing is to be done now."
    assert machine.locks.steps[-2:] == ["pre-reboot", "steady-state"]
    requests: list[Any] = machine.server.paths()
    assert requests.count("/v2/os/manifests/1") >= 3


def test_an_image_that_moved_meanwhile_is_not_taken_unseen(machine: Machine) -> None:
    """What was checked is what is taken: another image has gates of its own to pass."""
    with machine.daemon():
        digest = machine.world.host.check().manifest_digest
        serve_image(machine.server, os_image("1.2"))
        result = machine.world.host.upgrade(only=digest)
        assert result.outcome == "unchanged"
        assert f"names another image by now than {digest}; nothing is done." in result.message
        assert machine.staged() == []
        found = subprocess.run(
            ["busctl", f"--address={machine.bus.address}", "call", "org.bootcd1", "/org/bootcd1",
             "org.bootcd1.Manager", "Upgrade", "a{sv}", "1", "only", "s", digest], capture_output=True, check=False)
        assert found.returncode == 0, found.stderr


def test_without_the_daemon_nothing_is_done(bus: SystemBus, tmp_path: Path) -> None:
    world = install(tmp_path)
    for words, status in ((("run",), 13), (("cancel-reboot",), 13), (("show",), 0), (("explain",), 0)):
        done = subprocess.run(
            [sys.executable, "-m", "bootcd.cli", "--sysroot", world.sysroot, "--esp", world.esp, "policy", *words],
            capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)})
        assert done.returncode == status, done.stderr
        assert "there is no daemon" in done.stderr if status else "not now" not in done.stdout
