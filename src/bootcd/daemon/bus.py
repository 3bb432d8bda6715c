# SPDX-License-Identifier: Apache-2.0
"""One connection to the bus: our objects on it, calls of others, and who is there.

The only module that knows dbus-next, and only as the code that turns values into messages and back. The library is
frozen at 0.2.3, so its private names are safe to use; what is wrong with its higher levels is told in `stream`, and in
the tests of this module, one for each trap.

What a stranger can do to us is bounded: a call has at most `CALL_LIMIT` bytes and is read only when its signature is
the right one, each caller has at most `MAX_CALLS` calls in progress, and no call is waited for by another.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from ..errors import BootcdError, Interrupted
from .dispatch import ERROR, Objects, Setting
from .exports import BusError, Call, Emission, Exported, Handler, Outbox, Place, hold
from .interfaces import NAME
from .presence import DRIVER, Presence
from .signatures import fit, plain, printable, split
from .stream import SYSTEM_BUS, Stream, paths
from .wire import Typed

__all__ = ["Bus", "BusError", "Call", "Exported", "Handler", "inhibit"]

log = logging.getLogger(__name__)

CALL_LIMIT = 2**16
"""Bytes that the arguments of one call of ours may have."""
MAX_CALLS = 32
"""Unfinished calls of one caller; unfinished questions of one user about what he may do."""
MAX_MESSAGE = 2**25
"""What dbus-daemon takes on the system bus. It disconnects who sends more."""
CONNECT_TIMEOUT = 25.0

Authorize = Callable[[Call, str], Awaitable[None]]
"""Returns if the caller may do what needs the polkit action. Raises to refuse."""

_DO_NOT_QUEUE = 4
_OWNER = (1, 4)


class _Cache(dict[str, SignatureTree]):
    """The library keeps every signature that it has seen, and callers choose them."""

    def __setitem__(self, signature: str, tree: SignatureTree) -> None:
        if len(self) >= 1024:
            self.clear()
        super().__setitem__(signature, tree)


SignatureTree._cache = _Cache()


class Bus:
    """A connection with what we export on it. Made by `connect`, ended by `close`."""

    def __init__(self, authorize: Authorize) -> None:
        loop = asyncio.get_running_loop()
        self._authorize = authorize
        self._objects = Objects()
        self._outbox = Outbox(self._emit, loop.call_soon)
        self._presence = Presence(self._request)
        self._pending: dict[int, asyncio.Future[list[Any]]] = {}
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: Counter[str] = Counter()
        self._asking: Counter[int] = Counter()
        self._names: set[str] = set()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._stream: Stream
        self._disconnected = ""
        """Why there is no connection any more."""
        self.unique_name = ""

    @classmethod
    async def connect(cls, address: str | None, authorize: Authorize) -> Bus:
        """Connect; None means the system bus. Raises BootcdError."""
        bus = cls(authorize)
        address = address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS
        bus._stream = await Stream.connect(address, bus._received, bus._ended, CONNECT_TIMEOUT)
        try:
            (bus.unique_name,) = await bus.call(*DRIVER, "Hello")
        except BaseException:
            bus._stream.abort()
            raise
        return bus

    def close(self) -> None:
        """Send what is waiting and disconnect. Calls in progress are cancelled; the bus tells their callers."""
        self._outbox.flush()
        for task in tuple(self._tasks):
            task.cancel()
        self._stream.close()

    # --- our objects ----------------------------------------------------------------------------------------------

    def export(self, path: str, *exported: Exported) -> None:
        """Put interfaces of an object on the bus. Raises ValueError when there is one with that name, or when it is
        on a bus already."""
        self._objects.add(path, *exported)
        for one in exported:
            one.place = Place(path, self._outbox)

    def remove(self, path: str) -> None:
        """Take an object off the bus; signals that it has emitted still leave. Raises KeyError."""
        for one in self._objects.remove(path):
            one.place = None

    async def own(self, name: str) -> None:
        """Take a well-known name. Raises BootcdError when somebody else has it, BusError when we may not."""
        (answer,) = await self.call(*DRIVER, "RequestName", "su", name, _DO_NOT_QUEUE)
        if answer not in _OWNER:
            raise BootcdError(f"the bus name {name} is taken", advice="Is another bootcd running?")
        self._names.add(name)

    async def lost(self) -> str:
        """Wait for the end of the connection, or of the ownership of a name; returns which."""
        return await asyncio.shield(self._lost)

    # --- others ---------------------------------------------------------------------------------------------------

    async def call(self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any,
                   timeout: float | None = 25.0, start: bool = True) -> list[Any]:
        """Call a method and return its out arguments as plain values; `Typed` stands for a variant in the arguments.
        Nothing is started by the call unless `start`. Raises BusError: what was answered, NoReply after `timeout`
        seconds, or Disconnected."""
        flags = MessageFlag.NONE if start else MessageFlag.NO_AUTOSTART
        reply = self._request(destination, path, interface, member, signature, *body, flags=flags)
        try:
            async with asyncio.timeout(timeout):
                return await reply
        except TimeoutError:
            raise BusError(ERROR + "NoReply", f"{destination} did not answer {member} in {timeout:g} seconds") from None

    async def uid_of(self, sender: str) -> int:
        """The user of a connection. Raises BusError NameHasNoOwner when it has left."""
        return int((await self.call(*DRIVER, "GetConnectionUnixUser", "s", sender))[0])

    async def pid_of(self, sender: str) -> int:
        """The process of a connection: good for the journal, not for decisions. Raises BusError."""
        return int((await self.call(*DRIVER, "GetConnectionUnixProcessID", "s", sender))[0])

    async def vanished(self, sender: str) -> None:
        """Return when the connection with that unique name has left the bus, or when we have."""
        with self._presence.watch(sender) as gone:
            await asyncio.shield(gone)

    def on_signal(self, sender: str, path: str, interface: str, member: str, callback: Callable[..., None]) -> None:
        """From now on, call `callback` with the arguments of each such signal of the program that has the bus name
        `sender` at that time. Others cannot forge it."""
        self._presence.subscribe(sender, path, interface, member, callback)

    # --- messages out ---------------------------------------------------------------------------------------------

    def _request(self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any,
                 flags: MessageFlag = MessageFlag.NONE) -> asyncio.Future[list[Any]]:
        """Send a call; the future gets its outcome. May be abandoned by cancelling it."""
        reply: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._disconnected:
            raise BusError(ERROR + "Disconnected", self._disconnected)
        serial = self._send(Message(
            message_type=MessageType.METHOD_CALL, destination=destination, path=path, interface=interface,
            member=member, flags=flags, signature=signature, body=_sendable(signature, body)))
        self._pending[serial] = reply
        reply.add_done_callback(lambda _: self._pending.pop(serial, None))
        return reply

    def _send(self, message: Message) -> int:
        self._serial = self._serial % 0xFFFFFFFF + 1
        message.serial = self._serial
        data = bytes(message._marshall())
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(data)} bytes")
        self._stream.write(data)
        return self._serial

    def _emit(self, emission: Emission) -> None:
        try:
            self._send(Message(
                message_type=MessageType.SIGNAL, path=emission.path, interface=emission.interface,
                member=emission.member, signature=emission.signature,
                body=_sendable(emission.signature, emission.body)))
        except Exception:
            log.exception("%s of %s cannot be sent", emission.member, emission.path)

    def _reply(self, call: Message, signature: str, body: Sequence[Any]) -> None:
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._send(Message.new_method_return(call, signature, _sendable(signature, body)))

    def _refuse(self, call: Message, error: BaseException) -> None:
        """Answer an error. What nobody has foreseen is for the journal only."""
        match error:
            case BusError():
                name, words = error.name, [str(error), error.hint]
            case BootcdError():
                name, words = error.bus_name(), [str(error), error.hint]
            case asyncio.CancelledError():
                name, words = Interrupted.bus_name(), ["the call was interrupted", ""]
            case _:
                log.error("%s.%s failed", call.interface, call.member, exc_info=error)
                name, words = BootcdError.bus_name(), ["internal error; see the journal", ""]
        if name.startswith(ERROR) or not (words[1] or name.startswith(f"{NAME}.")):
            words = words[:1]  # what every client expects of the errors of others
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._send(Message(
                message_type=MessageType.ERROR, reply_serial=call.serial, destination=call.sender, error_name=name,
                signature="s" * len(words), body=[printable(word) for word in words]))

    # --- messages in ----------------------------------------------------------------------------------------------

    def _received(self, header: bytes, body: bytes | None) -> None:
        try:
            message = _read_header(header)
        except Exception as error:
            log.debug("a message that cannot be understood is ignored: %s", error)
            return
        try:
            if message.message_type is MessageType.METHOD_CALL:
                self._called(message, header, body)
            elif message.message_type is MessageType.SIGNAL:
                self._signalled(message, header, body)
            else:
                self._answered(message, header, body)
        except Exception:
            log.exception("a message of %s cannot be handled", message.sender)

    def _answered(self, message: Message, header: bytes, body: bytes | None) -> None:
        reply = self._pending.get(message.reply_serial)
        if reply is None or reply.done():
            return
        if body is None:
            reply.set_exception(BusError(ERROR + "LimitsExceeded", "the answer is too long"))
            return
        values = [plain(value) for value in _read_body(message, header, body)]
        if message.message_type is MessageType.ERROR:
            words = [value for value in values if isinstance(value, str)]
            reply.set_exception(BusError(message.error_name, *(words or [message.error_name])[:2]))
        else:
            reply.set_result(values)

    def _signalled(self, message: Message, header: bytes, body: bytes | None) -> None:
        if body is None or not self._presence.wants(message.sender, message.path, message.interface, message.member):
            return
        values = [plain(value) for value in _read_body(message, header, body)]
        if message.sender == DRIVER[0] and message.member == "NameLost" and values[0] in self._names:
            self._lose(f"lost the bus name {values[0]}")
        self._presence.signal(message.sender, message.path, message.interface, message.member, values)

    def _called(self, message: Message, header: bytes, body: bytes | None) -> None:
        try:
            if body is None or len(body) > CALL_LIMIT:
                raise BusError(ERROR + "LimitsExceeded", f"more than {CALL_LIMIT} bytes of arguments")
            target = self._objects.find(message.path, message.interface, message.member, message.signature)
            values = _read_body(message, header, body)
            arguments = target.arguments(values)
            work: Callable[[], Awaitable[Sequence[Any]]]
            if target.exported is None and target.method.name != "Set":
                self._reply(message, target.method.out_signature, self._objects.answer(target, arguments))
                return
            if self._unfinished[message.sender] >= MAX_CALLS:
                raise BusError(ERROR + "LimitsExceeded", f"more than {MAX_CALLS} calls in progress")
            if target.exported is None:
                setting = self._objects.setting(target, values)
                work = partial(self._set, message.sender, setting)
            else:
                interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
                call = Call(message.sender, message.path, target.interface.name, message.member, arguments, interactive)
                work = partial(self._handle, target.exported.handlers[message.member], call, target.actions(arguments))
        except Exception as error:
            self._refuse(message, error)
        else:
            self._unfinished[message.sender] += 1
            task = asyncio.get_running_loop().create_task(self._finish(message, target.method.out_signature, work))
            self._tasks.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(partial(self._finished, message.sender))

    # --- calls in progress ----------------------------------------------------------------------------------------

    async def _finish(self, message: Message, signature: str, work: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        """Do the work of a call and answer it, whatever happens; then let the signals go that it has caused."""
        held = hold()
        try:
            self._reply(message, signature, await work())
        except Exception as error:
            self._refuse(message, error)
        except asyncio.CancelledError as error:
            self._refuse(message, error)
            raise
        finally:
            held.release()

    def _finished(self, sender: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._unfinished[sender] -= 1
        if not self._unfinished[sender]:
            del self._unfinished[sender]

    async def _handle(self, handler: Handler, call: Call, actions: Sequence[str]) -> Sequence[Any]:
        for action in actions:
            await self._ask(call, action)
        return await handler(call)

    async def _ask(self, call: Call, action: str) -> None:
        """Put the caller's right to the question, for as long as he stays: then it is taken back."""
        task = asyncio.current_task()
        assert task is not None
        with self._presence.watch(call.sender, task.cancel):
            uid = await self.uid_of(call.sender)
            if uid and self._asking[uid] >= MAX_CALLS:
                # The bus lets us have 128 questions open, to polkit too; they are for everybody.
                raise BusError(ERROR + "LimitsExceeded", f"more than {MAX_CALLS} calls of one user wait for polkit")
            self._asking[uid] += 1
            try:
                await self._authorize(call, action)
            finally:
                self._asking[uid] -= 1
                if not self._asking[uid]:
                    del self._asking[uid]

    async def _set(self, sender: str, setting: Setting) -> Sequence[Any]:
        if await self.uid_of(sender) not in (0, os.geteuid()):
            raise BusError(ERROR + "AccessDenied", f"only root may set {setting.name}")
        setting.apply(setting.value)
        return []

    # --- the end --------------------------------------------------------------------------------------------------

    def _ended(self, reason: str) -> None:
        self._disconnected = reason
        self._lose(reason)
        for reply in list(self._pending.values()):
            if not reply.done():
                reply.set_exception(BusError(ERROR + "Disconnected", reason))
        self._presence.end()

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)


