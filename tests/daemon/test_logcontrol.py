# SPDX-License-Identifier: Apache-2.0
"""The log level, set the way systemctl sets it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bootcd.daemon.bus import Bus
from bootcd.daemon.logcontrol import INTERFACE, PATH, LogControl
from kit.bus import SystemBus
from kit.bus_client import Client


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("test", logging.INFO)
    logger.addHandler(logging.StreamHandler())
    yield logger
    for handler in logger.handlers:
        handler.close()


async def nobody_asks(call: object, action: str) -> None:
    raise AssertionError


async def set_property(open_bus: SystemBus, logger: logging.Logger, name: str, value: str) -> tuple[Message, str]:
    """Set it on a bus; the answer, and what the property is then."""
    bus = await Bus.connect(open_bus.address, nobody_asks)
    try:
        bus.export(PATH, LogControl(logger).exported)
        async with Client(open_bus.address) as client:
            properties = "org.freedesktop.DBus.Properties"
            answer = await client.call(bus.unique_name, PATH, properties, "Set", "ssv",
                                       [INTERFACE.name, name, Variant("s", value)])
            now = await client.call(bus.unique_name, PATH, properties, "Get", "ss", [INTERFACE.name, name])
            return answer, now.body[0].value
    finally:
        bus.close()
        await bus.lost()


@pytest.mark.parametrize(("value", "level"), [("debug", logging.DEBUG), ("notice", logging.INFO),
                                              ("err", logging.ERROR), ("emerg", logging.CRITICAL)])
def test_level(open_bus: SystemBus, logger: logging.Logger, value: str, level: int) -> None:
    answer, now = asyncio.run(set_property(open_bus, logger, "LogLevel", value))
    assert answer.message_type is MessageType.METHOD_RETURN
    assert now == value
    assert logger.level == level


@pytest.mark.parametrize(("name", "before"), [("LogLevel", "info"), ("LogTarget", "console")])
def test_nonsense(open_bus: SystemBus, logger: logging.Logger, name: str, before: str) -> None:
    answer, now = asyncio.run(set_property(open_bus, logger, name, "nonsense"))
    assert answer.error_name == "org.freedesktop.DBus.Error.InvalidArgs"
    assert "no log" in answer.body[0]
    assert now == before
    assert logger.level == logging.INFO


def test_target(open_bus: SystemBus, logger: logging.Logger) -> None:
    answer, now = asyncio.run(set_property(open_bus, logger, "LogTarget", "null"))
    assert answer.message_type is MessageType.METHOD_RETURN
    assert now == "null"
    (handler,) = logger.handlers
    assert isinstance(handler, logging.NullHandler)


def test_the_name_is_fixed(open_bus: SystemBus, logger: logging.Logger) -> None:
    answer, now = asyncio.run(set_property(open_bus, logger, "SyslogIdentifier", "other"))
    assert answer.error_name == "org.freedesktop.DBus.Error.PropertyReadOnly"
    assert now == "bootcd"
