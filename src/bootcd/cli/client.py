# SPDX-License-Identifier: Apache-2.0
"""The command line's connection to the bus: call the daemon, wait for what it says.

Everything looks synchronous from outside: each connection has an event loop of its own, which runs only while somebody
waits. Values are plain Python in both directions. `cli.bushost` makes a `Host` of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import ErrorType, MessageFlag, MessageType
from dbus_next.errors import AuthError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from .jobs import BusError

NAME = "org.bootcd1"
ROOT = "/org/bootcd1"
MANAGER = "org.bootcd1.Manager"
DEPLOYMENT = "org.bootcd1.Deployment"
JOB = "org.bootcd1.Job"
PROPERTIES = "org.freedesktop.DBus.Properties"
DBUS = "org.freedesktop.DBus"

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds for a call that is answered without asking anybody."""
ASK_TIMEOUT = 600.0
"""Seconds for a call that may ask for a password."""
GRACE = 1.0
"""Seconds that a reply has after Ctrl-C: what is started by then can be cancelled."""

T = TypeVar("T")


class Unreachable(BusError):
    """There is no bus at the address."""


@dataclass(frozen=True, slots=True)
class Signal:
    sender: str
    path: str
    interface: str
    member: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Reply:
    sender: str
    arguments: Sequence[Any]


