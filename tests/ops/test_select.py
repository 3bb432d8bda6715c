# SPDX-License-Identifier: Apache-2.0
"""How a deployment is called: a role, the beginning of its id, a label, a version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootcd.deploy.facts import Entry, Facts
from bootcd.deploy.records import Pin, Record
from bootcd.errors import DeploymentNotFound
from bootcd.ops.select import select

NEW = Record("abcd" + "0" * 124, "oci:x", "", "", "bls", "", "", version="2.0", generation=2)
OLD = Record("abce" + "0" * 124, "oci:x", "", "", "bls", "", "", version="1.0", generation=1, pins=(Pin("good", ""),))
STAGED = Record("beef" + "0" * 124, "oci:x", "", "", "bls", "", "", version="2.0")
FACTS = Facts({one.id: one for one in (NEW, OLD, STAGED)}, booted=OLD.id,
              entries=(Entry("b", 2, NEW.short_id), Entry("a", 1, OLD.short_id)))


@pytest.mark.parametrize(("name", "found"), [
    ("booted", OLD), ("default", NEW), ("staged", STAGED), ("rollback", OLD), ("abcd", NEW), ("abce0000", OLD),
    (OLD.id, OLD), ("good", OLD), ("1.0", OLD),
])
def test_names(name: str, found: Record) -> None:
    assert select(FACTS, name) is found


@pytest.mark.parametrize(("name", "said"), [
    ("2.0", "any of abcd00000000, beef00000000"), ("abc", "no deployment"), ("ABCD", "no deployment"), ("", "no"),
    ("0" * 200, "no deployment"), ("better", "no deployment"),
])
def test_names_of_none_or_of_several(name: str, said: str) -> None:
    with pytest.raises(DeploymentNotFound, match=said):
        select(FACTS, name)


def test_a_role_that_nobody_has() -> None:
    with pytest.raises(DeploymentNotFound, match="staged"):
        select(Facts({}), "staged")


def test_a_label_comes_before_an_id_and_a_version() -> None:
    labelled = replace(OLD, pins=(Pin("abcd", ""), Pin("2.0", "")))
    facts = replace(FACTS, records={NEW.id: NEW, labelled.id: labelled})
    assert select(facts, "abcd") is labelled
    assert select(facts, "2.0") is labelled
