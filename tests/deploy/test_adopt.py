# SPDX-License-Identifier: Apache-2.0
"""The plan of an adoption: all of ours before any of bootc's goes, and the default's last."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.deploy.adopt import Adoptee, plan_adopt
from bootcd.deploy.facts import Facts
from bootcd.deploy.journal import Journal, Transaction
from bootcd.deploy.plan import Action, Plan
from bootcd.deploy.records import decode
from bootcd.errors import EspFull, RecordError
from deploy.test_plan import actions, entry, facts, kernel, record, what

NEW, OLD = record("new"), record("old")
ENTRIES = {NEW.id: "loader/entries/new.conf", OLD.id: "loader/entries/old.conf"}
FOUND = [Adoptee(one, kernel(one), ENTRIES[one.id]) for one in (NEW, OLD)]
EMPTY = Facts(records={}, esp_free=20)


def generations(made: Plan) -> list[tuple[str, int | None]]:
    records = [decode(step.args["record"].encode(), "") for step in made.steps if step.action is Action.ADD_ENTRY]
    return [(one.id, one.generation) for one in records]


def test_the_order() -> None:
    made = plan_adopt(EMPTY, FOUND, ["EFI/Linux/x"])
    assert actions(made) == [
        *["hold", "install-kernel"] * 2, *["add-entry", "save-record"] * 2, *["remove-foreign"] * 3,
        *["release-foreign"] * 2]
    assert generations(made) == [(OLD.id, 1), (NEW.id, 2)]
    assert [line for line in what(made) if line.startswith("remove-foreign")] == [
        "remove-foreign loader/entries/old.conf", "remove-foreign loader/entries/new.conf",
        "remove-foreign EFI/Linux/x"]


def test_kernels_need_room_beside_those_of_bootc() -> None:
    with pytest.raises(EspFull, match=r"lacks 1 bytes.* 20 bytes.* 19 are free"):
        plan_adopt(Facts(records={}, esp_free=19), FOUND, [])
    shared = [Adoptee(one, kernel(NEW), ENTRIES[one.id]) for one in (NEW, OLD)]
    assert plan_adopt(Facts(records={}, esp_free=10), shared, []).steps
    there = Facts(records={}, esp_free=10, kernels={NEW.boot_digest: 10})
    assert plan_adopt(there, FOUND, []).steps
    with pytest.raises(EspFull):
        plan_adopt(Facts(records={}, esp_free=10, kernels={NEW.boot_digest: 5}, partial=frozenset({NEW.boot_digest})),
                   FOUND, [])


def test_what_is_ours_already_gets_a_new_generation() -> None:
    ours = record("new", 7)
    made = plan_adopt(facts(ours), [Adoptee(ours, kernel(ours), ENTRIES[NEW.id])], [])
    assert f"remove-entry {entry(ours).file_name}" in what(made)
    assert generations(made) == [(NEW.id, 8)]


def test_a_journal_that_was_edited_removes_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "transaction.json"
    journal = Journal(path)
    made = plan_adopt(EMPTY, [FOUND[0]], [])
    journal.write(Transaction(made, 3))
    again = journal.load()
    assert again is not None
    assert (actions(again.plan), again.done) == (actions(made), 3)
    path.write_text(path.read_text().replace("loader/entries/new.conf", "EFI/BOOT/BOOTX64.EFI"))
    with pytest.raises(RecordError):
        journal.load()
