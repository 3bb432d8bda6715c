# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments on trial: what a boot says about them, and what follows when one fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootcd.deploy import plan
from bootcd.deploy.facts import Entry, Facts
from bootcd.deploy.plan import Action, Plan
from bootcd.deploy.records import OwnKargs, Record, Trial, decode
from bootcd.deploy.trial import Outcome, is_running, judge, outcome
from bootcd.deploy.verdict import Reaction

OLD, NEW = OwnKargs(("local",), ("root=x",), ("quiet",)), OwnKargs(("local",), ("root=x",), ("quiet", "new"))
RECORD = Record("a" * 64, "os", "sha256:1", "", "bls", "k", "composefs=1", image_kargs=("console=tty0",), own=OLD,
                generation=4, health="good", trials=(Trial(5, NEW, "first boot"),))
BEFORE = Entry("old", 4, RECORD.short_id)
COUNTED = Entry("new", 5, RECORD.short_id, counted=True)
FAILED = replace(COUNTED, failed=True, bad=True)
RUNS_OLD, RUNS_NEW = RECORD.options, RECORD.options_with(NEW)


def facts(*entries: Entry, record: Record = RECORD, others: tuple[Record, ...] = ()) -> Facts:
    return Facts({one.id: one for one in (record, *others)}, entries, record.id, last_generation=9)


def test_owners_come_in_order() -> None:
    assert RUNS_NEW == "composefs=1 console=tty0 local root=x quiet new"
    assert (RECORD.options_at(4), RECORD.options_at(5)) == (RUNS_OLD, RUNS_NEW)
    assert replace(RECORD, sealed_kargs="sealed").options_with(NEW) == "sealed"


@pytest.mark.parametrize(("entries", "own"), [
    ((COUNTED, BEFORE), NEW), ((BEFORE, FAILED), OLD), ((BEFORE,), OLD), ((), OLD),
    ((replace(COUNTED, bad=True), BEFORE), OLD), ((replace(COUNTED, generation=6), BEFORE), OLD),
])
def test_what_boots_next(entries: tuple[Entry, ...], own: OwnKargs) -> None:
    assert facts(*entries).own_kargs(RECORD) == own


@pytest.mark.parametrize(("entry", "cmdline", "boot", "counts", "expected"), [
    (COUNTED, RUNS_NEW, "later", True, Outcome.GOOD),
    (COUNTED, RUNS_NEW, "later", False, Outcome.GOOD),
    (replace(COUNTED, counted=False), RUNS_NEW, "later", True, Outcome.GOOD),  # systemd-bless-boot was here first
    (COUNTED, RUNS_OLD, "first boot", True, Outcome.OPEN),
    (COUNTED, RUNS_OLD, "first boot", False, Outcome.OPEN),
    (COUNTED, RUNS_OLD, "later", True, Outcome.OPEN),  # somebody chose the older entry in the menu
    (FAILED, RUNS_OLD, "later", True, Outcome.BAD),
    (FAILED, RUNS_NEW, "later", True, Outcome.GOOD),  # the last try, and it came up
    (COUNTED, RUNS_OLD, "later", False, Outcome.BAD),
    (replace(COUNTED, counted=False), RUNS_OLD, "later", True, Outcome.BAD),
    (replace(COUNTED, generation=6), RUNS_NEW, "later", True, Outcome.OPEN),  # there is no trial
])
def test_what_a_boot_says(entry: Entry, cmdline: str, boot: str, counts: bool, expected: Outcome) -> None:
    found = facts(entry, BEFORE)
    assert outcome(found, RECORD, f"initrd=x {cmdline}", boot, loader_counts=counts) is expected
    assert is_running(found, RECORD, cmdline) is (cmdline == RUNS_NEW and entry.generation == 5)


