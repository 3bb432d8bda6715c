# SPDX-License-Identifier: Apache-2.0
"""An interface with one of everything, for tests of what serves interfaces."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message

from bootcd.daemon.bus import Bus, BusError, Call, Exported
from bootcd.errors import BootcdError, EspFull, NothingStaged
from bootcd.formats.introspection import parse
from kit.bus_client import Client

NAME = "org.example.Demo"
PATH = "/org/example/demo"
ACTION = "org.example.guarded"

BUS = "org.freedesktop.DBus"
ERROR = "org.freedesktop.DBus.Error."
PEER = "org.freedesktop.DBus.Peer"
PROPS = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"

XML = b"""<node>
  <interface name="org.example.Demo">
    <method name="Echo">
      <annotation name="org.bootcd1.Options" value="times u how often&#10;list as many"/>
      <arg direction="in" type="s" name="Text"/>
      <arg direction="in" type="a{sv}" name="Options"/>
      <arg direction="out" type="s" name="Text"/>
      <arg direction="out" type="as" name="Options"/>
    </method>
    <method name="Guarded">
      <annotation name="org.bootcd1.Action" value="org.example.guarded"/>
      <arg direction="out" type="b" name="Interactive"/>
    </method>
    <method name="Fail">
      <arg direction="in" type="s" name="How"/>
      <arg direction="out" type="u" name="Number"/>
    </method>
    <method name="Hang"/>
    <method name="Start">
      <arg direction="out" type="o" name="Job"/>
    </method>
    <method name="Numbers">
      <arg direction="in" type="au" name="Numbers"/>
      <arg direction="out" type="u" name="Count"/>
    </method>
    <signal name="Note">
      <arg type="s" name="Text"/>
      <arg type="(ub)" name="Pair"/>
    </signal>
    <property name="Count" type="u" access="read"/>
    <property name="Name" type="s" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    </property>
    <property name="Bulky" type="as" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="invalidates"/>
    </property>
    <property name="Quiet" type="t" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
    </property>
    <property name="Tree" type="a{sv}" access="read"/>
    <property name="Level" type="s" access="readwrite"/>
  </interface>
</node>"""
(DEMO,) = parse(XML)

PROPERTIES: dict[str, Any] = {"Count": 0, "Name": "demo", "Bulky": [], "Quiet": 7, "Tree": {}, "Level": "low"}


class Demo:
    """The object. Guarded calls are let through while `allowed` is set; `entered` is set by each one and by Hang."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.asked: list[Call] = []
        self.withdrawn = 0
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.exported = Exported(DEMO, {
            "Echo": self.echo, "Guarded": self.guarded, "Fail": self.fail, "Hang": self.hang, "Start": self.start,
            "Numbers": self.numbers,
        }, PROPERTIES, {"Level": self.set_level})
        self.bus: Bus
        self.finished = 0

    async def authorize(self, call: Call, action: str) -> None:
        assert action == ACTION
        self.asked.append(call)
        self.entered.set()
        try:
            await self.allowed.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise

    async def echo(self, call: Call) -> Sequence[Any]:
        self.calls.append(call)
        text, options = call.arguments
        return [text * options.get("times", 1), options.get("list", [])]

    async def guarded(self, call: Call) -> Sequence[Any]:
        self.calls.append(call)
        return [call.interactive]

    async def fail(self, call: Call) -> Sequence[Any]:
        match call.arguments[0]:
            case "ours":
                raise NothingStaged("nothing\0is staged\udc80", advice="Stage something.")
            case "space":
                raise EspFull("full")
            case "bus":
                raise BusError("org.freedesktop.DBus.Error.NotSupported", "not here")
            case "foreign":
                raise BusError("org.example.Error.Foreign", "other words", "and advice")
            case "bug":
                raise ZeroDivisionError("secret words")
            case "cancelled":
                raise asyncio.CancelledError
            case "wrong type":
                return ["text"]
            case "wrong number":
                return []
            case "negative":
                return [-1]
        raise BootcdError("what?")

    async def hang(self, call: Call) -> Sequence[Any]:
        self.entered.set()
        await self.release.wait()
        self.finished += 1
        return []

    async def start(self, call: Call) -> Sequence[Any]:
        """Causes signals before it answers, at once and across turns of the loop, and some from a task of its own."""
        self.exported.update({"Count": 1})
        self.exported.emit("Note", "first", (1, True))
        await asyncio.sleep(0.01)
        self.exported.update({"Count": 2, "Tree": {}})
        self.exported.emit("Note", "second", [2, False])
        self.background = asyncio.create_task(self._later())
        return ["/org/example/job/1"]

    async def _later(self) -> None:
        self.exported.emit("Note", "third", (3, True))
        await asyncio.sleep(0.05)
        self.exported.emit("Note", "fourth", (4, True))

    async def numbers(self, call: Call) -> Sequence[Any]:
        return [len(call.arguments[0])]

    def set_level(self, value: str) -> None:
        if value not in ("low", "high"):
            raise BusError("org.freedesktop.DBus.Error.InvalidArgs", f"no level {value}")
        self.exported.update({"Level": value})


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[Demo]:
    """The object on the bus."""
    demo = Demo()
    demo.bus = await Bus.connect(address, demo.authorize)
    try:
        demo.bus.export(PATH, demo.exported)
        await demo.bus.own(NAME)
        yield demo
    finally:
        demo.bus.close()
        await asyncio.wait_for(demo.bus.lost(), 10)
        await asyncio.sleep(0)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test, and fail it for what asyncio would only have logged."""
    complaints: list[str] = []

    async def guarded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        async with asyncio.timeout(60):
            await main()
        gc.collect()
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    asyncio.run(guarded())
    assert not complaints, complaints


@asynccontextmanager
async def both(address: str) -> AsyncIterator[tuple[Demo, Client]]:
    async with serving(address) as demo, Client(address) as client:
        yield demo, client


async def demo_call(client: Client, member: str, signature: str = "", *body: Any,
                    flags: MessageFlag = MessageFlag.NONE) -> Message:
    return await client.call(NAME, PATH, DEMO.name, member, signature, body, flags)


async def ping(client: Client) -> None:
    """After its answer, all that was sent before has been handled, and all that was answered has arrived."""
    reply = await client.call(NAME, PATH, PEER, "Ping")
    assert reply.message_type is MessageType.METHOD_RETURN


async def program(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return output.decode()


def error(reply: Message) -> str:
    assert reply.message_type is MessageType.ERROR, reply.body
    return str(reply.error_name)


async def listen(client: Client, *, sender: str = NAME) -> None:
    await client.ask_bus("AddMatch", "s", f"type='signal',sender='{sender}'")
