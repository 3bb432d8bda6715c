# SPDX-License-Identifier: Apache-2.0
"""What the daemon learns from the services of a desktop, and that it never waits for them, nor starts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from dbus_next import Variant

from bootcd.daemon import facts
from bootcd.daemon.bus import Bus, Call
from bootcd.ops.rules import Lock, Surroundings, User
from kit.bus import SystemBus, available
from kit.mocks import Logind, Mock
from kit.network_manager import NetworkManager

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as started:
        yield started


def gather(bus: SystemBus, known: Surroundings | None = None) -> Surroundings:
    async def authorize(call: Call, action: str) -> None: ...

    async def main() -> Surroundings:
        connection = await Bus.connect(bus.address, authorize)
        try:
            return await facts.gather(connection, known if known is not None else Surroundings())
        finally:
            connection.close()

    return asyncio.run(main())


def test_where_nobody_is_nothing_is_known(bus: SystemBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "PATIENCE", 60.0)
    began = time.monotonic()
    assert gather(bus) == Surroundings()
    assert time.monotonic() - began < 30
    known = Surroundings(on_battery=True, battery=40, load=0.5, machine_id="1")
    assert gather(bus, known) == known, "what the kernel says stays"


def test_a_desktop(bus: SystemBus) -> None:
    with Mock(bus, "upower", OnBattery=True) as upower, Mock(bus, "power_profiles_daemon") as profiles, \
            NetworkManager(bus.address, Variant("u", 3)), Logind(bus) as logind:
        device = "/org/freedesktop/UPower/devices/DisplayDevice"
        found = gather(bus)
        assert (found.on_battery, found.battery, found.power_saver, found.metered) == (True, None, False, True)
        assert (found.users, found.locks, found.shutdown) == ((), (), None)
        upower.tell("SetDeviceProperties", "sa{sv}", device, "2", "IsPresent", "b", "true", "Percentage", "d", "41.9")
        profiles.set("ActiveProfile", "s", "power-saver")
        found = gather(bus, Surroundings(on_battery=False, battery=99))
        assert (found.on_battery, found.battery, found.power_saver) == (True, 41, True)
        upower.set("OnBattery", "b", "false")
        assert gather(bus).on_battery is False

        eve = logind.log_in("c1", "eve")
        assert gather(bus).users == (User("eve"),)
        session = "org.freedesktop.login1.Session"
        logind.set("IdleHint", "b", "true", eve, session)
        logind.set("IdleSinceHint", "t", "1700000000000000", eve, session)
        assert gather(bus).users == (User("eve", datetime.fromtimestamp(1_700_000_000, UTC)),)
        greeter, remote = logind.log_in("c2", "gdm", 120), logind.log_in("c3", "adam", 1001)
        logind.set("Class", "s", "greeter", greeter, session)
        logind.set("Remote", "b", "true", remote, session)
        assert {user.name for user in gather(bus).users or ()} == {"eve", "adam"}
        logind.set("State", "s", "closing", remote, session)
        assert {user.name for user in gather(bus).users or ()} == {"eve"}

        logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "a(ssssuu)", """ret = [
            ("shutdown:sleep", "Backup", "it runs", "block", 0, 1), ("sleep", "Player", "music", "block", 0, 1),
            ("shutdown", "Editor", "saves", "delay", 0, 1), ("shutdown", "Weak", "one", "block-weak", 0, 1)]""")
        assert gather(bus).locks == (Lock("Backup", "it runs"), Lock("Weak", "one"))
        logind.plan("dry-reboot", 1_900_000_000)
        assert gather(bus).shutdown is None
        logind.plan("reboot", 1_900_000_000)
        assert gather(bus).shutdown == datetime.fromtimestamp(1_900_000_000, UTC)


def test_power_profiles_by_their_new_name(bus: SystemBus) -> None:
    name = "org.freedesktop.UPower.PowerProfiles"
    with Mock(bus, name, "/org/freedesktop/UPower/PowerProfiles", name) as profiles:
        profiles.tell("AddProperty", "ssv", name, "ActiveProfile", "s", "power-saver")
        assert gather(bus).power_saver is True


def test_nonsense_is_not_known(bus: SystemBus) -> None:
    with Mock(bus, "upower", OnBattery="perhaps"), Mock(bus, "power_profiles_daemon", ActiveProfile=7), \
            Mock(bus, "logind") as logind:
        logind.tell("AddProperty", "ssv", logind.interface, "ScheduledShutdown", "(ss)", "reboot", "soon")
        logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "as", 'ret = ["x"]')
        logind.tell("AddMethod", "sssss", logind.interface, "ListSessions", "", "s", 'ret = "x"')
        assert gather(bus) == Surroundings()
        logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "a(issuuu)",
                    'ret = [(1, "a", "b", 2, 0, 1)]')
        assert gather(bus).locks == ()
        logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "a(ssssuu)",
                    'ret = [("shutdown", "me\\n\\x1b[31m" + "e" * 10000, "", "block", 1000, 1)]')
        (lock,) = gather(bus).locks or ()
        assert lock.who.isprintable()
        assert len(lock.who) <= 200


def test_nobody_is_waited_for(bus: SystemBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "PATIENCE", 0.2)
    with Mock(bus, "logind") as logind:
        logind.tell("AddMethod", "sssss", logind.interface, "ListInhibitors", "", "a(ssssuu)",
                    "import time; time.sleep(60); ret = []")
        began = time.monotonic()
        assert gather(bus).locks is None
        assert time.monotonic() - began < 30
