# SPDX-License-Identifier: Apache-2.0
"""The machine dies at any step of any command: what boots still boots, and the same command completes the work.

`make test` tries a sample of the steps; the tests marked slow try every one, but for repetitions. That takes an hour:
with `BOOTCD_CRASH_SHARE=4` they try a quarter, on each day another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from bootcd.errors import DeploymentNotFound, NoSpace, NothingStaged, Refused
from bootcd.linux.files import CRASH_STATUS
from crash.conftest import IMAGE, Worlds, tell_tried
from crash.forkserver import FULL
from crash.invariant import check, look
from crash.program import ENVIRONMENT, Done, Program, copy, names


@dataclass(frozen=True)
class Scenario:
    """A command and the world that it is run in. `settled`: statuses of a second run when the first one had come so
    far that nothing is left to do."""

    world: str
    arguments: tuple[str, ...]
    settled: frozenset[int] = field(default=frozenset())
    reset: bool = False


SCENARIOS = {
    "install": Scenario("foreign_only", ("install", "to-filesystem", IMAGE), frozenset({Refused.exit_status})),
    "upgrade": Scenario("new", ("upgrade",)),
    "download-only": Scenario("new", ("upgrade", "--download-only")),
    "apply": Scenario("staged", ("upgrade",)),
    "replace-staged": Scenario("restaged", ("upgrade",)),
    "renew": Scenario("kept", ("upgrade",)),
    "switch": Scenario("new", ("switch", "oci:layout:beta")),
    "rollback": Scenario("old", ("rollback",)),
    "rollback-to-pin": Scenario("old", ("rollback", "good")),
    "rollback-with-staged": Scenario("staged", ("rollback",)),
    "pin": Scenario("old", ("pin", "default", "--label", "new")),
    "unpin": Scenario("old", ("unpin", "good"), frozenset({DeploymentNotFound.exit_status})),
    "kargs": Scenario("old", ("kargs", "add", "quiet")),
    "kargs-again": Scenario("tried", ("kargs", "replace", "quiet", "loud"), frozenset({Refused.exit_status})),
    "kargs-back": Scenario("tried", ("kargs", "remove", "quiet"), frozenset({Refused.exit_status})),
    "kargs-given-up": Scenario("given_up", ("boot-complete",)),
    "reset-etc": Scenario("old", ("reset", "--etc"), reset=True),
    "reset-state": Scenario("staged", ("reset", "--state"), reset=True),
    "adopt": Scenario("bootc", ("adopt",)),
    "unstage": Scenario("staged", ("unstage",), frozenset({Refused.exit_status})),
    "cleanup": Scenario("cluttered", ("cleanup",)),
    "stage": Scenario("running", ("upgrade",)),
    "finalize": Scenario("shutting_down", ("finalize",), frozenset({NothingStaged.exit_status})),
    "reset-at-shutdown": Scenario("resetting", ("finalize",), frozenset({NothingStaged.exit_status}), reset=True),
    "upgrade-after-fallback": Scenario("fell_back", ("upgrade", "--allow-rejected")),
    "rollback-while-staged": Scenario("shutting_down", ("rollback",)),
    "boot-started": Scenario("fell_back", ("boot-started",)),
    "boot-complete": Scenario("came_up", ("boot-complete",)),
    "boot-failed": Scenario("came_up", ("boot-failed", "--no-reboot")),
    "upgrade-mirrored": Scenario("mirrored", ("upgrade",)),
    "rollback-mirrored": Scenario("mirrored", ("rollback",)),
    "catch-up": Scenario("lagging", ("pin", "default", "--label", "again")),
    "pull": Scenario("new", ("image", "pull", "oci:layout:beta", "--name", "beta", "--bootable")),
}
SHARE = int(os.environ.get("BOOTCD_CRASH_SHARE", "1"))
"""The tests marked slow try one of so many steps; the days take turns."""
LAST_STEPS = 3
"""How many steps it takes to write down how it ended (ops/last.py), when the work is over."""
INTERRUPTED = {130, 0}
"""Once the new default is in place, only tidying up is left to be interrupted."""


def points(trial: Trial, count: int, only: frozenset[str] | set[str] = frozenset()) -> list[int]:
    """A sample of the steps: others in each scenario, and rare ones before those that are passed often."""
    steps = [(number, name) for number, name in enumerate(trial.steps, 1) if not only or name in only]
    often = Counter(name for _, name in steps)
    rotation = list(SCENARIOS.values()).index(trial.scenario)
    once = [number for number, name in steps if often[name] == 1 or (not only and name.startswith("after-"))]
    rest = [number for number, _ in steps if number not in once]
    chosen = set()
    for numbers, share in ((once, count // 2), (rest, count - count // 2)):
        stride = max(len(numbers) // max(share, 1), 1)
        chosen |= set(numbers[rotation % stride :: stride][: share + 1])
    return sorted(chosen)


def each(trial: Trial, most: int, only: frozenset[str] | None = None) -> list[int]:
    """Every step, but of those with the same name, such as one for each object, no more than `most`: the first, the
    last, and some between them."""
    passed: dict[str, list[int]] = {}
    for number, name in enumerate(trial.steps, 1):
        if only is None or name in only:
            passed.setdefault(name, []).append(number)
    chosen = sorted({numbers[place * (len(numbers) - 1) // (most - 1)] for numbers in passed.values()
                     for place in range(most)})
    turn = date.today().toordinal() + list(SCENARIOS.values()).index(trial.scenario)
    return chosen[turn % SHARE :: SHARE]


@dataclass(frozen=True)
class End:
    """What becomes of it: the version that boots, those that are kept, those of them that may go for want of room, and
    the names of all files."""

    default: str
    versions: tuple[str, ...]
    spare: frozenset[str]
    names: tuple[str, ...]

    def without(self, versions: frozenset[str]) -> tuple[str, tuple[str, ...]]:
        return self.default, tuple(version for version in self.versions if version not in versions)


class Trial:
    """One scenario, broken off at one step after the other."""

    def __init__(self, scenario: Scenario, worlds: Worlds, program: Program, scratch: Path) -> None:
        self.scenario = scenario
        self._program = program
        self.tried: Counter[str] = Counter()
        self._origin = worlds(scenario.world)
        self._world = scratch / "trial"
        self.before = look(program, self._origin, pinned=scenario.arguments[0] != "unpin",
                           reset=scenario.reset)
        copy(self._origin, self._world)
        steps = program.steps(self._world, *scenario.arguments)
        self.steps = steps[:-LAST_STEPS]
        assert [name.partition(".")[0] for name in steps[-LAST_STEPS:]] == ["atomic_write"] * LAST_STEPS
        self._expected = self._finish()

    def _finish(self) -> End:
        done = self._program(self._world, "cleanup")
        assert done.status == 0, done.err
        done = self._program(self._world, "fsck")
        assert done.status == 0, done.out
        status = self._program(self._world, "status", "--json").json
        lasting = [warning for warning in self.before.warnings
                   if "the next change brings" not in warning and "there is no directory" not in warning]
        assert (status["warnings"], status["unfinished"]) == (lasting, "")
        infos = status["deployments"]
        spare = (info["version"] for info in infos if not {"booted", "default", "staged", "pinned"} & {*info["roles"]})
        return End(next(info["version"] for info in infos if "default" in info["roles"]),
                   tuple(info["version"] for info in infos), frozenset(spare), tuple(names(self._world)))

    def over(self, at: int) -> None:
        """Crash when the work is over: it counts, and nobody has to run the command again."""
        self.tried["crash points"] += 1
        copy(self._origin, self._world)
        broken = self._program(self._world, *self.scenario.arguments, action="crash", at=len(self.steps) + at)
        assert broken.status == CRASH_STATUS
        check(self._program, self._world, self.before)
        assert self._finish() == self._expected

    def broken_off(self, action: str, at: int) -> Done:
        """Break off, check the invariant, run again, and compare with a run that was not broken off."""
        self.tried[f"{action} points"] += 1
        copy(self._origin, self._world)
        broken = self._program(self._world, *self.scenario.arguments, action=action, at=at)
        check(self._program, self._world, self.before)
        if broken.status == 0:  # room was made, or what went wrong was no more than noting that a step is done
            gone = self._expected.spare if action == "full" else frozenset()
            assert self._finish().without(gone) == self._expected.without(gone)
            return broken
        done = self._program(self._world, *self.scenario.arguments)
        assert done.status == 0 or done.status in self.scenario.settled, done.err
        check(self._program, self._world, self.before)
        assert self._finish() == self._expected
        return broken


@pytest.fixture(params=[pytest.param(name, id=name) for name in SCENARIOS])
def trial(request: pytest.FixtureRequest, worlds: Worlds, program: Program, scratch: Path) -> Iterator[Trial]:
    trial = Trial(SCENARIOS[request.param], worlds, program, scratch)
    yield trial
    tell_tried(request, trial.tried)


def try_all(trial: Trial, action: str, numbers: list[int], expected: set[int]) -> None:
    problems = []
    for number in numbers:
        try:
            done = trial.broken_off(action, number)
            assert done.status in expected, f"status {done.status}: {done.err}"
        except AssertionError as error:
            problems.append(f"{action} at step {number}, {trial.steps[number - 1]}: {str(error)[:2000]}")
    assert not problems, "\n\n".join(problems)


def test_crash(trial: Trial) -> None:
    try_all(trial, "crash", points(trial, 3), {CRASH_STATUS})


def test_crash_while_the_outcome_is_written_down(trial: Trial) -> None:
    trial.over(1 + list(SCENARIOS.values()).index(trial.scenario) % LAST_STEPS)


@pytest.mark.slow
def test_crash_everywhere(trial: Trial) -> None:
    try_all(trial, "crash", each(trial, 4), {CRASH_STATUS})


def test_interrupt(trial: Trial) -> None:
    try_all(trial, "interrupt", points(trial, 2), INTERRUPTED)


@pytest.mark.slow
def test_interrupt_in_many_places(trial: Trial) -> None:
    """Not in all: what is done then differs from a crash only in what is tidied up."""
    try_all(trial, "interrupt", points(trial, 4), INTERRUPTED)


def test_full_disk(trial: Trial) -> None:
    try_all(trial, "full", points(trial, 2, FULL), {NoSpace.exit_status, 0})


@pytest.mark.slow
def test_full_disk_everywhere(trial: Trial) -> None:
    try_all(trial, "full", each(trial, 3, FULL), {NoSpace.exit_status, 0})


@pytest.mark.parametrize("point", ["objects.before_link", "etc-written", "before-write-entry", "esp-after-rename:2"])
def test_the_program_itself_dies_and_goes_on(point: str, worlds: Worlds, program: Program, scratch: Path) -> None:
    world = scratch / "itself"
    copy(worlds("new"), world)
    before = look(program, world)
    command = [sys.executable, "-m", "bootcd.cli", "--sysroot", "sysroot", "--esp", "esp", "-q", "upgrade"]
    died = subprocess.run(command, cwd=world, env={**ENVIRONMENT, "BOOTCD_CRASH_AT": point}, check=False)
    assert died.returncode == CRASH_STATUS
    check(program, world, before)
    subprocess.run(command, cwd=world, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    check(program, world, before)
    assert program(world, "status", "--json").json["deployments"][0]["version"] == "1.3"
    assert os.listdir(world / "sysroot/state/bootcd/journal") == []
