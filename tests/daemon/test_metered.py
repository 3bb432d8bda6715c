# SPDX-License-Identifier: Apache-2.0
"""Over a connection that costs money, nothing is downloaded that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dbus_next import Variant

from bootcd.daemon import metered
from bootcd.daemon.bus import Bus, Call
from kit.bus import Daemon, SystemBus, available
from kit.machine import install
from kit.network_manager import NetworkManager
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer
from kit.world import World

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")

YES, NO, GUESSED_YES, GUESSED_NO = (Variant("u", value) for value in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as started:
        yield started


def ask(address: str) -> bool:
    async def authorize(call: Call, action: str) -> None: ...

    async def main() -> bool:
        connection = await Bus.connect(address, authorize)
        try:
            return await metered.is_metered(connection)
        finally:
            connection.close()

    return asyncio.run(main())


@pytest.mark.parametrize(("answer", "expected"), [
    (YES, True), (NO, False), (GUESSED_YES, True), (GUESSED_NO, False), (Variant("u", 0), False),
    (Variant("s", "1"), False), (Variant("b", True), False), (Variant("u", 77), False)])
def test_what_network_manager_says(bus: SystemBus, answer: Variant, expected: bool) -> None:
    with NetworkManager(bus.address, answer):
        assert ask(bus.address) is expected


def test_without_it_nothing_is_metered(bus: SystemBus) -> None:
    assert not ask(bus.address)


def test_nor_when_it_is_silent(bus: SystemBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metered, "PATIENCE", 0.2)
    began = time.monotonic()
    with NetworkManager(bus.address, None):
        assert not ask(bus.address)
    assert time.monotonic() - began < 20


class Machine:
    """An installation of 1.0 that follows a registry, where 1.1 is by now."""

    def __init__(self, world: World, bus: SystemBus, server: ScriptedServer) -> None:
        self.world = world
        self.bus = bus
        self.server = server

    def __call__(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "bootcd.cli", *arguments], capture_output=True, text=True,
                              check=False, env={**self.bus.environment, "PYTHONPATH": ":".join(sys.path)})
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def daemon(self, setting: str = "check") -> Iterator[None]:
        config = self.world.directory / "bootcd.toml"
        config.write_text(f'[pull]\nmetered = "{setting}"\n')
        with Daemon(self.bus, self.world.sysroot, self.world.esp, config):
            yield

    def blobs(self) -> int:
        """How many layers were asked for, as far as they are large enough to be none of config and manifest."""
        return sum("/blobs/" in path for path in self.server.paths())


@pytest.fixture
def machine(bus: SystemBus, tmp_path: Path) -> Iterator[Machine]:
    with ScriptedServer() as server:
        world = install(tmp_path)
        serve_image(server, os_image("1.0"))
        world.host.switch(f"{server.host}/os:1")
        serve_image(server, os_image("1.1"))
        server.seen.clear()
        yield Machine(world, bus, server)


def test_it_is_only_checked(machine: Machine) -> None:
    with machine.daemon(), NetworkManager(machine.bus.address, GUESSED_YES):
        status, said = machine("upgrade", "--background")
        assert status == 0
        assert "names version 1.1. The connection is metered, so the " in said
        assert machine.blobs() == 1, "the config"
        status, said = machine("upgrade", "--check", "--background")
        assert status == 0
        assert "1.1" in said


def test_whoever_waits_gets_it(machine: Machine) -> None:
    with machine.daemon(), NetworkManager(machine.bus.address, YES) as manager:
        status, said = machine("upgrade", "--json")
        assert status == 0, said
        assert manager.asked == 0
        assert "1.1" in said


def test_an_administrator_may_allow_it(machine: Machine) -> None:
    with machine.daemon("allow"), NetworkManager(machine.bus.address, YES):
        status, said = machine("upgrade", "--background")
        assert (status, machine.blobs() > 1) == (0, True), said


def test_nobody_is_asked(machine: Machine) -> None:
    with machine.daemon("never"), NetworkManager(machine.bus.address, YES):
        status, said = machine("upgrade", "--background")
        assert (status, "is not asked over it" in said) == (0, True), said
        status, said = machine("upgrade", "--check", "--background")
        assert (status, "Nothing is done this time: the connection is metered" in said) == (77, True), said
        assert machine.server.paths() == []
        assert json.loads(machine("status", "--json")[1])["last"]["state"] == "succeeded"


def test_no_connection_is_metered_without_network_manager(machine: Machine) -> None:
    with machine.daemon():
        status, said = machine("upgrade", "--background")
        assert (status, machine.blobs() > 1) == (0, True), said
