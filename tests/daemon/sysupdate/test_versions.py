# SPDX-License-Identifier: Apache-2.0
"""What clients are told of a machine: in no state a combination at which updatectl ends itself, nor two of one name."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bootcd.daemon.sysupdate.versions import Versions, age, is_valid, versions
from bootcd.ops.results import PinInfo, Status
from daemon.sysupdate.machines import ASKED, BOOTED, ROLLBACK, deployment, machine, machines, offer
from kit.sysupdate_clients import FLAGS, WORDS


def flags(found: Versions) -> dict[str, str]:
    """The flags of each version, as it is described, in the order of their initials."""
    described = [json.loads(version.describe()) for version in found.known]
    return {one["version"]: " ".join(sorted(name for name in FLAGS if one[name])) for one in described}


@pytest.mark.parametrize(("status", "newest", "expected"), [
    (machine(BOOTED, ROLLBACK), "", {"1.0": "installed newest protected", "0.9": "installed"}),
    (machine(BOOTED, ROLLBACK, update=offer("1.1")), "1.1",
     {"1.1": "available newest", "1.0": "installed protected", "0.9": "installed"}),
    (machine(deployment("1.1", "staged", download_only=True), BOOTED, update=offer("1.1", staged=True)), "1.1",
     {"1.1": "available installed newest pending", "1.0": "installed protected"}),
    (machine(deployment("1.1", "staged"), BOOTED), "1.1",
     {"1.1": "installed newest pending protected", "1.0": "installed protected"}),
    (machine(deployment("1.1", "staged"), BOOTED, update=offer("1.2")), "1.2",
     {"1.2": "available newest", "1.1": "installed protected", "1.0": "installed protected"}),
    (machine(deployment("0.9", "default"), deployment("1.0", "booted", "rollback")), "0.9",
     {"0.9": "installed newest pending protected", "1.0": "installed protected"}),
    (machine(BOOTED, update=offer("1.1", rejected="rolled back from version 1.1")), "",
     {"1.0": "installed newest protected", "1.1": "available obsolete"}),
    (machine(BOOTED, deployment("1.1", health="bad")), "",
     {"1.0": "installed newest protected", "1.1": "installed obsolete"}),
    (machine(BOOTED, ROLLBACK, update=offer("0.9")), "0.9",
     {"0.9": "available installed newest pending", "1.0": "installed protected"}),
    (machine(BOOTED, replace(ROLLBACK, pins=(PinInfo("factory", ""),))), "",
     {"1.0": "installed newest protected", "0.9": "installed protected"}),
    (machine(deployment("1.0", "default")), "", {"1.0": "installed newest"}),
    (machine(replace(BOOTED, reset="etc")), "", {"1.0": "installed newest protected"}),
    (machine(), "", {}),
], ids=["settled", "available", "downloaded", "staged", "superseded", "rolled-back", "rejected", "bad", "named-again",
        "pinned", "nothing-runs", "reset", "empty"])
def test_what_each_version_is(status: Status, newest: str, expected: dict[str, str]) -> None:
    found = versions(status)
    assert flags(found) == expected
    assert list(flags(found)) == list(expected), "newest first"
    assert (found.newest.name if found.newest is not None else "") == newest
    assert (found.current.name if found.current is not None else "") == next(
        (info.version for info in status.deployments if {"booted", "default"} & set(info.roles)
         and not (info.roles == ("default",) and newest == info.version)), "")


def test_without_the_source_there_is_nothing_but_what_is_here() -> None:
    status = machine(BOOTED, ROLLBACK, update=offer("1.1"))
    assert flags(versions(status, offline=True)) == {"1.0": "installed newest protected", "0.9": "installed"}
    downloaded = machine(deployment("1.1", "staged"), BOOTED, update=offer("1.1", staged=True))
    assert flags(versions(downloaded, offline=True))["1.1"] == "installed newest pending protected"


def test_an_answer_from_before_something_else_came_from_the_source_is_forgotten() -> None:
    """The tag moved on between the check and the download."""
    later = deployment("1.2", "staged", staged="2026-03-01T12:00:05+00:00")
    assert list(flags(versions(machine(later, BOOTED, update=offer("1.1"))))) == ["1.2", "1.0"]
    elsewhere = replace(later, image="docker://quay.io/example/other:1")
    assert list(flags(versions(machine(elsewhere, BOOTED, update=offer("1.1"))))) == ["1.1", "1.2", "1.0"]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "name"), [
    ("42.20260301.0", "42.20260301.0"), ("1.0+build7", "1.0_build7"), ("13 (trixie)/@x", "13_trixie_x"),
    ("~rc1^git", "~rc1^git"), ("äö", "20260115"), ("", "20260115"), ("x" * 300, "x" * 64), ("1.0-", "1.0"),
])
def test_names_are_version_labels_that_clients_can_read(label: str, name: str) -> None:
    assert [version.name for version in versions(machine(deployment(label, "booted", digest="a"))).known] == [name]


def test_images_that_share_a_label_are_told_apart() -> None:
    """By their dates, and by their digests where those are the same; an image keeps its name when it is staged."""
    booted = deployment("1.0", "booted", "default", digest="a")
    new = offer("1.0", digest="b")
    names = ["1.0.20260220", "1.0.20260115"]
    assert [version.name for version in versions(machine(booted, update=new)).known] == names
    staged = deployment("1.0", "staged", digest="b", created=new.created)
    assert [version.name for version in versions(machine(staged, booted)).known] == names
    same = [version.name for version in versions(machine(booted, update=replace(new, created=booted.created))).known]
    assert same == ["1.0.bbbbbbbbbbbb", "1.0.aaaaaaaaaaaa"]
    undated = deployment("", "booted", "default", digest="c", created="1970-01-01T00:00:00Z")
    assert [version.name for version in versions(machine(undated)).known] == ["cccccccccccc"]
    spiteful = deployment("1.0.20260220", "rollback", digest="d")
    assert len(flags(versions(machine(booted, spiteful, update=new)))) == 3


# --- every machine ----------------------------------------------------------------------------------------------------


@given(machines(), some.booleans())
def test_every_machine_can_be_told(status: Status, offline: bool) -> None:
    found = versions(status, offline=offline)
    described = [json.loads(version.describe()) for version in found.known]
    names = [one["version"] for one in described]
    assert len(set(names)) == len(names)
    assert all(is_valid(name) and not re.search(r"[+/@ ]", name) for name in names), names
    for one in described:
        assert frozenset(name for name in FLAGS if one[name]) in WORDS, one
        assert one["contents"]
        assert all(isinstance(value, str | int) for value in one["contents"][0].values())
    assert sum(one["newest"] for one in described) <= 1
    # What is offered is shown by GNOME Software only if it is pending, or not installed while something else runs.
    if found.newest is not None:
        told = json.loads(found.newest.describe())
        assert told["pending"] or not told["installed"]
        assert told["newest"]
        assert found.newest is not found.current


@pytest.mark.parametrize(("time", "seconds"), [
    ("2026-03-01T12:00:30+00:00", 30.0), (ASKED, 0.0), ("2026-03-01T11:59:59+00:00", None),
    ("2026-03-01T14:00:30+02:00", 30.0)])
def test_how_old_an_answer_is(time: str, seconds: float | None) -> None:
    assert age(machine(), datetime.datetime.fromisoformat(time)) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "2026"])
def test_an_answer_without_a_time_is_none(text: str) -> None:
    assert age(replace(machine(), update_time=text), datetime.datetime.now(datetime.UTC)) is None
