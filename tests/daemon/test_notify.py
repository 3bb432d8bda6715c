# SPDX-License-Identifier: Apache-2.0
"""What arrives at a service manager's socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.daemon import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that NOTIFY_SOCKET names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def received(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_what_is_sent(manager: socket.socket) -> None:
    notify.ready("Idle.")
    assert received(manager) == ["READY=1", "STATUS=Idle."]
    notify.ready()
    assert received(manager) == ["READY=1"]
    notify.status("Pulling")
    assert received(manager) == ["STATUS=Pulling"]
    notify.status("")
    assert received(manager) == ["STATUS="]
    notify.watchdog()
    assert received(manager) == ["WATCHDOG=1"]
    notify.extend_timeout(1.5)
    assert received(manager) == ["EXTEND_TIMEOUT_USEC=1500000"]
    notify.stopping("Waiting for the job.")
    assert received(manager) == ["STOPPING=1", "STATUS=Waiting for the job."]


@pytest.mark.parametrize("text", ["a\nMAINPID=1", "a\rMAINPID=1", "a\n\n MAINPID=1", "a\0MAINPID=1", "a\x85MAINPID=1"])
def test_a_status_cannot_become_another_assignment(manager: socket.socket, text: str) -> None:
    notify.status(text)
    assert received(manager) == ["STATUS=a MAINPID=1"]


def test_nothing_happens_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready()
    notify.watchdog()
    notify.stopping()


def test_a_manager_that_has_gone_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.ready("Idle.")


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, None),
    ({"WATCHDOG_USEC": "180000000"}, 90.0),
    ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": str(os.getpid())}, 90.0),
    ({"WATCHDOG_USEC": "180000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
    ({"WATCHDOG_PID": str(os.getpid())}, None),
], ids=["nobody-waits", "whoever", "this-process", "another-process", "off", "nonsense", "no-time"])
def test_watchdog_interval(
    variables: dict[str, str], expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval() == expected
