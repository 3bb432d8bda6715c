# SPDX-License-Identifier: Apache-2.0
"""`bootcctl etc`: what it prints, and what it makes of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.cli import etc_output
from bootcd.deploy.etc import BESIDE
from bootcd.errors import ConfigError, DeploymentNotFound, EtcConflict, NotFound, UsageError
from bootcd.ops.results import EtcChanges, EtcDecision
from cli.conftest import Machine
from kit.images import Dir, File
from kit.os_images import os_image


@pytest.fixture
def etc(machine: Machine) -> Path:
    """That of 1.1, with some changes."""
    (found,) = [info["id"] for info in machine("list", "--json").json if info["version"] == "1.1"]
    path = machine.path / "sysroot/state/deploy" / found / "etc"
    (path / "version.conf").write_text("mine\n")
    (path / "own").write_text("tab\there \x1b[31m\n")
    return path


def write_rules(etc: Path, text: str) -> None:
    (etc / "bootcd/etc-rules.d").mkdir(parents=True)
    (etc / "bootcd/etc-rules.d/a.toml").write_text(text)


def test_diff(machine: Machine, etc: Path) -> None:
    done = machine("etc", "diff")
    assert (done.status, done.out) == (0, "added    /etc/own\nchanged  /etc/version.conf  content\n")
    text = machine("etc", "diff", "--text").out
    assert "changed /etc/version.conf: content\n--- image/etc/version.conf\n+++ /etc/version.conf\n" in text
    assert "-version = 1.1\n+mine\n" in text
    assert "+tab    here \N{REPLACEMENT CHARACTER}[31m\n" in text
    document = machine("etc", "diff", "--json").json
    assert [(one["path"], one["kind"], one["text"]) for one in document["differences"]] == [
        ("own", "added", ""), ("version.conf", "changed", "")]
    assert machine("etc", "diff", "rollback").out.endswith("(version 1.0): /etc is as the image has it.\n")
    assert machine("etc", "diff", "nobody").status == DeploymentNotFound.exit_status


def test_rules_and_report(machine: Machine, etc: Path) -> None:
    assert machine("etc", "rules").out.startswith("There are no rules.\n")
    assert machine("etc", "report").out.endswith("Nothing was changed here when it was merged.\n")
    write_rules(etc, '[[rule]]\npaths = ["/etc/*.conf", "/etc/version.conf"]\nmerge = "both"\nwhy = "to compare"\n')
    lines = machine("etc", "rules", "/etc/version.conf").out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["MERGE", "PATTERN"], ["both", "/etc/version.conf"], ["both", "/etc/*.conf"], ["The", "first"]]
    assert machine("etc", "rules", "own").out.startswith("No rule is about /etc/own.\n")
    assert machine("etc", "rules", "--json", "version.conf").json["rules"][0] == {
        "pattern": "/etc/version.conf", "merge": "both", "why": "to compare",
        "source": "/etc/bootcd/etc-rules.d/a.toml", "origin": "machine"}

    machine.publish(os_image("1.2"))
    done = machine("upgrade")
    told = ("/etc/version.conf: changed here and in the image; the local version was kept, the image's is beside it as "
            "/etc/version.conf.bootcd.rpmnew (/etc/bootcd/etc-rules.d/a.toml: /etc/version.conf)")
    assert f"  {told}\n" in done.out
    report = machine("etc", "report").out
    assert f"Changed here and in the image:\n  {told}\nAdded here:\n  /etc/bootcd\n  /etc/own\n" in report
    assert told in machine("status").out
    assert machine("etc", "report", "--json").json["etc"]["decisions"] == [{
        "path": "version.conf", "here": "changed", "image": "changed", "taken": "both",
        "rule": "/etc/bootcd/etc-rules.d/a.toml: /etc/version.conf"}]
    (after,) = (path for path in (machine.path / "sysroot/state/deploy").glob("*/etc/version.conf.bootcd.rpmnew"))
    assert after.read_text() == "version = 1.2\n"


def test_reset(machine: Machine, etc: Path) -> None:
    done = machine("etc", "reset", "-n", "/etc/version.conf")
    assert done.out == "/etc/version.conf would be set back; old version: /etc/version.conf.bootcd.rpmsave.\n"
    assert (etc / "version.conf").read_text() == "mine\n"
    done = machine("etc", "reset", "/etc/version.conf", "own", "os-release")
    assert done.out.splitlines() == [
        "/etc/os-release is as the image has it.",
        "/etc/own is moved away, since the image has none; old version: /etc/own.bootcd.rpmsave.",
        "/etc/version.conf is set back; old version: /etc/version.conf.bootcd.rpmsave."]
    assert (etc / "version.conf").read_text() == "version = 1.1\n"
    assert machine("status", "--json").json["last"]["verb"] == "etc reset"
    for path, error in (("nothing", NotFound), ("/usr", UsageError), ("/etc", UsageError)):
        assert machine("etc", "reset", path).status == error.exit_status
    assert machine("etc", "reset", "own.bootcd.rpmsave", "--json").json["items"][0]["outcome"] == "removed"


def test_a_conflict_names_the_ways_out(machine: Machine, etc: Path) -> None:
    machine.publish(os_image("1.2", [Dir("etc/own"), File("etc/own/x", b"1")]))
    done = machine("upgrade")
    assert done.status == EtcConflict.exit_status
    assert "'own' is a file here and a directory in the new image" in done.err
    for way in ("/etc/bootcd/etc-rules.d", "bootcctl etc reset", "moving it"):
        assert way in done.err.splitlines()[-1]
    write_rules(etc, "[[rule]]\npaths = ['/etc/own']\nmerge = 'mine'\n")
    for words in (("upgrade",), ("etc", "rules")):
        done = machine(*words)
        assert done.status == ConfigError.exit_status
        assert "a.toml: rule 1: merge: expected one of keep-local" in done.err
    assert machine.versions() == ["1.1", "1.0"]


def test_decisions_in_words() -> None:
    def told(*words: str) -> str:
        return etc_output.decision(EtcDecision("a", *words))

    assert told("deleted", "changed", "local", "") == "/etc/a: deleted here, changed in the image; it stays deleted"
    assert told("changed", "deleted", "image", "r") == "/etc/a: changed here, deleted in the image; it is gone (r)"
    assert BESIDE.decode() in told("added", "added", "both", "")
    assert etc_output.decision(EtcDecision("… and 5 more", "", "", "", "")) == "… and 5 more"
    old = EtcChanges(kept_local=("k",), both_changed=("b",), deleted=("d",))
    assert list(etc_output.decisions(old)) == ["/etc/b: changed here and in the image; the local version was kept"]
    assert etc_output.deleted(old) == ["d"]
    assert etc_output.name(".") == "/etc"
