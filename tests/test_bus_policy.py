# SPDX-License-Identifier: Apache-2.0
"""What the bus lets through to bootcd: every method that it has, from everybody, and nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dbus_next.message import Message

from bootcd.daemon.interfaces import (
    DEPLOYMENT,
    JOB,
    MANAGER,
    NAME,
    ROOT,
    SYSUPDATE_JOB,
    SYSUPDATE_MANAGER,
    SYSUPDATE_NAME,
    SYSUPDATE_ROOT,
    SYSUPDATE_TARGET,
)
from bootcd.formats.introspection import Interface
from kit import bus as kit
from kit.bus import Daemon, SystemBus
from kit.bus_client import Client

STANDARD = {
    ("org.freedesktop.DBus.Introspectable", None),
    ("org.freedesktop.DBus.Peer", None),
    ("org.freedesktop.DBus.Properties", "Get"),
    ("org.freedesktop.DBus.Properties", "GetAll"),
}
NOBODY = 65534


@dataclass(frozen=True)
class Name:
    """A name of ours, the file that guards it, and what is served behind it."""

    name: str
    root: str
    file: Path
    interfaces: tuple[Interface, ...]

    @property
    def methods(self) -> set[tuple[str, str]]:
        return {(interface.name, method) for interface in self.interfaces for method in interface.methods}


OURS = Name(NAME, ROOT, kit.POLICY, (MANAGER, DEPLOYMENT, JOB))
SYSUPDATE = Name(SYSUPDATE_NAME, SYSUPDATE_ROOT, kit.SYSUPDATE_POLICY,
                 (SYSUPDATE_MANAGER, SYSUPDATE_TARGET, SYSUPDATE_JOB))
both = pytest.mark.parametrize("guarded", [OURS, SYSUPDATE], ids=lambda guarded: guarded.name)

pytestmark = pytest.mark.skipif(not kit.available() or os.geteuid() != 0,
                                reason="needs dbus-daemon, and root to become somebody else")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    directory = tmp_path_factory.mktemp("policy")
    (directory / "sysroot").mkdir()
    with SystemBus(directory / "bus") as started, Daemon(started, directory / "sysroot"):
        yield started


@asynccontextmanager
async def client(bus: SystemBus, uid: int) -> AsyncIterator[Client]:
    """A client whom the bus knows as that user."""
    made = Client(bus.address)
    os.seteuid(uid)
    try:
        await made.__aenter__()
    finally:
        os.seteuid(0)
    try:
        yield made
    finally:
        await made.__aexit__(None, None, None)


def rejected(reply: Message) -> bool:
    """Whether the bus, and not bootcd, refused."""
    return reply.error_name == "org.freedesktop.DBus.Error.AccessDenied" and str(reply.body[0]).startswith("Rejected ")


@both
def test_the_file_lists_exactly_the_methods(guarded: Name) -> None:
    (context,) = ElementTree.parse(guarded.file).getroot().findall("policy[@context='default']")
    rules = [dict(rule.attrib) for rule in context]
    assert rules[0] == {"send_destination": guarded.name}
    assert [rule.tag for rule in context] == ["deny"] + ["allow"] * (len(rules) - 1)
    assert all(rule.keys() <= {"send_destination", "send_interface", "send_member"} for rule in rules)
    allowed = [(rule["send_interface"], rule.get("send_member")) for rule in rules[1:]]
    assert len(allowed) == len(set(allowed))
    assert set(allowed) == STANDARD | guarded.methods


@both
def test_only_root_can_have_the_name(guarded: Name) -> None:
    for policy in ElementTree.parse(guarded.file).getroot().findall("policy"):
        owns = [rule.attrib for rule in policy if "own" in rule.attrib or "own_prefix" in rule.attrib]
        assert owns == ([{"own": guarded.name}] if policy.get("user") == "root" else [])


@both
def test_everybody_reaches_every_method(bus: SystemBus, guarded: Name) -> None:
    async def ask() -> set[tuple[str, str]]:
        async with client(bus, NOBODY) as nobody:
            # Without arguments nothing happens: the daemon refuses, or there is no such interface on that object.
            return {(interface, member) for interface, member in guarded.methods
                    if rejected(await nobody.call(guarded.name, guarded.root, interface, member))}

    assert asyncio.run(ask()) == set()


def test_everybody_can_look(bus: SystemBus) -> None:
    async def ask() -> list[Message]:
        async with client(bus, NOBODY) as nobody:
            standard = "org.freedesktop.DBus."
            return [
                await nobody.call(NAME, ROOT, standard + "Introspectable", "Introspect"),
                await nobody.call(NAME, ROOT, standard + "Peer", "Ping"),
                await nobody.call(NAME, ROOT, standard + "Properties", "Get", "ss", [MANAGER.name, "Version"]),
                await nobody.call(NAME, ROOT, standard + "Properties", "GetAll", "s", [MANAGER.name]),
                await nobody.call(NAME, "/org/freedesktop/LogControl1", standard + "Properties", "Get", "ss",
                                  ["org.freedesktop.LogControl1", "LogLevel"]),
                await nobody.call(NAME, ROOT, MANAGER.name, "GetStatus", "a{sv}", [{}]),
            ]

    assert [reply.error_name for reply in asyncio.run(ask())] == [None] * 6


@pytest.mark.parametrize(("interface", "member"), [
    (MANAGER.name, "Explode"),
    (SYSUPDATE_TARGET.name, "Explode"),
    ("org.example.Interface", "Check"),
    ("org.freedesktop.DBus.Properties", "Set"),
    (None, "Check"),
])
@both
def test_nothing_else_gets_through(interface: str | None, member: str, bus: SystemBus, guarded: Name) -> None:
    async def ask(uid: int) -> bool:
        async with client(bus, uid) as sender:
            return rejected(await sender.call(guarded.name, guarded.root, interface, member))

    assert asyncio.run(ask(NOBODY)) is True
    assert asyncio.run(ask(0)) is False


@both
def test_nobody_else_gets_the_name(tmp_path: Path, guarded: Name) -> None:
    async def request(started: SystemBus, uid: int) -> Message:
        async with client(started, uid) as sender:
            return await sender.ask_bus("RequestName", "su", guarded.name, 4)

    with SystemBus(tmp_path / "bus") as empty:
        assert asyncio.run(request(empty, NOBODY)).error_name == "org.freedesktop.DBus.Error.AccessDenied"
        assert asyncio.run(request(empty, 0)).body == [1]


def test_busctl(bus: SystemBus) -> None:
    """The example of the manual page."""
    command = ["busctl", f"--address={bus.address}", "call", NAME, ROOT, MANAGER.name, "GetStatus", "a{sv}", "0"]
    done = subprocess.run(["setpriv", f"--reuid={NOBODY}", "--clear-groups", *command], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a{sv} ")
