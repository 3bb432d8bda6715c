# SPDX-License-Identifier: Apache-2.0
"""A plain connection to a bus that sends what it is told to, right or wrong, and keeps what comes back.

    with Caller(bus.address) as caller:
        job = caller.manager("Upgrade", {})
        caller.wait_over(job)

The library serves only to turn values into messages and back; sockets are blocking, so tests read from top to bottom.
"""

from __future__ import annotations

import array
import io
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

NAME = "org.bootcd1"
ROOT = "/org/bootcd1"
MANAGER = "org.bootcd1.Manager"
DEPLOYMENT = "org.bootcd1.Deployment"
JOB = "org.bootcd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
ERROR = "org.freedesktop.DBus.Error."

TIMEOUT = 20.0


class Refused(Exception):
    """An error was answered."""

    def __init__(self, name: str, words: Sequence[Any]) -> None:
        super().__init__(name, *words)
        self.name = name
        self.message = str(words[0]) if words else ""


class Caller:
    """One connection. With `descriptors` it may pass files. A context manager."""

    def __init__(self, address: str, *, descriptors: bool = False) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        self._buffer = bytearray()
        self._serial = 0
        self._replies: dict[int, Message] = {}
        self.signals: deque[Message] = deque()
        """Those that nobody has looked at."""
        try:
            self._authenticate(address, descriptors)
            (self.unique_name,) = self.call("Hello", place=DRIVER)
        except BaseException:
            self.close()
            raise

    def _authenticate(self, address: str, descriptors: bool) -> None:
        options = dict(part.split("=", 1) for part in address.partition(":")[2].split(","))
        self._socket.connect(options["path"])
        negotiate = b"NEGOTIATE_UNIX_FD\r\n" if descriptors else b""
        self._socket.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\n" + negotiate + b"BEGIN\r\n")
        data = b""
        while data.count(b"\r\n") < (3 if descriptors else 2):
            data += self._socket.recv(1)
        assert b"OK " in data, data

    def close(self) -> None:
        """Leave, at once and without a word."""
        self._socket.close()

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- sending --------------------------------------------------------------------------------------------------

    def send(self, member: str, signature: str = "", *body: Any, place: tuple[str, str, str | None],
             descriptors: Sequence[int] = (), raw: bytes | None = None, flags: MessageFlag = MessageFlag.NONE) -> int:
        """Send a call and return its serial. `place` is name, path and interface; `raw` replaces the body, which must
        be of the same signature."""
        self._serial += 1
        message = Message(destination=place[0], path=place[1], interface=place[2], member=member, signature=signature,
                          body=list(body), serial=self._serial, flags=flags)
        message.unix_fds = list(descriptors)  # goes into the header; the files themselves go beside
        data = bytearray(message._marshall(bool(descriptors)))
        if raw is not None:
            (length,) = struct.unpack_from("<I", data, 4)
            del data[len(data) - length:]
            struct.pack_into("<I", data, 4, len(raw))
            data += raw
        if descriptors:
            sent = self._socket.sendmsg(
                [data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())])
            data = data[sent:]
        self._socket.sendall(data)
        return self._serial

    def call(self, member: str, signature: str = "", *body: Any, place: tuple[str, str, str | None],
             descriptors: Sequence[int] = (), raw: bytes | None = None, timeout: float = TIMEOUT) -> list[Any]:
        """Call and wait; the out arguments as plain values. Raises Refused; TimeoutError after `timeout` seconds."""
        return self.reply(self.send(member, signature, *body, place=place, descriptors=descriptors, raw=raw), timeout)

    def manager(self, member: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the Manager that takes strings and options; options are variants by name. Returns its out
        argument."""
        signature = "s" * len(arguments) + "a{sv}"
        return self.call(member, signature, *arguments, _options(options), place=(NAME, ROOT, MANAGER))[0]

    def cancel(self, job: str) -> None:
        self.call("Cancel", place=(NAME, job, JOB))

    def get(self, path: str, interface: str, name: str, timeout: float = TIMEOUT) -> Any:
        """Read a property."""
        return self.get_of(NAME, path, interface, name, timeout)

    def get_of(self, destination: str, path: str, interface: str, name: str, timeout: float = TIMEOUT) -> Any:
        """Read a property of another service."""
        return self.call("Get", "ss", interface, name, place=(destination, path, PROPERTIES), timeout=timeout)[0]

    def listen(self, rule: str = f"type='signal',sender='{NAME}'") -> None:
        """Get signals from now on."""
        self.call("AddMatch", "s", rule, place=DRIVER)

    # --- waiting --------------------------------------------------------------------------------------------------

    def reply(self, serial: int, timeout: float = TIMEOUT) -> list[Any]:
        """Wait for the answer to a call. Raises Refused, TimeoutError."""
        deadline = time.monotonic() + timeout
        while serial not in self._replies:
            self._receive(deadline)
        message = self._replies.pop(serial)
        values = [plain(value) for value in message.body]
        if message.message_type is MessageType.ERROR:
            raise Refused(message.error_name, values)
        return values

    def signal(self, wanted: Callable[[Message], bool], timeout: float = TIMEOUT) -> Message:
        """The next signal that is wanted; those before it are gone. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            while self.signals:
                message = self.signals.popleft()
                if wanted(message):
                    return message
            self._receive(deadline)

    def wait_over(self, job: str, timeout: float = 60.0) -> str:
        """Wait for the end of a job; how it ended."""
        deadline = time.monotonic() + timeout
        while not self.get(job, JOB, "Ended"):
            assert time.monotonic() < deadline, f"{job} does not end"
            time.sleep(0.01)
        return str(self.get(job, JOB, "State"))

    def _receive(self, deadline: float) -> None:
        """Wait for more, and put away each message that is complete."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(1 << 16)
        if not data:
            raise EOFError("disconnected from the bus")
        self._buffer += data
        while (size := _size(self._buffer)) <= len(self._buffer):
            message = Unmarshaller(io.BytesIO(bytes(self._buffer[:size]))).unmarshall()
            del self._buffer[:size]
            if message.message_type is MessageType.SIGNAL:
                self.signals.append(message)
            elif message.message_type is not MessageType.METHOD_CALL:
                self._replies[message.reply_serial] = message


def plain(value: Any) -> Any:
    """The value without the types of its variants."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _options(options: dict[str, Any]) -> dict[str, Variant]:
    return {name.replace("_", "-"): Variant("b" if isinstance(value, bool) else "s", value)
            for name, value in options.items()}


def _size(buffer: bytearray) -> int:
    """Bytes of the first message; more than there are while that is not known."""
    if len(buffer) < 16:
        return 16
    body, fields = struct.unpack_from("<I4xI" if buffer[0] == ord("l") else ">I4xI", buffer, 4)
    return int(16 + fields + -fields % 8 + body)