def _read_header(header: bytes) -> Message:
    """A message without its body. Raises whatever the library finds wrong with it."""
    reader = Unmarshaller(io.BytesIO(header[:4] + bytes(4) + header[8:]))
    message = reader.unmarshall()
    if not isinstance(message, Message) or not message.sender:
        raise ValueError("incomplete")
    return message


def _read_body(message: Message, header: bytes, body: bytes) -> list[Any]:
    """The values of a message; variants are Typed."""
    reader = Unmarshaller(None)
    reader.buf = bytearray(body)
    reader.endian = header[0]
    read: Callable[[Any], Any] = reader.read_argument
    return [_ours(read(kind)) for kind in message.signature_tree.types] if body else []


def _ours(value: Any) -> Any:
    """A value of the library as one of ours."""
    if isinstance(value, Variant):
        return Typed(value.signature, _ours(value.value))
    if isinstance(value, list):
        return [_ours(item) for item in value]
    if isinstance(value, dict):
        return {key: _ours(item) for key, item in value.items()}
    return value


def _sendable(signature: str, body: Sequence[Any]) -> list[Any]:
    """Values of ours as the library takes them. Raises TypeError or ValueError when they are not of these types."""
    types = split(signature)
    if len(types) != len(body):
        raise TypeError(f"{len(body)} values for the types '{signature}'")
    return [_library(fit(kind, value)) for kind, value in zip(types, body, strict=True)]


