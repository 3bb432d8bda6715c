# SPDX-License-Identifier: Apache-2.0
"""Varlink on a socket of systemd's: systemd's own client asks, the first call starts the daemon, and who is not root
does not even get through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import USER, call, cursor, follow_the_layout, journal, new_version, ok, publish, run, show

SOCKET = "bootcd-varlink.socket"
PATH = Path("/run/systemd/io.systemd.SysUpdate")
INTERFACE = "io.systemd.SysUpdate"
CHECK_NEW = (f"{INTERFACE}.CheckNew", '{"target": {"class": "host"}}')


@pytest.fixture(scope="module", autouse=True)
def socket() -> Iterator[None]:
    """It is enabled, and nobody has called the daemon yet."""
    ok("systemctl", "reset-failed")
    ok("systemctl", "stop", "bootcd.service")
    ok("systemctl", "enable", "--now", SOCKET)
    yield
    ok("systemctl", "disable", "--now", SOCKET)
    assert not PATH.is_socket(), "somebody else may have the place"


def varlink(*words: str) -> Any:
    return json.loads(ok("varlinkctl", "--json=short", "call", str(PATH), *words))


def test_the_first_call_starts_the_daemon() -> None:
    assert show("ActiveState")["ActiveState"] == "inactive"
    assert varlink(f"{INTERFACE}.ListTargets", "{}") == {"targets": [{"id": {"class": "host"}}]}
    assert show("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}
    assert call("GetStatus", "a{sv}", "0")["sysroot"] == "/sysroot", "and the bus is served as ever"


def test_systemd_understands_what_it_says_of_itself() -> None:
    assert set(ok("varlinkctl", "list-interfaces", str(PATH)).split()) == {INTERFACE, "org.varlink.service"}
    said = ok("varlinkctl", "introspect", str(PATH), INTERFACE)
    assert "method CheckNew(" in said
    assert "error NoUpdateNeeded" in said
    assert "bootcd" in ok("varlinkctl", "info", str(PATH))


def test_it_tells_what_is_new() -> None:
    follow_the_layout()
    version = new_version()
    publish(version)
    ok("bootcctl", "--quiet", "upgrade", "--check")
    assert varlink(*CHECK_NEW) == {"available": version}


def test_a_normal_user_is_refused() -> None:
    done = run("varlinkctl", "call", str(PATH), f"{INTERFACE}.ListTargets", "{}", user=USER)
    assert done.status != 0
    assert "Permission denied" in done.err, done
    assert ok("stat", "--format=%U %a", str(PATH)) == "root 600\n"


def test_the_socket_outlives_the_daemon() -> None:
    here = cursor()
    for _ in range(2):
        ok("systemctl", "stop", "bootcd.service")
        assert PATH.is_socket()
        assert varlink(f"{INTERFACE}.ListTargets", "{}")["targets"]
    ok("systemctl", "restart", "bootcd.service")
    assert varlink(f"{INTERFACE}.ListTargets", "{}")["targets"]
    complaints = [entry["MESSAGE"] for entry in journal(here, "_SYSTEMD_UNIT=bootcd.service", "--priority=warning")]
    assert complaints == []


def test_a_daemon_that_runs_already_has_to_be_stopped_first() -> None:
    """As bootcd-sysupdate(7) says: systemd hands a socket over at the start only."""
    ok("systemctl", "stop", SOCKET)
    ok("systemctl", "restart", "bootcd.service")
    assert run("systemctl", "start", SOCKET).status != 0
    ok("systemctl", "stop", "bootcd.service")
    ok("systemctl", "start", SOCKET)
    ok("systemctl", "start", "bootcd.service")
    assert varlink(f"{INTERFACE}.ListTargets", "{}")["targets"]