@pytest.mark.parametrize(("on_failure", "started", "entry", "bad", "reaction"), [
    ("reboot", 1, COUNTED, False, Reaction.REBOOT), ("reboot", 2, COUNTED, False, Reaction.REBOOT),
    ("reboot", 3, COUNTED, True, Reaction.ROLLBACK), ("reboot", 1, FAILED, True, Reaction.ROLLBACK),
    ("rollback", 1, COUNTED, True, Reaction.ROLLBACK), ("stay", 3, COUNTED, False, Reaction.STAY),
])
def test_what_follows_a_boot_that_failed(on_failure: str, started: int, entry: Entry, bad: bool,
                                         reaction: Reaction) -> None:
    record = replace(RECORD, attempts=tuple("abc"[:started]))
    found = judge(facts(entry, BEFORE, record=record), record, on_failure=on_failure, tries=3)
    assert (found.bad, found.reaction) == (bad, reaction)


# --- plans ------------------------------------------------------------------------------------------------------------


def steps(made: Plan) -> list[tuple[str, object]]:
    """The steps in short: what is saved, which generation is written, which file goes."""
    found: list[tuple[str, object]] = []
    for step in made.steps:
        if step.action is Action.SAVE_RECORD:
            record = decode(step.args["record"].encode(), "plan")
            trials = [trial.generation for trial in record.trials]
            found.append((step.action, (record.generation, record.own.command, trials)))
        else:
            found.append((step.action, step.args.get("generation", step.args.get("file"))))
    return found


def change(found: Facts, record: Record, *command: str) -> list[tuple[str, object]]:
    own = replace(OLD, command=command)
    return steps(plan.plan_kargs(found, record, own, tries=3, boot="this"))


def test_the_entry_from_before_stays() -> None:
    record = replace(RECORD, trials=())
    assert change(facts(BEFORE, record=record), record, "other") == [
        (Action.SAVE_RECORD, (4, ("quiet",), [10])), (Action.WRITE_ENTRY, 10)]


def test_another_trial_takes_the_place_of_one() -> None:
    assert change(facts(COUNTED, BEFORE), RECORD, "other") == [
        (Action.SAVE_RECORD, (4, ("quiet",), [5, 10])), (Action.WRITE_ENTRY, 10), (Action.REMOVE_ENTRY, "new")]


def test_one_whose_entry_was_never_written_is_none() -> None:
    assert change(facts(BEFORE), RECORD, "other") == [
        (Action.SAVE_RECORD, (4, ("quiet",), [10])), (Action.WRITE_ENTRY, 10)]


def test_going_back_ends_the_trial() -> None:
    assert change(facts(COUNTED, BEFORE), RECORD, "quiet") == [
        (Action.REMOVE_ENTRY, "new"), (Action.SAVE_RECORD, (4, ("quiet",), []))]


def test_what_is_staged_has_no_trial() -> None:
    staged = replace(RECORD, generation=None, trials=())
    assert change(facts(record=staged), staged, "other") == [(Action.SAVE_RECORD, (None, ("other",), []))]


def test_good_ones_become_the_deployments() -> None:
    assert steps(plan.plan_settle(facts(COUNTED, BEFORE), RECORD, good=True)) == [
        (Action.SAVE_RECORD, (5, ("quiet", "new"), [])), (Action.REMOVE_ENTRY, "old")]


def test_bad_ones_go_from_what_is_staged_as_well() -> None:
    staged = replace(RECORD, id="b" * 64, generation=None, own=replace(NEW, local=("later",)), trials=())
    assert steps(plan.plan_settle(facts(BEFORE, FAILED, others=(staged,)), RECORD, good=False)) == [
        (Action.REMOVE_ENTRY, "new"), (Action.SAVE_RECORD, (4, ("quiet",), [])),
        (Action.SAVE_RECORD, (None, ("quiet",), []))]
    changed = replace(staged, own=replace(NEW, command=("mine",)))
    assert steps(plan.plan_settle(facts(BEFORE, FAILED, others=(changed,)), RECORD, good=False)) == [
        (Action.REMOVE_ENTRY, "new"), (Action.SAVE_RECORD, (4, ("quiet",), []))]
