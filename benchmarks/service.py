# SPDX-License-Identifier: Apache-2.0
"""The least that a service in Python can be: one property, by the library alone. Run as a program of its own.

It shares nothing with bootcd but the interpreter, asyncio and dbus-next, so what bootcd takes more is bootcd's.
"""

# No `from __future__ import annotations`: the library reads the annotations.

import asyncio
import sys

from dbus_next import BusType, PropertyAccess
from dbus_next.aio import MessageBus
from dbus_next.service import ServiceInterface, dbus_property

NAME = "org.example.Bare"
PATH = "/org/example/bare"


class Bare(ServiceInterface):  # type: ignore[misc]  # the library has no types
    """Says its version."""

    @dbus_property(access=PropertyAccess.READ)  # type: ignore[untyped-decorator]
    def Version(self) -> "s":  # type: ignore[name-defined]  # noqa: F821
        return "1"


async def main() -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    bus.export(PATH, Bare(NAME))
    await bus.request_name(NAME)
    print("ready", flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
