# SPDX-License-Identifier: Apache-2.0
"""`bootcctl health`, and the verbs that units call at each moment of a boot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootcd.cli.main import main
from bootcd.errors import Refused, Unhealthy
from bootcd.ops import checks, direct
from bootcd.ops.results import ChangeResult
from cli.conftest import Client, Machine


def test_verdicts_are_shown(machine: Machine) -> None:
    lines = [line.split() for line in machine("health", "show").out.splitlines()]
    assert lines[0] == ["ID", "VERSION", "ROLES", "HEALTH", "REASON"]
    assert [line[1:] for line in lines[1:]] == [["1.1", "default", "untried", "-"], ["1.0", "rollback", "untried", "-"]]
    shown = machine("health", "show", "--json").json
    assert [(one["version"], one["health"], one["health-reason"]) for one in shown] == [
        ("1.1", "untried", ""), ("1.0", "untried", "")]


def test_both_faces_show_the_same(client: Client, machine: Machine) -> None:
    assert client("health", "show").out == machine("health", "show").out


def test_verbs_of_a_boot_are_refused_where_nothing_runs(machine: Machine) -> None:
    for verb in ("boot-started", "boot-complete", "boot-failed"):
        done = machine(verb)
        assert done.status == Refused.exit_status, verb
        assert "is running" in done.err


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root directory of the running system that has checks of its own."""
    directory = tmp_path / "usr/lib/bootcd/check.d"
    directory.mkdir(parents=True)
    found = checks.find_checks
    monkeypatch.setattr(checks, "find_checks", lambda root: found(tmp_path))
    return directory


def add(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_checks_by_hand(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    assert main(["health", "check"]) == 0
    assert capsys.readouterr().out == "There are no health checks.\n"
    add(root, "10-fine", "echo fine")
    add(root, "20-web", "echo 'no \x1banswer'; exit 1")
    assert main(["health", "check", f"--report={report}"]) == Unhealthy.exit_status
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "10-fine: passed"
    assert said.out.splitlines()[-1] == "1 of 2 checks passed."
    assert "20-web: failed: no answer\n" in said.out
    assert "10-fine: fine" in said.err
    assert json.loads(report.read_text())["reason"] == "20-web: no answer"
    assert main(["--quiet", "health", "check", "--json"]) == Unhealthy.exit_status
    assert [one["outcome"] for one in json.loads(capsys.readouterr().out)["checks"]] == ["passed", "failed"]
    add(root, "20-web", "true")
    assert main(["health", "check", f"--report={report}"]) == 0
    assert json.loads(report.read_text())["good"] is True


@pytest.mark.parametrize(("text", "reason"), [
    (None, "a unit that boot-complete.target requires failed"),
    ("", "a unit"), ("{", "a unit"), ("[]", "a unit"), ('{"good": 3}', "a unit"),
    ('{"good": true, "reason": "", "checks": []}', "a unit"),
    ('{"good": false, "reason": "web: no answer", "checks": []}', "web: no answer"),
])
def test_the_reason_is_what_the_checks_have_said(
    text: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that is not there, or makes no sense, does not keep the verdict from being given."""
    told = []

    def boot_failed(self: object, why: str) -> ChangeResult:
        told.append(why)
        return ChangeResult("reboot", "It reboots.")

    monkeypatch.setattr(direct.DirectHost, "boot_failed", boot_failed)
    if text is not None:
        (tmp_path / "report").write_text(text)
    assert main(["boot-failed", f"--report={tmp_path}/report", "--no-reboot"]) == 0
    assert told[0].startswith(reason)


@pytest.mark.parametrize(("outcome", "reboots"), [("stay", False), ("reboot", True), ("rollback", True)])
def test_it_reboots_where_that_leads_on(outcome: str, reboots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct.DirectHost, "boot_failed", lambda self, why: ChangeResult(outcome, "So it is."))
    asked: list[bool] = []
    monkeypatch.setattr("bootcd.cli.health_commands.reboot", lambda *, soft: asked.append(soft))
    assert main(["boot-failed"]) == 0
    assert asked == ([False] if reboots else [])

