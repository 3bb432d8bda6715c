# SPDX-License-Identifier: Apache-2.0
"""A daemon that does what the real one never should: vanish, talk nonsense, dawdle.

It owns the name on a bus, in a thread of its own, and hands each method call to a function of the test, which answers
with a D-Bus signature and values, with an `Answer` that is an error, or with None to say nothing at all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

NAME = "org.bootcd1"
ROOT = "/org/bootcd1"
JOB_PATH = "/org/bootcd1/job/7"
JOB = "org.bootcd1.Job"
MANAGER = "org.bootcd1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"


@dataclass
class Called:
    """A method call that arrived; `arguments` without variants."""

    sender: str
    path: str
    interface: str
    member: str
    arguments: list[Any]
    interactive: bool


@dataclass
class Answer:
    signature: str = ""
    body: Sequence[Any] = ()
    error: str = ""
    then: list[Callable[[], None]] = field(default_factory=list)
    """What to do after the answer is on its way."""


Play = Callable[["FakeDaemon", Called], Answer | None]


class FakeDaemon:
    """A context manager; `calls` are those that arrived, `job` the properties of the job."""

    def __init__(self, address: str, play: Play, *, name: str = NAME) -> None:
        self.calls: list[Called] = []
        self.job = job()
        self._play = play
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._bus: Any = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake daemon")
        self._thread.start()
        self._await(self._connect(address))

    def __enter__(self) -> FakeDaemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._await(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def emit(self, path: str, interface: str, member: str, signature: str = "", *body: Any) -> None:
        """Send a signal. Only inside `play` and `then`."""
        self._bus.send(Message(message_type=MessageType.SIGNAL, path=path, interface=interface, member=member,
                               signature=signature, body=list(body)))

    def change(self, path: str, interface: str, **changed: Variant) -> None:
        """Send PropertiesChanged."""
        if path == JOB_PATH:
            self.job.update(changed)
        self.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", interface, changed, [])

    def end(self, state: str = "succeeded", name: str = "", message: str = "") -> None:
        """Send JobRemoved."""
        self.emit(ROOT, MANAGER, "JobRemoved", "tosss", 7, JOB_PATH, state, name, message)

    def leave(self) -> None:
        """Leave the bus without a word."""
        self._bus.disconnect()

    def soon(self, act: Callable[[], None]) -> None:
        """Do something from another thread."""
        self._loop.call_soon_threadsafe(act)

    def members(self) -> list[str]:
        return [called.member for called in self.calls]

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _connect(self, address: str) -> None:
        self._bus = MessageBus(bus_address=address)
        await self._bus.connect()
        self._bus.add_message_handler(self._receive)
        if self._name:
            await self._bus.request_name(self._name)

    async def _disconnect(self) -> None:
        if self._bus.connected:
            self._bus.disconnect()
        await asyncio.gather(self._bus.wait_for_disconnect(), return_exceptions=True)
        self._bus._stream.close()
        self._bus._sock.close()

    def _receive(self, message: Message) -> bool:
        if message.message_type != MessageType.METHOD_CALL:
            return False
        called = Called(message.sender or "", message.path or "", message.interface or "", message.member or "",
                        [_plain(item) for item in message.body],
                        bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION))
        self.calls.append(called)
        answer = self._play(self, called)
        if answer is not None:
            kind = MessageType.ERROR if answer.error else MessageType.METHOD_RETURN
            self._bus.send(Message(message_type=kind, destination=message.sender, reply_serial=message.serial,
                                   error_name=answer.error or None, signature=answer.signature,
                                   body=list(answer.body)))
            for act in answer.then:
                self._loop.call_soon(act)
        return True


def job(**properties: Variant) -> dict[str, Variant]:
    """The properties of a job that has just started, with changes."""
    return {
        "Id": Variant("t", 7), "Kind": Variant("s", "upgrade"), "State": Variant("s", "running"),
        "Stage": Variant("s", ""), "BytesDone": Variant("t", 0), "BytesTotal": Variant("t", 0),
        "Rate": Variant("t", 0), "Progress": Variant("u", 0), "Ended": Variant("t", 0),
        "Background": Variant("b", False), "StartedBy": Variant("(sus)", [":1.5", 1000, "gnome-software"]),
        "Result": Variant("a{sv}", {}), "Error": Variant("(sss)", ["", "", ""]), **properties,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return _plain(value.value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
