# SPDX-License-Identifier: Apache-2.0
"""What a client that asks for a version gets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bootcd.daemon.exports import BusError
from bootcd.daemon.sysupdate.errors import status, translated
from bootcd.daemon.sysupdate.jobs import Progress
from bootcd.daemon.sysupdate.requests import Kind, decide, is_plain
from bootcd.daemon.sysupdate.target import escape
from bootcd.daemon.sysupdate.versions import versions
from bootcd.daemon.verbs import VERBS
from bootcd.errors import Busy, EspFull, all_errors
from bootcd.ops.results import Status
from daemon.sysupdate.machines import BOOTED, ROLLBACK, deployment, machine, machines, offer

SETTLED = machine(BOOTED, ROLLBACK)
OFFERED = machine(BOOTED, ROLLBACK, update=offer("1.1"))
DOWNLOADED = machine(deployment("1.1", "staged", download_only=True), BOOTED, update=offer("1.1", staged=True))
STAGED = machine(deployment("1.1", "staged"), BOOTED, ROLLBACK)
SUPERSEDED = machine(deployment("1.1", "staged"), BOOTED, update=offer("1.2"))
OLD_DOWNLOAD = machine(deployment("1.1", "staged", download_only=True), BOOTED, update=offer("1.2"))
ROLLED_BACK = machine(deployment("0.9", "default"), deployment("1.0", "booted", "rollback"))
REJECTED = machine(BOOTED, update=offer("1.1", rejected="rolled back from version 1.1"))
NAMED_AGAIN = machine(BOOTED, ROLLBACK, update=offer("0.9"))

DONE = ("", {})
FROM_DOWNLOADED = ("Upgrade", {"from_downloaded": True})
ROLLBACK_TO = ("Rollback", {"deployment": ROLLBACK.id})


def wanted(kind: str, name: str, status: Status) -> tuple[str, dict[str, Any]] | str:
    """Method and arguments of the job, or the last part of the error's name."""
    try:
        decision = decide(Kind(kind), name, versions(status))
    except BusError as error:
        return error.name.rpartition(".")[2]
    return decision.method, dict(decision.arguments)


@pytest.mark.parametrize(("status", "name", "acquire", "install", "update"), [
    (SETTLED, "", "NoCandidate", "Failed", "NoCandidate"),
    (SETTLED, "1.0", "NoCandidate", DONE, "NoCandidate"),
    (SETTLED, "0.9", DONE, ROLLBACK_TO, ROLLBACK_TO),
    (SETTLED, "7", "InvalidArgs", "InvalidArgs", "InvalidArgs"),
    (OFFERED, "", ("Download", {}), "Failed", ("Upgrade", {})),
    (OFFERED, "1.1", ("Download", {}), "Failed", ("Upgrade", {})),
    (DOWNLOADED, "", DONE, FROM_DOWNLOADED, FROM_DOWNLOADED),
    (DOWNLOADED, "1.1", DONE, FROM_DOWNLOADED, FROM_DOWNLOADED),
    (DOWNLOADED, "1.0", DONE, ("Unstage", {}), ("Unstage", {})),
    (STAGED, "", DONE, DONE, DONE),
    (STAGED, "1.1", DONE, DONE, DONE),
    (STAGED, "1.0", DONE, ("Unstage", {}), ("Unstage", {})),
    (STAGED, "0.9", DONE, ROLLBACK_TO, ROLLBACK_TO),
    (SUPERSEDED, "", ("Upgrade", {}), DONE, ("Upgrade", {})),
    (SUPERSEDED, "1.2", ("Upgrade", {}), "Failed", ("Upgrade", {})),
    (SUPERSEDED, "1.1", DONE, DONE, DONE),
    (OLD_DOWNLOAD, "", ("Download", {}), FROM_DOWNLOADED, ("Upgrade", {})),
    (ROLLED_BACK, "", DONE, DONE, DONE),
    (ROLLED_BACK, "1.0", DONE, ("Rollback", {"deployment": BOOTED.id}), ("Rollback", {"deployment": BOOTED.id})),
    (REJECTED, "", "NoCandidate", "Failed", "NoCandidate"),
    (REJECTED, "1.1", "Failed", "Failed", "Failed"),
    (NAMED_AGAIN, "", DONE, ("Upgrade", {"max_download": 1}), ("Upgrade", {"max_download": 1})),
    (machine(), "", "NoCandidate", "Failed", "NoCandidate"),
], ids=["nothing", "same", "older", "unknown", "offered", "offered-named", "downloaded", "downloaded-named",
        "stay-undownloaded", "staged", "staged-named", "stay", "staged-older", "superseded", "superseded-new",
        "superseded-old", "old-download", "rolled-back", "not-rolled-back", "rejected", "rejected-named",
        "named-again", "empty"])