class _MessageBus(MessageBus):  # type: ignore[misc]  # the library has no types
    """The library's, without what it forgets."""

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Close the socket, which the library leaves to the garbage collector."""
        for file in (getattr(self, "_stream", None), getattr(self, "_sock", None)):
            if file is not None:
                with contextlib.suppress(OSError, ValueError):
                    file.close()

    async def _auth_readline(self) -> str:
        # The library reads for ever when the bus closes the connection, as it does when a user has too many.
        line = b""
        while not line.endswith(b"\r\n"):
            got = await self._loop.sock_recv(self._sock, 1)
            if not got:
                raise AuthError("the bus closed the connection")
            line += got
        return line[:-2].decode("ascii", "replace")


class Connection:
    """A connection to a bus. A context manager; raises Unreachable."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._signals: deque[Signal] = deque()
        self._event = asyncio.Event()
        self._interrupts = 0
        self._bus: Any = None  # much of the library says no types
        self._lost: asyncio.Future[None] | None = None
        try:
            self._loop.run_until_complete(self._connect(address))
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, AuthError, InvalidAddressError, EOFError, TimeoutError)):
                raise Unreachable(ErrorType.NO_SERVER.value, f"no bus at {address}: {error}") from error
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _connect(self, address: str) -> None:
        self._bus = _MessageBus(bus_address=address)  # wants a running loop
        self._bus.add_message_handler(self._receive)
        await asyncio.wait_for(self._bus.connect(), CONNECT_TIMEOUT)
        self._lost = asyncio.ensure_future(self._bus.wait_for_disconnect())
        self._lost.add_done_callback(lambda _: self._event.set())

    def _receive(self, message: Message) -> bool:
        ours = message.interface != DBUS or message.member == "NameOwnerChanged"
        if message.message_type == MessageType.SIGNAL and ours:
            self._signals.append(Signal(message.sender or "", message.path or "", message.interface or "",
                                        message.member or "", [_plain(item) for item in message.body]))
            self._event.set()
        return False

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *body: Any,
        timeout: float = READ_TIMEOUT, start: bool = True, interactive: bool = False,
    ) -> Reply:
        """Call a method; a dictionary in `body` is sent as `a{sv}`, with strings and booleans in it. Raises BusError,
        and KeyboardInterrupt when `interrupts_held` and somebody interrupts."""
        flags = MessageFlag.NONE if start else MessageFlag.NO_AUTOSTART
        if interactive:
            flags |= MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
        texts = [text for item in body for text in (item if isinstance(item, list) else [item])]
        if any("\0" in text for text in texts if isinstance(text, str)):  # for which the bus would hang up
            raise BusError(ErrorType.INVALID_ARGS.value, "a NUL character cannot be sent over D-Bus")
        try:
            message = Message(destination=destination, path=path, interface=interface, member=member,
                              signature=signature, body=[_wrapped(item) for item in body], flags=flags)
            marshall: Any = message._marshall
            marshall()  # what D-Bus cannot say, like a surrogate in a name, shows only here
        except Exception as error:
            raise BusError(ErrorType.INVALID_ARGS.value, f"cannot be sent over D-Bus: {error}") from error
        return self._run(self._call(message, timeout))

    async def _call(self, message: Message, timeout: float) -> Reply:
        if not self._bus.connected:
            raise BusError(ErrorType.DISCONNECTED.value, "the connection to the bus is lost")
        answer = asyncio.ensure_future(self._bus.call(message))
        deadline = self._loop.time() + timeout
        try:
            while not answer.done() and (left := deadline - self._loop.time()) > 0:
                if self._interrupts:
                    await asyncio.wait({answer}, timeout=GRACE)
                    if not answer.done():
                        self._interrupts = 0
                        raise KeyboardInterrupt
                    break
                self._event.clear()
                woken = asyncio.ensure_future(self._event.wait())
                await asyncio.wait({answer, woken}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
            if not answer.done():
                raise BusError(ErrorType.NO_REPLY.value, f"no answer within {timeout:.0f} seconds")
        finally:
            answer.cancel()
        try:
            reply = answer.result()
        except (OSError, EOFError) as error:
            raise BusError(ErrorType.DISCONNECTED.value, "the connection to the bus is lost") from error
        if reply is None:
            raise BusError(ErrorType.DISCONNECTED.value, "the connection to the bus is lost")
        if reply.message_type == MessageType.ERROR:
            if self._interrupts:  # polkit's question was answered with Ctrl-C
                self._interrupts = 0
                raise KeyboardInterrupt
            words = [item for item in reply.body[:2] if isinstance(item, str)] + ["", ""]
            raise BusError(reply.error_name or "", words[0], words[1])
        return Reply(reply.sender or "", [_plain(item) for item in reply.body])

    def properties(self, path: str, interface: str, *, destination: str = NAME, start: bool = True) -> dict[str, Any]:
        """All properties of an object. Raises BusError."""
        reply = self.call(destination, path, PROPERTIES, "GetAll", "s", interface, start=start)
        found = reply.arguments[0] if reply.arguments else None
        if not isinstance(found, dict):
            raise BusError(ErrorType.INVALID_SIGNATURE.value, f"{path} answered nonsense to GetAll")
        return found

    def subscribe(self) -> None:
        """From now on `next` tells what the daemon says, and that it comes or goes."""
        for rule in (f"type='signal',sender='{NAME}',path_namespace='{ROOT}'",
                     f"type='signal',sender='{DBUS}',interface='{DBUS}',member='NameOwnerChanged',arg0='{NAME}'"):
            self.call(DBUS, "/org/freedesktop/DBus", DBUS, "AddMatch", "s", rule)

    def owner(self) -> str:
        """The unique name of the daemon; empty when it does not run."""
        try:
            owner = self.call(DBUS, "/org/freedesktop/DBus", DBUS, "GetNameOwner", "s", NAME).arguments[0]
        except BusError as error:
            if error.name == "org.freedesktop.DBus.Error.NameHasNoOwner":
                return ""
            raise
        return str(owner)

    def next(self, timeout: float | None = None) -> Signal | None:
        """The next signal, in order; None after `timeout` seconds. Raises BusError when the connection is lost, and
        KeyboardInterrupt when `interrupts_held` and somebody interrupts."""
        if self._signals and not self._interrupts:
            return self._signals.popleft()
        return self._run(self._next(timeout))

    def arrived(self) -> list[Signal]:
        """The signals that are here already."""
        found = list(self._signals)
        self._signals.clear()
        return found

    async def _next(self, timeout: float | None) -> Signal | None:
        assert self._lost is not None
        deadline = None if timeout is None else self._loop.time() + timeout
        while True:
            if self._interrupts:
                self._interrupts -= 1
                raise KeyboardInterrupt
            if self._signals:
                return self._signals.popleft()
            if self._lost.done():
                raise BusError(ErrorType.DISCONNECTED.value, "the connection to the bus is lost")
            self._event.clear()
            left = None if deadline is None else deadline - self._loop.time()
            try:
                await asyncio.wait_for(self._event.wait(), left)
            except TimeoutError:
                return None

    @contextlib.contextmanager
    def interrupts_held(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM interrupt only `next` and `call`, which raise KeyboardInterrupt for them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            self._loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)
                signal.signal(number, before[number])

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._event.set()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """Leave the bus. Can be called again."""
        if not self._loop.is_closed():
            try:
                self._loop.run_until_complete(self._close())
            finally:
                self._loop.close()

    async def _close(self) -> None:
        bus = self._bus
        if bus is not None and bus.connected:
            bus.disconnect()
            if self._lost is not None:
                await asyncio.wait({self._lost}, timeout=CONNECT_TIMEOUT)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *([self._lost] if self._lost else []), return_exceptions=True)
        if bus is not None:
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(bus._fd)
                self._loop.remove_writer(bus._fd)
            bus.forget()


def _plain(value: Any) -> Any:
    """A value without the variants around and inside it."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _wrapped(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    types = {bool: "b", int: "t", str: "s"}
    return {key: Variant(types[type(item)], item) for key, item in value.items()}
