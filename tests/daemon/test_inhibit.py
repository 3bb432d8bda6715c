# SPDX-License-Identifier: Apache-2.0
"""Shutdown is held back for exactly as long as it has to be. Logind is played by python-dbusmock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_next import BusType, Message, MessageType
from dbus_next.aio import MessageBus

from bootcd.daemon import inhibit
from bootcd.daemon.inhibit import PATIENCE, WHY, Inhibitor
from kit.bus import SystemBus, available

PYTHON = "/usr/bin/python3"
"""The distribution's: dbusmock needs its dbus-python and GLib."""
LOCK = ["shutdown:sleep", "bootcd", WHY, "block", 1000, 123456]
"""As the mock lists it; it does not care for user and process."""
LONG = 60.0
"""Seconds that nobody waits for here."""

pytestmark = pytest.mark.skipif(not available(), reason="dbus-daemon is not installed")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    with SystemBus(tmp_path_factory.mktemp("bus")) as started:
        yield started


@pytest.fixture
def logind(bus: SystemBus) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the mock."""
    if subprocess.run([PYTHON, "-c", "import dbusmock"], capture_output=True, check=False).returncode:
        pytest.skip("python3-dbusmock is not installed")
    process = subprocess.Popen([PYTHON, "-m", "dbusmock", "--system", "--template", "logind"],
                               env={**os.environ, **bus.environment}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not owned(bus):
            assert time.monotonic() < deadline, "the mock does not start"
            assert process.poll() is None, "the mock has died"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def busctl(bus: SystemBus, *words: str) -> object:
    done = subprocess.run(["busctl", f"--address={bus.address}", "--json=short", "call", *words], capture_output=True,
                          text=True, check=True)
    return json.loads(done.stdout)["data"][0]


def owned(bus: SystemBus) -> bool:
    return bool(busctl(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner",
                       "s", "org.freedesktop.login1"))


def locks(bus: SystemBus) -> object:
    return busctl(bus, "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager",
                  "ListInhibitors")


def wait_for_locks(bus: SystemBus, expected: object) -> None:
    """Logind learns by a hangup of the pipe that a lock has gone."""
    deadline = time.monotonic() + 10
    while (found := locks(bus)) != expected:
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(0.01)


def open_files() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{number}")}


@pytest.mark.usefixtures("logind")
def test_held_for_the_section_and_no_longer(bus: SystemBus) -> None:
    async def main() -> None:
        inhibitor = Inhibitor(bus.address)
        for _ in range(2):
            assert locks(bus) == []
            async with inhibitor:
                assert inhibitor.held
                assert locks(bus) == [LOCK]
            assert not inhibitor.held
            wait_for_locks(bus, [])

    asyncio.run(main())


@pytest.mark.usefixtures("logind")
def test_an_exception_gives_it_back(bus: SystemBus) -> None:
    async def main() -> None:
        async with Inhibitor(bus.address):
            assert locks(bus) == [LOCK]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    wait_for_locks(bus, [])


@pytest.mark.usefixtures("logind")
def test_acquire_tells_when_it_is_held(bus: SystemBus) -> None:
    async def main() -> None:
        inhibitor, go = Inhibitor(bus.address), asyncio.Event()
        inhibitor.acquire(go.set)
        assert not go.is_set()
        await asyncio.wait_for(go.wait(), 5)
        assert locks(bus) == [LOCK]
        inhibitor.release()
        inhibitor.release()
        wait_for_locks(bus, [])

    asyncio.run(main())


@pytest.mark.usefixtures("logind")
def test_acquiring_twice_holds_one(bus: SystemBus) -> None:
    async def main() -> None:
        inhibitor = Inhibitor(bus.address)
        await asyncio.gather(inhibitor.take(), inhibitor.take())
        wait_for_locks(bus, [LOCK])
        inhibitor.release()
        wait_for_locks(bus, [])

    asyncio.run(main())


@pytest.mark.usefixtures("logind")
def test_releasing_wins_over_an_acquisition_under_way(bus: SystemBus) -> None:
    """The worker dies right after it has asked for the lock."""
    async def main() -> None:
        inhibitor, go = Inhibitor(bus.address), asyncio.Event()
        inhibitor.acquire(go.set)
        inhibitor.release()
        await asyncio.wait_for(go.wait(), 5)
        assert not inhibitor.held
        wait_for_locks(bus, [])

    asyncio.run(main())


@pytest.mark.usefixtures("logind")
def test_programs_that_are_started_do_not_inherit_it(bus: SystemBus) -> None:
    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        async with Inhibitor(bus.address):
            new = [int(number) for number in set(os.listdir("/proc/self/fd")) - before]
            pipes = [number for number in new if os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")]
            assert len(pipes) == 1
            assert not os.get_inheritable(pipes[0])

    asyncio.run(main())


def test_without_logind_nothing_is_waited_for(
        bus: SystemBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(inhibit, "PATIENCE", LONG)

    async def main() -> None:
        begin = time.monotonic()
        async with Inhibitor(bus.address) as inhibitor:
            assert not inhibitor.held
        assert time.monotonic() - begin < LONG / 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "no inhibitor lock for shutdown:sleep: org.freedesktop.DBus.Error." in caplog.text


@pytest.mark.parametrize("address", ["unix:path=/nonexistent/bus", "tcp:host=localhost,port=1", ""], ids=str)
def test_without_a_bus_nothing_is_waited_for(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/default")
    monkeypatch.setattr(inhibit, "PATIENCE", LONG)

    async def main() -> None:
        begin = time.monotonic()
        async with Inhibitor(address) as inhibitor:
            assert not inhibitor.held
        assert time.monotonic() - begin < LONG / 2

    asyncio.run(main())
    assert "no inhibitor lock" in caplog.text


def test_logind_that_hangs_costs_a_second(bus: SystemBus, logind: subprocess.Popen[bytes]) -> None:
    async def main() -> None:
        logind.send_signal(signal.SIGSTOP)
        before, begin = open_files(), time.monotonic()
        go = asyncio.Event()
        inhibitor = Inhibitor(bus.address)
        inhibitor.acquire(go.set)
        await asyncio.wait_for(go.wait(), LONG)
        assert time.monotonic() - begin >= PATIENCE * 0.9
        assert not inhibitor.held
        assert open_files() == before
        inhibitor.release()

    asyncio.run(main())


@pytest.mark.parametrize("given_up", [0.0, 0.002, 0.005, 0.01, 0.05])
@pytest.mark.usefixtures("logind")
def test_giving_up_at_any_moment_leaves_no_lock(bus: SystemBus, given_up: float) -> None:
    async def main() -> None:
        inhibitor = Inhibitor(bus.address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(given_up):
                await inhibitor.take()
        inhibitor.release()
        wait_for_locks(bus, [])

    asyncio.run(main())


def test_descriptors_of_strangers_are_closed(bus: SystemBus, tmp_path: Path) -> None:
    """What calls itself logind answers with two descriptors, or with one that the answer does not mention."""
    async def main() -> None:
        client = await MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
        answers = iter([("hh", [0, 1], 2), ("s", ["one"], 1), ("as", [["x" * 20_000]], 1), ("", [], 0)])

        def answer(message: Message) -> Message | None:
            if message.message_type is not MessageType.METHOD_CALL or message.member != "Inhibit":
                return None
            signature, body, count = next(answers)
            return Message.new_method_return(message, signature, body, [file.fileno()] * count)

        client.add_message_handler(answer)
        await client.request_name("org.freedesktop.login1")
        with open(tmp_path / "file", "wb") as file:
            before = sorted(os.listdir("/proc/self/fd"))
            for _ in range(4):
                async with Inhibitor(bus.address) as inhibitor:
                    assert not inhibitor.held
                assert sorted(os.listdir("/proc/self/fd")) == before
        assert next(answers, None) is None
        client.disconnect()
        await asyncio.wait_for(client.wait_for_disconnect(), 5)
        client._stream.close()
        client._sock.close()

    asyncio.run(main())
