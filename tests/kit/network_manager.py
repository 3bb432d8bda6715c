# SPDX-License-Identifier: Apache-2.0
"""NetworkManager as far as bootcd asks it: one property, on a bus, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any

from dbus_next import Message, MessageType, Variant
from dbus_next.aio import MessageBus

NAME = "org.freedesktop.NetworkManager"


class NetworkManager:
    """A context manager. `answer` is what the property Metered is said to be; None never answers."""

    def __init__(self, address: str, answer: Variant | None) -> None:
        self._address = address
        self._answer = answer
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self.asked = 0

    async def _serve(self) -> None:
        bus = await MessageBus(self._address).connect()
        bus.add_message_handler(self._handle)
        await bus.request_name(NAME)
        self._ready.set()
        await self._stop.wait()
        bus.disconnect()
        await bus.wait_for_disconnect()
        bus._sock.close()  # the library leaves that to the garbage collector

    def _handle(self, message: Message) -> Any:
        if message.message_type is not MessageType.METHOD_CALL or message.body != [NAME, "Metered"]:
            return None
        assert (message.path, message.member) == ("/org/freedesktop/NetworkManager", "Get")
        self.asked += 1
        return True if self._answer is None else Message.new_method_return(message, "v", [self._answer])

    def __enter__(self) -> NetworkManager:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()
