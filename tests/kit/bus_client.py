# SPDX-License-Identifier: Apache-2.0
"""A client of the bus that can be as rude as it likes: every byte of its messages is its own choice.

    async with Client(bus.address) as client:
        reply = await client.call("org.bootcd1", "/org/bootcd1", "org.freedesktop.DBus.Peer", "Ping")
"""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message

TIMEOUT = 20.0
"""Seconds for everything that is waited for."""


def socket_of(address: str) -> str:
    """The path of the socket that an address names."""
    return unquote(address.partition("path=")[2].partition(",")[0])


class Client:
    """Keeps all messages that it gets, in order. Errors are messages, not exceptions."""

    def __init__(self, address: str) -> None:
        self.name = ""
        self.received: list[Message] = []
        self._address = address
        self._serial = 0
        self._arrived = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Client:
        reader, self._writer = await asyncio.open_unix_connection(socket_of(self._address))
        self._writer.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        while not (await reader.readline()).startswith(b"OK"):
            pass
        self._reading = asyncio.create_task(self._read(reader))
        self.name = (await self.ask_bus("Hello")).body[0]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        assert self._reading is not None
        self._reading.cancel()
        self._writer.transport.abort()
        await asyncio.wait([self._reading])
        await asyncio.sleep(0)

    def send(self, message: Message) -> int:
        """Send it, with a new serial unless it has one; returns that."""
        if not message.serial:
            self._serial += 1
            message.serial = self._serial
        self.write(bytes(message._marshall()))
        return int(message.serial)

    def write(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def drain(self) -> None:
        assert self._writer is not None
        await self._writer.drain()

    def start(self, destination: str, path: str, interface: str | None, member: str, signature: str = "",
              body: Sequence[Any] = (), flags: MessageFlag = MessageFlag.NONE) -> int:
        """Send a call and do not wait; returns its serial."""
        return self.send(Message(destination=destination, path=path, interface=interface, member=member,
                                 signature=signature, body=list(body), flags=flags))

    async def call(self, destination: str, path: str, interface: str | None, member: str, signature: str = "",
                   body: Sequence[Any] = (), flags: MessageFlag = MessageFlag.NONE) -> Message:
        """Send a call and wait for its reply, which may be an error."""
        return await self.reply(self.start(destination, path, interface, member, signature, body, flags))

    async def ask_bus(self, member: str, signature: str = "", *body: Any) -> Message:
        """Call a method of the bus itself."""
        name = "org.freedesktop.DBus"
        return await self.call(name, "/org/freedesktop/DBus", name, member, signature, body)

    async def reply(self, serial: int) -> Message:
        return await self.wait(lambda message: message.reply_serial == serial)

    async def signal(self, member: str, count: int = 1) -> Message:
        """The signal of that name, or the `count`th."""
        await self.until(lambda: len(self.signals(member)) >= count)
        return self.signals(member)[count - 1]

    def signals(self, member: str) -> list[Message]:
        return [message for message in self.received
                if message.message_type is MessageType.SIGNAL and message.member == member]

    async def wait(self, wanted: Callable[[Message], bool]) -> Message:
        """The first such message, from the past or the future."""
        await self.until(lambda: any(map(wanted, self.received)))
        return next(filter(wanted, self.received))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until that holds; it is looked at after each message. Raises TimeoutError."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

    async def ended(self) -> None:
        """Wait until the bus has disconnected us."""
        assert self._reading is not None
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait([self._reading])

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                header = await reader.readexactly(16)
                if header.startswith(b"AGREE"):
                    continue
                length, fields = struct.unpack_from("<I4xI", header, 4)
                rest = await reader.readexactly(fields + -fields % 8 + length)
                self.received.append(Unmarshaller(io.BytesIO(header + rest)).unmarshall())
                self._arrived.set()
        except (asyncio.IncompleteReadError, OSError):
            return
