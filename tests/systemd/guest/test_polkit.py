# SPDX-License-Identifier: Apache-2.0
"""What a normal user may do: real polkitd, no agent, nobody to ask for a password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machine import USER, another_deployment, bootcctl, cursor, deployments, journal, ok, run, wait

REFUSED = "9c9030b98ebe4440be7f669812c3984d"
RULE = """polkit.addRule(function(action, subject) {
    if (action.id == "org.bootcd1.%s" && subject.user == "%s")
        return polkit.Result.%s;
});
"""

pytestmark = pytest.mark.usefixtures("daemon")


def test_a_normal_user_sees_the_status() -> None:
    done = run("bootcctl", "status", user=USER)
    assert done.status == 0, done
    assert "1.0" in done.out
    assert bootcctl("status", user=USER)["deployments"] == bootcctl("status")["deployments"]


def test_a_normal_user_may_not_roll_back() -> None:
    here, before = cursor(), deployments()
    done = run("bootcctl", "--quiet", "rollback", user=USER)
    assert done.status == 12, done
    assert done.err.startswith("bootcctl: ")
    assert "org.bootcd1.rollback" in done.err or "roll" in done.err.lower()
    assert "Traceback" not in done.err
    assert deployments() == before
    (entry,) = journal(here, f"MESSAGE_ID={REFUSED}")
    assert (entry["BOOTCD_ACTION"], entry["BOOTCD_UID"]) == ("org.bootcd1.rollback", "1000")
    assert "needs authentication" in entry["BOOTCD_REASON"]


def test_what_a_rule_of_polkit_forbids_is_in_the_journal(rule: Path) -> None:
    here = cursor()
    rule.write_text(RULE % ("rollback", USER, "NO"))

    def refused() -> list[dict[str, Any]]:
        assert run("bootcctl", "--quiet", "rollback", user=USER).status == 12
        return [entry for entry in journal(here, f"MESSAGE_ID={REFUSED}") if "does not allow" in entry["BOOTCD_REASON"]]

    entry = wait("polkit has read the rule", refused)[0]
    assert (entry["BOOTCD_ACTION"], entry["BOOTCD_UID"]) == ("org.bootcd1.rollback", "1000")


def test_a_rule_of_polkit_lets_a_normal_user_pin_and_nothing_else(rule: Path) -> None:
    assert run("bootcctl", "--quiet", "pin", "booted", "--label", "mine", user=USER).status == 12
    rule.write_text(RULE % ("pin", USER, "YES"))
    wait("polkit has read the rule",
         lambda: run("bootcctl", "--quiet", "pin", "booted", "--label", "mine", user=USER).status == 0)
    assert "pinned" in deployments()["1.0"]
    assert run("bootcctl", "--quiet", "rollback", user=USER).status == 12
    bootcctl("unpin", "booted")


def test_a_rule_of_polkit_lets_a_normal_user_roll_back(rule: Path) -> None:
    version = another_deployment()
    if "default" not in deployments()[version]:
        ok("bootcctl", "--quiet", "rollback", version)
    assert run("bootcctl", "--quiet", "rollback", "1.0", user=USER).status == 12
    rule.write_text(RULE % ("rollback", USER, "YES"))
    wait("polkit has read the rule",
         lambda: run("bootcctl", "--quiet", "rollback", "1.0", user=USER).status == 0)
    assert "default" in deployments()["1.0"]
