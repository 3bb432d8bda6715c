# SPDX-License-Identifier: Apache-2.0
"""Unattended updates: what the timers start, and what is left of a failed run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import (
    Registry,
    bootcctl,
    cursor,
    deployments,
    follow_the_layout,
    journal,
    new_version,
    ok,
    prop,
    publish,
    run,
    show,
)

FAILED = "86c9d3cf85814ff098605349ab5a8f6d"
AVAILABLE = "be2ab0b495a3493ca51eb71a77fb8ab9"
CHECK = "bootcd-check.service"
UPDATE = "bootcd-update.service"

pytestmark = pytest.mark.usefixtures("daemon")


@pytest.fixture
def failing(registry: Registry) -> Iterator[Registry]:
    """The machine follows a source that has nothing any more."""
    registry.publish(new_version())
    bootcctl("switch", registry.image)
    registry.fail()
    yield registry
    follow_the_layout()
    ok("systemctl", "reset-failed")


def test_the_timers_are_well() -> None:
    for timer in ("bootcd-check.timer", "bootcd-update.timer"):
        ok("systemctl", "start", timer)
        shown = show("ActiveState", "NextElapseUSecMonotonic", "NextElapseUSecRealtime", unit=timer)
        assert shown["ActiveState"] == "active"
        assert {shown["NextElapseUSecMonotonic"], shown["NextElapseUSecRealtime"]} != {"", "infinity"}, shown
        ok("systemctl", "stop", timer)


def test_a_check_tells_of_an_update() -> None:
    version, here = new_version(), cursor()
    image = publish(version)
    ok("systemctl", "start", CHECK)
    assert show("Result", unit=CHECK) == {"Result": "success"}
    cached = prop("CachedUpdate")
    assert (cached["available"], cached["version"], cached["manifest-digest"]) == (
        True, version, image.manifest_digest)
    entry, = journal(here, f"MESSAGE_ID={AVAILABLE}")
    assert entry["BOOTCD_IMAGE_VERSION"] == version
    assert bootcctl("status")["update"]["version"] == version


@pytest.fixture
def eager() -> Iterator[None]:
    """What went wrong in other tests holds nothing back."""
    file = Path("/etc/bootcd/bootcd.toml.d/eager.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('[update]\ncool-down = "0"\n')
    ok("systemctl", "reload", "bootcd.service")
    yield
    file.unlink()
    ok("systemctl", "reload", "bootcd.service")


@pytest.mark.usefixtures("eager")
def test_an_update_comes_unattended() -> None:
    version = new_version()
    publish(version)
    ok("systemctl", "start", CHECK)  # when the policy itself would check is up to chance
    ok("systemctl", "start", UPDATE)
    assert show("Result", unit=UPDATE) == {"Result": "success"}
    assert next(iter(deployments().items())) == (version, ["staged"]), ok("bootcctl", "policy", "explain")
    last = prop("LastResult")
    assert (last["verb"], last["state"]) == ("upgrade", "succeeded")


def test_nothing_new_is_no_failure() -> None:
    ok("systemctl", "start", UPDATE)
    ok("systemctl", "start", UPDATE)
    ok("systemctl", "start", CHECK)
    assert show("Result", unit=CHECK) == {"Result": "success"}


def test_a_failed_run_shows_in_systemd_on_the_bus_and_in_the_status(failing: Registry) -> None:
    here = cursor()
    assert run("systemctl", "start", CHECK).status == 1
    assert show("Result", unit=CHECK) == {"Result": "exit-code"}
    last = prop("LastResult")
    assert (last["verb"], last["state"]) == ("check", "failed")
    assert last["error"].startswith("org.bootcd1.Error.")
    assert failing.image.removeprefix("docker://") in last["message"]
    status = ok("bootcctl", "status")
    assert "failed" in status
    assert last["message"] in " ".join(status.split())
    assert bootcctl("status")["last"]["error"] == last["error"]
    entry, = journal(here, f"MESSAGE_ID={FAILED}")
    assert (entry["BOOTCD_KIND"], entry["BOOTCD_ERROR"], entry["PRIORITY"]) == ("check", last["error"], "3")


def test_the_journal_explains_a_failed_run(failing: Registry) -> None:
    here = cursor()
    run("systemctl", "start", CHECK)
    ok("journalctl", "--sync")
    text = " ".join(ok("journalctl", "--catalog", "--no-pager", here, f"MESSAGE_ID={FAILED}").replace("░░", "").split())
    assert "Subject: A job has failed" in text
    assert f"ended with the error {prop('LastResult')['error']}." in text
    assert "@BOOTCD_JOB@" not in text


def test_the_last_result_outlives_the_daemon(failing: Registry) -> None:
    run("systemctl", "start", CHECK)
    last = prop("LastResult")
    assert last["state"] == "failed"
    ok("systemctl", "restart", "bootcd.service")
    assert prop("LastResult") == last
