# SPDX-License-Identifier: Apache-2.0
"""Health checks are found in their directories and run one after the other; whatever they do, there is an answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bootcd.ops.checks import GREENBOOT_ITSELF, find_checks, run_checks
from bootcd.ops.results import HealthReport

IMAGE, REQUIRED, WANTED = "usr/lib/bootcd/check.d", "etc/bootcd/check.d/required.d", "etc/bootcd/check.d/wanted.d"


class Root:
    """A root directory with checks, and what they have said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []

    def add(self, name: str, script: str, mode: int = 0o755) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(mode)

    def names(self) -> list[str]:
        return [str(check.path.relative_to(self.path)) for check in find_checks(self.path)]

    def run(self, timeout: int = 60) -> HealthReport:
        return run_checks(timeout=timeout, root=self.path, told=self.notes.append)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_no_checks_are_no_complaint(root: Root) -> None:
    assert root.run() == HealthReport(True, "", ())


def test_the_order_is_required_before_wanted_then_by_name(root: Root) -> None:
    for name in (f"{WANTED}/00-late", f"{REQUIRED}/20-b", f"{IMAGE}/10-a", f"{IMAGE}/30-c", f"{IMAGE}/.hidden",
                 f"{IMAGE}/directory/x"):
        root.add(name, "true")
    assert root.names() == [f"{IMAGE}/10-a", f"{REQUIRED}/20-b", f"{IMAGE}/30-c", f"{WANTED}/00-late"]


def test_the_machine_replaces_and_masks_checks_of_its_image(root: Root) -> None:
    for name in ("a", "b", "c"):
        root.add(f"{IMAGE}/{name}", "false")
    root.add(f"{REQUIRED}/a", "true")
    root.add(f"{WANTED}/b", "false")
    (root.path / REQUIRED / "c").symlink_to("/dev/null")
    assert root.names() == [f"{REQUIRED}/a", f"{WANTED}/b"]
    assert root.run().good


def test_a_required_check_decides_and_its_first_line_is_the_reason(root: Root) -> None:
    root.add(f"{IMAGE}/10-web", "echo; echo '  no answer from the web server  '; echo more >&2; exit 3")
    root.add(f"{IMAGE}/20-disk", "exit 4")
    root.add(f"{IMAGE}/30-fine", "echo all is well")
    report = root.run()
    assert (report.good, report.reason) == (False, "10-web: no answer from the web server (and 1 more)")
    assert [(one.name, one.outcome, one.reason) for one in report.checks] == [
        ("10-web", "failed", "no answer from the web server"), ("20-disk", "failed", "exit status 4"),
        ("30-fine", "passed", "")]
    assert {"10-web: more", "30-fine: all is well", f"Check {root.path}/{IMAGE}/20-disk failed: exit status 4"} <= set(
        root.notes)


def test_a_wanted_check_only_tells(root: Root) -> None:
    root.add(f"{WANTED}/ntp", "echo no time; exit 1")
    report = root.run()
    assert (report.good, report.reason) == (True, "")
    assert [(one.outcome, one.required) for one in report.checks] == [("failed", False)]
    assert f"Wanted check {root.path}/{WANTED}/ntp failed: no time" in root.notes


def test_what_hangs_is_ended_with_all_that_it_started(root: Root) -> None:
    root.add(f"{IMAGE}/hang", f"echo here I wait; sleep 600 & echo $! > {root.path}/child; wait")
    begun = time.monotonic()
    report = root.run(timeout=1)
    assert time.monotonic() - begun < 30
    assert (report.checks[0].outcome, report.reason) == ("timed-out", "hang: it took longer than 1 seconds")
    child = int((root.path / "child").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_check_that_leaves_something_running_has_ended(root: Root) -> None:
    """Though that keeps the pipe open."""
    root.add(f"{IMAGE}/daemon", "sleep 600 & exit 0")
    begun = time.monotonic()
    assert root.run().good
    assert time.monotonic() - begun < 60


def test_what_cannot_be_run_has_failed(root: Root) -> None:
    root.add(f"{IMAGE}/10-mode", "true", mode=0o644)
    (root.path / IMAGE / "20-nonsense").write_bytes(os.urandom(100))
    (root.path / IMAGE / "20-nonsense").chmod(0o755)
    (root.path / IMAGE / "30-dangling").symlink_to("/nowhere")
    root.add(f"{IMAGE}/40-signal", "kill -9 $$")
    report = root.run()
    assert [one.outcome for one in report.checks] == ["failed"] * 4
    assert report.checks[3].reason == "signal 9"


def test_much_output_costs_little(root: Root) -> None:
    root.add(f"{IMAGE}/loud", "head -c 50000000 /dev/zero | tr '\\0' x; exit 1")
    report = root.run()
    assert len(report.reason) < 300
    assert sum(map(len, root.notes)) < 100_000


# --- greenboot --------------------------------------------------------------------------------------------------------


def test_scripts_for_greenboot_are_run_by_its_rules(root: Root) -> None:
    root.add(f"{IMAGE}/ours", "true")
    root.add("etc/greenboot/check/required.d/01.sh", "[[ x = x ]] || exit 9", mode=0o644)
    root.add("usr/lib/greenboot/check/required.d/02.sh", "exit 0")
    root.add("usr/lib/greenboot/check/required.d/README", "exit 1")
    root.add("etc/greenboot/check/wanted.d/03.sh", "exit 1")
    for colour in ("green", "red"):
        root.add(f"etc/greenboot/{colour}.d/x.sh", f"touch {root.path}/{colour}")
    report = root.run()
    assert report.good
    assert [one.name for one in report.checks] == ["ours", "02.sh", "01.sh", "03.sh"]
    assert [(root.path / colour).exists() for colour in ("green", "red")] == [True, False]
    root.add("etc/greenboot/check/required.d/01.sh", "echo broken; exit 1")
    assert root.run().reason == "01.sh: broken"
    assert (root.path / "red").exists()


def test_where_greenboot_is_installed_it_runs_its_own(root: Root) -> None:
    root.add(GREENBOOT_ITSELF, "")
    root.add(f"{IMAGE}/ours", "true")
    root.add("etc/greenboot/check/required.d/01.sh", "exit 1")
    root.add("etc/greenboot/green.d/x.sh", f"touch {root.path}/green")
    assert [one.name for one in root.run().checks] == ["ours"]
    assert not (root.path / "green").exists()
