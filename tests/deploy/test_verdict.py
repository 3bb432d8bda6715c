# SPDX-License-Identifier: Apache-2.0
"""Who has proven itself, what was passed over, and what follows a boot that failed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.deploy.facts import Entry, Facts
from bootcd.deploy.records import Record
from bootcd.deploy.verdict import Reaction, fell_back_from, judge, passed_over

OLD = Record("a" * 64, "os", "sha256:1", "", "bls", "k", "", version="1", generation=1, health="good",
             staged="2026-01-01T00:00:00+00:00")
NEW = replace(OLD, id="b" * 64, manifest_digest="sha256:2", version="2", generation=2, health="untried",
              staged="2026-02-01T00:00:00+00:00")


def facts(*records: Record, booted: Record, failed: bool = False) -> Facts:
    """The newest record first in the menu, unless its counter is used up."""
    entries = [Entry(f"{one.generation}", one.generation or 0, one.short_id,
                     bad=failed and one.id == NEW.id, failed=failed and one.id == NEW.id) for one in records]
    entries.sort(key=lambda entry: (entry.failed, -entry.generation))
    return Facts({one.id: one for one in records}, tuple(entries), booted.id)


@pytest.mark.parametrize(("new", "failed", "loader_counts", "reason"), [
    (NEW, True, True, "its boot attempts are used up"),
    (replace(NEW, attempts=("x", "y")), True, True, "it was started 2 times, and no boot completed"),
    (replace(NEW, attempts=("x",)), False, False, "it was started once, and no boot completed"),
    (replace(NEW, attempts=("x",), health_reason="try 1 of 3: no web"), False, False, "try 1 of 3: no web"),
    (NEW, False, False, "the boot loader fell back from it"),
    (NEW, False, True, None),
    (replace(NEW, attempts=("x",)), False, True, None),
    (replace(NEW, health="good"), False, False, None),
    (replace(NEW, health="good"), True, False, None),
    (replace(NEW, health="bad"), True, True, None),
    (replace(NEW, promoted_in="this boot"), False, False, None),
    (replace(NEW, generation=None), False, False, None),
], ids=lambda value: "" if isinstance(value, Record) else str(value))
def test_what_should_have_come_up(new: Record, failed: bool, loader_counts: bool, reason: str | None) -> None:
    found = passed_over(facts(OLD, new, booted=OLD, failed=failed), "this boot", loader_counts=loader_counts)
    assert found == ([] if reason is None else [(new, reason)])


def test_what_is_older_than_the_running_one_is_left_alone() -> None:
    old = replace(OLD, health="untried")
    assert passed_over(facts(old, NEW, booted=NEW), "this boot", loader_counts=False) == []
    assert passed_over(Facts({}, booted="c" * 64), "this boot", loader_counts=False) == []


def test_the_machine_fell_back_only_from_its_newest_deployment() -> None:
    bad = replace(NEW, health="bad")
    assert fell_back_from(facts(OLD, bad, booted=OLD)) == bad
    assert fell_back_from(facts(OLD, NEW, booted=OLD, failed=True)) == NEW
    assert fell_back_from(facts(OLD, NEW, booted=OLD)) is None
    assert fell_back_from(facts(OLD, bad, booted=bad)) is None
    newer = replace(NEW, id="c" * 64, generation=3, health="good", staged="2026-03-01T00:00:00+00:00")
    assert fell_back_from(facts(OLD, bad, newer, booted=newer)) is None, "what came after it is what counts"
    assert fell_back_from(facts(OLD, bad, newer, booted=OLD)) is None, "by hand, from a good one"


def tried(times: int, **changes: object) -> Record:
    return replace(NEW, attempts=tuple(str(number) for number in range(times)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("times", "failed", "on_failure", "bad", "reaction"), [
    (1, False, "reboot", False, Reaction.REBOOT),
    (2, False, "reboot", False, Reaction.REBOOT),
    (3, True, "reboot", True, Reaction.REBOOT),
    (3, False, "reboot", True, Reaction.ROLLBACK),
    (4, True, "reboot", True, Reaction.STAY),
    (4, False, "reboot", True, Reaction.STAY),
    (1, False, "rollback", True, Reaction.ROLLBACK),
    (4, False, "rollback", True, Reaction.STAY),
    (1, False, "stay", True, Reaction.STAY),
])
def test_what_follows(times: int, failed: bool, on_failure: str, bad: bool, reaction: Reaction) -> None:
    record = tried(times)
    found = judge(facts(OLD, record, booted=record, failed=failed), record, on_failure=on_failure, tries=3)
    assert (found.bad, found.reaction) == (bad, reaction)


def test_what_was_good_is_never_left() -> None:
    for failed in (False, True):
        good = replace(NEW, health="good")
        found = judge(facts(OLD, good, booted=good, failed=failed), good, on_failure="rollback", tries=3)
        assert (found.bad, found.reaction) == (False, Reaction.STAY)


def test_nothing_reboots_without_somewhere_to_go() -> None:
    for others in ((), (replace(OLD, health="bad"),)):
        for on_failure in ("reboot", "rollback", "stay"):
            found = judge(facts(*others, tried(1), booted=NEW), tried(1), on_failure=on_failure, tries=3)
            assert (found.bad, found.reaction) == (True, Reaction.STAY)


@given(tries=st.integers(0, 9), counts=st.booleans(), obeys=st.booleans(), on_failure=st.sampled_from(Reaction))
def test_reboots_end(tries: int, counts: bool, obeys: bool, on_failure: Reaction) -> None:
    """Whether the loader counts or not, and even where it starts the same entry whatever it is told."""
    record, left = NEW, tries
    for boots in range(1, tries + 3):
        left = max(left - 1, 0)
        failed = counts and tries > 0 and not left
        record = replace(record, attempts=(*record.attempts, str(boots)))
        found = judge(facts(OLD, record, booted=record, failed=failed), record, on_failure=on_failure, tries=tries)
        record = replace(record, health="bad" if found.bad else "untried")
        if found.reaction is Reaction.STAY:
            return
        if found.bad and obeys:
            assert boots <= max(tries, 1)
            return
    raise AssertionError(f"{boots} boots, and no end")
