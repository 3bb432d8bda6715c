# SPDX-License-Identifier: Apache-2.0
"""What we ask of others on the bus, and how it ends."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bootcd.daemon.bus import Bus, BusError
from bootcd.daemon.wire import Typed
from bootcd.errors import BootcdError
from daemon.demo import (
    BUS,
    DEMO,
    ERROR,
    NAME,
    PATH,
    PROPERTIES,
    PROPS,
    Demo,
    both,
    error,
    listen,
    ping,
    run,
    serving,
)
from kit.bus import SystemBus
from kit.bus_client import Client

# --- we as a client ---------------------------------------------------------------------------------------------------


def test_calls_of_others(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            bus = await Bus.connect(address, demo.authorize)
            try:
                assert await bus.call(NAME, PATH, DEMO.name, "Echo", "sa{sv}", "x", {"times": Typed("u", 2)}) == [
                    "xx", []]
                (everything,) = await bus.call(NAME, PATH, PROPS, "GetAll", "s", DEMO.name)
                assert everything == PROPERTIES
                with pytest.raises(BusError, match="not here") as caught:
                    await bus.call(NAME, PATH, DEMO.name, "Fail", "s", "bus")
                assert caught.value.name == ERROR + "NotSupported"
                with pytest.raises(BusError) as caught:
                    await bus.call(NAME, PATH, DEMO.name, "Fail", "s", "ours")
                assert caught.value.name == "org.bootcd1.Error.NothingStaged"
                assert caught.value.hint == "Stage something."
                with pytest.raises(BusError) as caught:
                    await bus.call("org.example.Nobody", PATH, DEMO.name, "Fail", "s", "ours", start=False)
                assert caught.value.name in (ERROR + "ServiceUnknown", ERROR + "NameHasNoOwner")
                with pytest.raises(BusError) as caught:
                    await bus.call(NAME, PATH, DEMO.name, "Hang", timeout=0.05)
                assert caught.value.name == ERROR + "NoReply"
                with pytest.raises(TypeError):
                    await bus.call(NAME, PATH, DEMO.name, "Numbers", "au", ["x"])
                assert bus._pending == {}
                assert await bus.uid_of(client.name) == os.geteuid()
                assert await bus.pid_of(client.name) == os.getpid()
                with pytest.raises(BusError) as caught:
                    await bus.uid_of(":1.99999")
                assert caught.value.name == ERROR + "NameHasNoOwner"
                demo.release.set()
            finally:
                bus.close()
                await bus.lost()

    run(main)


def test_vanished(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            async with asyncio.timeout(10):
                await demo.bus.vanished(":1.99999")
            async with Client(address) as client:
                waiting = [asyncio.create_task(demo.bus.vanished(client.name)) for _ in range(3)]
                await ping(client)
                assert not any(task.done() for task in waiting)
                waiting[0].cancel()
            async with asyncio.timeout(10):
                await asyncio.gather(*waiting[1:])
            assert not demo.bus._presence._watches

    run(main)


def test_signals_of_others(address: str) -> None:
    async def main() -> None:
        heard: list[tuple[Any, ...]] = []
        async with both(address) as (demo, client), Client(address) as impostor:
            demo.bus.on_signal("org.example.Other", "/other", "org.example.Other", "Said",
                               lambda *got: heard.append(got))
            await ping(client)

            def say(who: Client, text: str, destination: str | None = None) -> None:
                who.send(Message(message_type=MessageType.SIGNAL, destination=destination, path="/other",
                                 interface="org.example.Other", member="Said", signature="sv",
                                 body=[text, Variant("u", 1)]))

            say(client, "before it has the name")
            await client.ask_bus("RequestName", "su", "org.example.Other", 0)
            say(client, "first")
            say(impostor, "to all")
            say(impostor, "to us", demo.bus.unique_name)
            await ping(impostor)
            await client.ask_bus("ReleaseName", "s", "org.example.Other")
            say(client, "after it has given the name away")
            await impostor.ask_bus("RequestName", "su", "org.example.Other", 0)
            say(impostor, "second")
            await ping(client)
            await ping(impostor)
            assert heard == [("first", 1), ("second", 1)]

    run(main)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            bus = await Bus.connect(address, demo.authorize)
            try:
                with pytest.raises(BootcdError, match=r"the bus name org\.example\.Demo is taken"):
                    await bus.own(NAME)
            finally:
                bus.close()
                assert await bus.lost() == "disconnected from the bus"

    run(main)


def test_a_name_that_may_not_be_had(tmp_path: Path) -> None:
    async def main() -> None:
        bus = await Bus.connect(system.address, no_authorisation)
        try:
            with pytest.raises(BusError) as caught:
                await bus.own("org.bootcd1.Forbidden")
            assert caught.value.name == ERROR + "AccessDenied"
        finally:
            bus.close()
            await bus.lost()

    with SystemBus(tmp_path / "bus") as system:
        run(main)


async def no_authorisation(call: Any, action: str) -> None:
    raise AssertionError("nobody asks")


def test_a_name_that_is_lost(address: str) -> None:
    async def main() -> None:
        async with serving(address) as demo:
            waiting = asyncio.create_task(demo.bus.lost())
            await asyncio.sleep(0)
            await demo.bus.call(BUS, "/org/freedesktop/DBus", BUS, "ReleaseName", "s", NAME)
            assert await waiting == f"lost the bus name {NAME}"
            # The connection is still there, for what has to be said at the end.
            assert await demo.bus.uid_of(demo.bus.unique_name) == os.geteuid()

    run(main)


def test_the_bus_dies(tmp_path: Path) -> None:
    async def main() -> None:
        demo = Demo()
        demo.bus = await Bus.connect(system.address, demo.authorize)
        demo.bus.export(PATH, demo.exported)
        await demo.bus.own(NAME)
        async with Client(system.address) as client:
            demo.allowed.clear()
            client.start(NAME, PATH, DEMO.name, "Guarded")
            await demo.entered.wait()
            hanging = asyncio.create_task(demo.bus.call(client.name, "/", "org.example.X", "Never", timeout=None))
            gone = asyncio.create_task(demo.bus.vanished(client.name))
            await ping(client)
            system.kill()
            async with asyncio.timeout(10):
                assert (await demo.bus.lost()).startswith("disconnected from the bus")
                with pytest.raises(BusError) as caught:
                    await hanging
                assert caught.value.name == ERROR + "Disconnected"
                await gone
                while demo.bus._tasks:
                    await asyncio.sleep(0.001)
            assert demo.withdrawn == 1
            with pytest.raises(BusError, match="disconnected"):
                await demo.bus.uid_of(":1.1")
            demo.exported.update({"Count": 77})
            demo.exported.emit("Note", "into the void", (1, True))
            await asyncio.sleep(0)
            demo.bus.close()

    with SystemBus(tmp_path / "bus", policy=None) as system:
        run(main)


def test_no_bus(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(BootcdError, match="cannot connect to the bus"):
            await Bus.connect(f"unix:path={tmp_path}/nothing", no_authorisation)
        with pytest.raises(BootcdError, match="cannot connect to the bus: no address"):
            await Bus.connect("tcp:host=localhost", no_authorisation)

    run(main)


def test_what_waits_is_sent_before_the_end(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            await listen(client)
            demo.exported.emit("Note", "last words", (1, True))
            demo.bus.close()
            assert (await client.signal("Note")).body[0] == "last words"

    run(main)


def test_calls_in_progress_end_with_the_bus(address: str) -> None:
    async def main() -> None:
        async with both(address) as (demo, client):
            serial = client.start(NAME, PATH, DEMO.name, "Hang")
            await demo.entered.wait()
            demo.bus.close()
            assert error(await client.reply(serial)) == ERROR + "NoReply"

    run(main)