def test_what_becomes_of_a_request(status: Status, name: str, acquire: Any, install: Any, update: Any) -> None:
    assert wanted("acquire", name, status) == acquire
    assert wanted("install", name, status) == install
    assert wanted("update", name, status) == update


@given(machines(), some.sampled_from(list(Kind)), some.integers(-1, 6))
def test_every_request_has_an_answer_and_install_never_downloads(status: Status, kind: Kind, number: int) -> None:
    known = versions(status)
    name = known.known[number].name if 0 <= number < len(known.known) else ""
    if isinstance(wanted(kind, name, status), str):
        assert wanted(kind, name, status) in ("NoCandidate", "InvalidArgs", "Failed")
        return
    decision = decide(kind, name, known)
    assert decision.method in ("", *VERBS)
    assert not name or decision.version.name == name
    if kind is Kind.INSTALL:
        assert decision.method != "Download"
        assert decision.method != "Upgrade" or decision.arguments
    if kind is Kind.ACQUIRE:
        assert decision.method in ("", "Download", "Upgrade")


@pytest.mark.parametrize(("status", "name", "plain"), [
    (OFFERED, "", True), (OFFERED, "1.1", True), (OFFERED, "1.0", False), (OFFERED, "0.9", False),
    (SUPERSEDED, "1.1", True), (SETTLED, "7", False), (ROLLED_BACK, "1.0", False)])
def test_naming_the_newest_needs_no_more_rights_than_not_naming_it(status: Status, name: str, plain: bool) -> None:
    assert is_plain(name, versions(status)) is plain


# --- what clients are told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [
    ("Interrupted", -125), ("EspFull", -28), ("SourceUnreachable", -113), ("SignatureRejected", -129),
    ("NotProven", -11), ("Refused", -1), ("EtcConflict", 14), ("Failed", 1), ("Nonsense", 1)])
def test_the_status_of_a_job_that_failed(name: str, number: int) -> None:
    assert status(f"org.bootcd1.Error.{name}") == number


def test_no_failure_looks_like_success() -> None:
    assert all(status(error.bus_name()) != 0 for error in all_errors())


def test_the_words_of_an_error_are_one_text() -> None:
    told = translated(EspFull("the ESP is full"))
    assert told.name == "org.freedesktop.DBus.Error.Failed"
    assert str(told) == ("The ESP is full. 'bootcctl cleanup' or unpinning a deployment frees kernels on the ESP.")
    assert translated(Busy("'upgrade' is running")).name == "org.freedesktop.DBus.Error.ObjectPathInUse"


@pytest.mark.parametrize(("name", "element"), [
    ("host", "host"), ("component:foo", "component_3afoo"), ("1a", "_31a"), ("a1-b", "a1_2db"), ("", "_"),
    ("ü", "_c3_bc")])
def test_paths_are_those_that_updatectl_computes(name: str, element: str) -> None:
    assert escape(name) == element


@given(some.lists(some.tuples(some.sampled_from(["Downloading", "Composing", "Staging"]), some.integers(0, 100))))
def test_progress_never_goes_back(steps: list[tuple[str, int]]) -> None:
    progress = Progress()
    seen = [progress.advance(stage, percent, counted=stage == "Downloading") for stage, percent in steps]
    assert seen == sorted(seen)
    assert all(0 <= one <= 95 for one in seen)


def test_progress_over_the_stages_of_an_upgrade() -> None:
    progress = Progress()
    told = [progress.advance(*step, counted=step[0].startswith("Down"))
            for step in [("", 0), ("Downloading 3", 0), ("Downloading 3", 50), ("Downloading 1", 0),
                         ("Downloading 1", 100), ("Composing", 0), ("Staging", 0)]]
    assert told == [0, 0, 47, 47, 95, 95, 95]
