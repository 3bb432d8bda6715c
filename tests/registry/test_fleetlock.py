# SPDX-License-Identifier: Apache-2.0
"""The lock server consents with 200 and nothing else, and whatever it does, it is only shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import ConfigError, UsageError
from bootcd.ops.fleetlock import client_id
from bootcd.registry import fleetlock
from bootcd.registry.fleetlock import Reply
from bootcd.registry.sources import SourceOptions
from kit.lock_server import Answer, LockServer, refuse
from kit.policy import MACHINE

DIRECT = SourceOptions()
WAYS = [DIRECT, pytest.param(SourceOptions(separate=True), marks=pytest.mark.skipif(
    os.geteuid() != 0, reason="only root gives up rights"))]


@pytest.fixture
def server() -> Iterator[LockServer]:
    with LockServer() as started:
        yield started


def ask(server: LockServer, step: str = "pre-reboot", options: SourceOptions = DIRECT) -> Reply:
    return fleetlock.ask(server.url + "/", step, "abc", "web.servers", options)


@pytest.mark.parametrize("options", WAYS, ids=["here", "separate"])
def test_the_protocol(server: LockServer, options: SourceOptions) -> None:
    assert ask(server, options=options) == Reply(True)
    assert ask(server, "steady-state", options) == Reply(True)
    server.answer = refuse(409, "failed_lock", "group full")
    assert ask(server, options=options) == Reply(False, "HTTP 409, failed_lock, group full")
    assert server.steps == ["pre-reboot", "steady-state", "pre-reboot"]
    for _, parameters, headers in server.asked:
        assert parameters == {"id": "abc", "group": "web.servers"}
        assert headers["fleet-lock-protocol"] == "true"
        assert headers["content-type"] == "application/json"
        assert "authorization" not in headers


@pytest.mark.parametrize(("answer", "said"), [
    (Answer(500, b"Traceback"), "HTTP 500"),
    (Answer(503, b"", {"Retry-After": "99999"}), "HTTP 503"),
    (Answer(202, b'{"kind": "granted"}'), "HTTP 202, granted"),
    (Answer(204), "HTTP 204"),
    (Answer(301, b"", {"Location": "/base/v1/steady-state"}), "HTTP 301"),
    (Answer(404, b"[" * 100_000), "HTTP 404"),
    (Answer(409, b'{"kind": 7, "value": ["x"]}'), "HTTP 409"),
    (Answer(409, b'{"kind": "\\u001b[31m", "value": "' + b"x" * 10_000 + b'"}'), "HTTP 409, ?[31m, " + "x" * 183),
    (Answer(409, b"[]"), "HTTP 409"),
    (Answer(cut=True), "127.0.0.1"),
], ids=["broken", "busy", "almost", "empty", "elsewhere", "long", "types", "terminal", "list", "gone"])
def test_everything_else_is_a_refusal(server: LockServer, answer: Answer, said: str) -> None:
    server.answer = answer
    reply = ask(server)
    assert not reply.granted
    assert reply.why.startswith(said)
    assert server.steps == ["pre-reboot"], "asked once"


def test_nobody_there(server: LockServer) -> None:
    server.vanish()
    reply = ask(server)
    assert not reply.granted
    assert "127.0.0.1" in reply.why


def test_one_that_takes_its_time(server: LockServer) -> None:
    server.answer = Answer(delay=0.3)
    assert ask(server).granted


def test_what_is_asked_wrongly(server: LockServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ask(server, "reboot")
    with pytest.raises(ConfigError):
        fleetlock.ask("https://127.0.0.1:1", "pre-reboot", "abc", "web", replace(DIRECT, ca_file=tmp_path / "no.pem"))
    assert server.asked == []


def test_the_machine_id_is_not_told() -> None:
    told = client_id(MACHINE)
    assert (len(told), told[12], told == client_id(MACHINE)) == (32, "4", True)
    assert told != client_id(MACHINE.replace("5", "6"))
    assert MACHINE[:8] not in told
