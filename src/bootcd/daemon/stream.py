# SPDX-License-Identifier: Apache-2.0
"""A connection to a message bus: its address, who we are, and where one message ends and the next begins.

Written on asyncio's own transport instead of the connection of dbus-next 0.2.3, which a local user could stop or block:

  * its writer takes a full socket for the end of the connection, so that a burst of signals disconnects it;
  * its reader empties the socket before anybody else gets a turn, and reads messages of any size whole;
  * one header that it does not like closes the connection;
  * a bus that goes away during authentication leaves it in an endless loop; a failed connection leaves the socket open.

File descriptors are not negotiated, so the bus lets nobody send us any.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from urllib.parse import unquote

from ..errors import BootcdError

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
LIMIT = 2**20
"""Bytes of a message that is read whole. Longer ones are skipped as they come; only their header is looked at."""
TURN = 0.01
"""Seconds that messages are handled before everything else gets a turn."""

_FIXED = 16
_MAX_HEADER = 2**16
_MAX_MESSAGE = 2**27
_MAX_LINE = 1024

Frame = Callable[[bytes, bytes | None], None]
"""Takes the header with its padding, and the body; None for a body that was skipped."""


class Stream(asyncio.Protocol):
    """Connects with `connect`. `received` gets each message; `ended` is told once why no more will come."""

    def __init__(self, received: Frame, ended: Callable[[str], None]) -> None:
        self._received = received
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._buffer = bytearray()
        self._header: bytes | None = None
        self._body = 0
        """Bytes of the body that are to come, when the header is known."""
        self._skip = False
        self._resumes = False
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, address: str, received: Frame, ended: Callable[[str], None], timeout: float) -> Stream:
        """Connect and authenticate. Raises BootcdError when none of the addresses leads to a bus that wants us."""
        loop = asyncio.get_running_loop()
        reasons = []
        for path in paths(address):
            stream = cls(received, ended)
            try:
                async with asyncio.timeout(timeout):
                    await loop.create_unix_connection(lambda stream=stream: stream, path)  # type: ignore[misc]
                    await stream._ready
                return stream
            except (OSError, EOFError) as error:
                reasons.append(f"{path.replace(chr(0), '@')}: {str(error) or 'no answer in time'}")
                stream.abort()
        raise BootcdError(f"cannot connect to the bus: {'; '.join(reasons) or f'no address: {address}'}")

    def write(self, data: bytes) -> None:
        """Send a message; nothing happens after the end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Send what is waiting and end."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._ready.cancel()
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # Without a user id the bus takes the one of the socket, which is right in a user namespace too.
        transport.write(b"\0AUTH EXTERNAL\r\nDATA\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._resumes:
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f"disconnected from the bus{f': {exc}' if exc is not None else ''}"
        if not self._ready.done():
            self._ready.set_exception(EOFError(reason))
        elif not self._ready.cancelled() and self._ready.exception() is None:
            self._ended(reason)

    # --- lines, then messages -------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if not self._ready.done() and not self._authenticated():
            return
        self._resumes = False
        assert self._transport is not None
        until = time.monotonic() + TURN
        while not self._transport.is_closing() and self._take_one():
            if time.monotonic() > until:
                self._resumes = True
                self._transport.pause_reading()
                self._loop.call_soon(self._resume)
                return

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._advance()

    def _authenticated(self) -> bool:
        while b"\r\n" in self._buffer[:_MAX_LINE]:
            line, _, rest = self._buffer.partition(b"\r\n")
            self._buffer = rest
            if line.startswith(b"OK "):
                self.write(b"BEGIN\r\n")
                self._ready.set_result(None)
                return True
            if not line.startswith(b"DATA"):
                self._ready.set_exception(EOFError(f"the bus refuses us: {line.decode('ascii', 'replace')}"))
                return False
        if len(self._buffer) > _MAX_LINE:
            self._ready.set_exception(EOFError("this is no bus"))
        return False

    def _take_one(self) -> bool:
        """Hand on one message; whether there may be another."""
        if self._header is None and not self._take_header():
            return False
        if self._skip:
            dropped = min(self._body, len(self._buffer))
            del self._buffer[:dropped]
            self._body -= dropped
            if self._body:
                return False
        elif len(self._buffer) < self._body:
            return False
        assert self._header is not None
        header, self._header = self._header, None
        body = None if self._skip else bytes(self._buffer[:self._body])
        del self._buffer[:self._body]
        self._received(header, body)
        return True

    def _take_header(self) -> bool:
        if len(self._buffer) < _FIXED:
            return False
        order = {ord("l"): "<", ord("B"): ">"}.get(self._buffer[0], "")
        self._body, fields = struct.unpack_from(f"{order}I4xI", self._buffer, 4) if order else (0, _MAX_MESSAGE)
        length = _FIXED + fields + -fields % 8
        if fields > _MAX_HEADER or self._body > _MAX_MESSAGE:
            # The bus checks what it hands on, so this is not the work of another client.
            assert self._transport is not None
            self._transport.abort()
            return False
        if len(self._buffer) < length:
            return False
        self._header = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._skip = self._body > LIMIT
        return True


def paths(address: str) -> list[str]:
    """The sockets that an address names: D-Bus specification, "Server Addresses"."""
    found = []
    for one in address.split(";"):
        transport, _, options = one.partition(":")
        for option in options.split(",") if transport == "unix" else ():
            key, _, value = option.partition("=")
            if key in ("path", "abstract"):
                found.append(unquote(value) if key == "path" else "\0" + unquote(value))
    return found