def _library(value: Any) -> Any:
    if isinstance(value, Typed):
        return Variant(value.signature, _library(value.value))
    if isinstance(value, list | tuple):
        return [_library(item) for item in value]
    if isinstance(value, dict):
        return {key: _library(item) for key, item in value.items()}
    return value


# --- descriptors ------------------------------------------------------------------------------------------------------


async def inhibit(address: str | None, what: str, who: str, why: str, mode: str, *,
                  timeout: float = 1.0) -> int | None:
    """Take an inhibitor lock of logind's; it lasts until the descriptor is closed. None when it cannot be had within
    `timeout` seconds, for whatever reason.

    That takes a connection of its own, which ends with the answer: where descriptors are negotiated, anybody can fill
    our table by sending some along.
    """
    fds: list[int] = []
    try:
        async with asyncio.timeout(timeout):
            await _inhibit(address or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS,
                           [what, who, why, mode], fds)
        return fds.pop()
    except Exception as error:  # the library has many
        log.warning("no inhibitor lock for %s: %s", what, str(error) or "no answer in time")
        return None
    finally:
        for fd in fds:
            os.close(fd)


async def _inhibit(address: str, body: list[str], fds: list[int]) -> None:
    """Leaves the one descriptor of logind's answer in `fds`, or raises; all that arrive are put there."""
    hello = Message(destination=DRIVER[0], path=DRIVER[1], interface=DRIVER[2], member="Hello", serial=1)
    call = Message(destination="org.freedesktop.login1", path="/org/freedesktop/login1",
                   interface="org.freedesktop.login1.Manager", member="Inhibit", signature="ssss", body=body,
                   flags=MessageFlag.NO_AUTOSTART, serial=2)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        await loop.sock_connect(connection, paths(address)[0])
        await loop.sock_sendall(connection, b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
                                + hello._marshall() + call._marshall())
        data = b""
        while (reply := _reply(data, call.serial)) is None:
            data += await _receive(connection, fds)
    if reply.message_type is not MessageType.METHOD_RETURN:
        raise BusError(reply.error_name, " ".join([reply.error_name, *(str(word) for word in reply.body[:1])]))
    if reply.signature != "h" or len(fds) != 1:
        raise EOFError(f"'{reply.signature}' with {len(fds)} descriptors is no lock")


async def _receive(connection: socket.socket, fds: list[int]) -> bytes:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(connection, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
    data, received, _, _ = socket.recv_fds(connection, 4096, 16)
    fds += received
    for fd in received:
        os.set_inheritable(fd, False)  # Python 3.11 ignores the flag that does it at once
    if not data:
        raise EOFError("disconnected from the bus")
    return data


def _reply(data: bytes, serial: int) -> Message | None:
    """The answer to a message, once all of it is there, behind the lines of the authentication."""
    *lines, messages = data.split(b"\r\n", 3)
    if len(lines) < 3:
        return None
    if lines[2] != b"AGREE_UNIX_FD":
        raise EOFError(f"the bus passes no descriptors: {lines[2].decode('ascii', 'replace')}")
    stream = io.BytesIO(messages)
    try:
        while (message := Unmarshaller(stream).unmarshall()) is not None:
            if message.reply_serial == serial:
                return message
    except EOFError:  # the next message is not there yet
        pass
    return None
