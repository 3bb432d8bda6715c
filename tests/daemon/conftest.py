# SPDX-License-Identifier: Apache-2.0
"""A private bus on which everybody may send everything to everybody: nothing but our own checks is in the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kit import bus as kit
from kit.bus import SystemBus


@pytest.fixture(scope="session")
def open_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    if not kit.available():
        pytest.skip("dbus-daemon is not installed")
    limits = {"max_replies_per_connection": 50000, "max_connections_per_user": 1000}
    with SystemBus(tmp_path_factory.mktemp("open-bus"), policy=None, limits=limits) as started:
        yield started


@pytest.fixture
def address(open_bus: SystemBus) -> str:
    return open_bus.address
