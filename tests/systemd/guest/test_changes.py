# SPDX-License-Identifier: Apache-2.0
"""Upgrades from inside the sandbox, and what happens when the daemon ends in the middle of one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from machine import (
    FINALIZE,
    Registry,
    bootcctl,
    call,
    cursor,
    deployments,
    entries,
    follow_the_layout,
    journal,
    kernels,
    main_pid,
    new_version,
    ok,
    processes,
    prop,
    publish,
    restarted,
    run,
    settled,
    show,
    wait,
)

STAGED = "97cd99c3f85f4875babc7997eebad395"
REBOOT_REQUIRED = Path("/run/reboot-required")

pytestmark = pytest.mark.usefixtures("daemon")


def start_switch(registry: Registry) -> tuple[int, str]:
    """Let the daemon begin a download that does not end. The daemon and the job."""
    job = call("Switch", "sa{sv}", registry.image, "0")
    assert registry.asked.wait(60), "the worker did not ask for a layer"
    assert prop("ActiveJob") == job
    assert [one for one in processes() if "worker" in one], processes()
    return main_pid(), job


def intact(before: dict[str, list[str]]) -> None:
    """The machine is as it was, and nothing is damaged."""
    settled()
    assert deployments() == before
    assert bootcctl("status")["unfinished"] == ""
    checked = bootcctl("fsck")
    assert checked["ok"] is True, checked


def completes(registry: Registry, version: str) -> None:
    """What was cut off is done when it is asked for again."""
    assert bootcctl("switch", registry.image)["outcome"] == "staged"
    assert next(iter(deployments().items())) == (version, ["staged"])
    follow_the_layout()


def test_an_upgrade_writes_the_esp_and_the_repository_from_the_sandbox() -> None:
    assert show("ProtectSystem", "NoNewPrivileges") == {"ProtectSystem": "strict", "NoNewPrivileges": "yes"}
    old, here = kernels(), cursor()
    version = new_version()
    publish(version)
    answer = bootcctl("upgrade")
    assert answer["outcome"] == "staged", answer
    assert answer["pull"]["objects-written"] > 0
    assert deployments() == {version: ["staged"], "1.0": ["booted", "default"]}
    assert len(kernels() - old) == 1
    assert prop("RebootRequired") is True
    entry, = journal(here, f"MESSAGE_ID={STAGED}")
    assert entry["BOOTCD_IMAGE_VERSION"] == version
    assert entry["BOOTCD_DEPLOYMENT"] == answer["deployment"]["id"]


def test_a_staged_deployment_asks_for_a_reboot() -> None:
    publish(new_version())
    bootcctl("upgrade")
    wait("the mark", REBOOT_REQUIRED.exists)
    assert "bootcd" in Path("/run/reboot-required.pkgs").read_text().split()
    assert Path("/run/bootcd/staged").read_text().strip() == bootcctl("status")["deployments"][0]["id"]
    bootcctl("unstage")
    wait("no deployment is staged", lambda: not Path("/run/bootcd/staged").exists())


def test_hooks_are_told_outside_of_the_sandbox() -> None:
    """In /root, which the daemon does not see, and one notice after the other."""
    hook, told = Path("/etc/bootcd/hooks.d/50-write"), Path("/root/told")
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f'#!/bin/sh\necho "$1 $BOOTCD_IMAGE_VERSION" >> {told}\n')
    hook.chmod(0o755)
    try:
        versions = [new_version(), new_version()]
        for version in versions:
            publish(version)
            bootcctl("upgrade")
            wait(f"the hook is told of {version}",
                 lambda version=version: told.exists() and f"staged {version}" in told.read_text().splitlines())
        assert [line for line in told.read_text().splitlines() if line.startswith("staged")] == [
            f"staged {version}" for version in versions]
        wait("nothing waits", lambda: not any(Path("/run/bootcd/notices").iterdir()))
        assert show("Result", unit="bootcd-hooks.service") == {"Result": "success"}
        assert show("ActiveState", unit="bootcd-hooks.path") == {"ActiveState": "active"}
    finally:
        hook.unlink()
        bootcctl("unstage")


def test_nothing_staged_is_no_failure_at_shutdown() -> None:
    run("bootcctl", "--quiet", "unstage")
    before = entries()
    ok("systemctl", "start", FINALIZE)
    ok("systemctl", "stop", FINALIZE)
    assert show("Result", "ActiveState", unit=FINALIZE) == {"Result": "success", "ActiveState": "inactive"}
    assert entries() == before
    ok("systemctl", "start", FINALIZE)


def test_stopping_the_finalize_unit_makes_the_staged_deployment_the_default() -> None:
    version = new_version()
    publish(version)
    assert bootcctl("upgrade")["outcome"] == "staged"
    before = entries()
    ok("systemctl", "start", FINALIZE)
    ok("systemctl", "stop", FINALIZE)
    assert show("Result", unit=FINALIZE) == {"Result": "success"}
    assert len(set(entries()) - set(before)) == 1
    wait("the daemon has noticed", lambda: "default" in deployments().get(version, []))
    ok("systemctl", "start", FINALIZE)


def test_a_killed_daemon_comes_back_and_the_next_upgrade_completes(registry: Registry) -> None:
    version, before = new_version(), deployments()
    registry.publish(version)
    with registry.withholding():
        pid, _ = start_switch(registry)
        os.kill(pid, signal.SIGKILL)
        restarted(pid)
        assert not [one for one in processes() if "worker" in one], processes()
    assert show("NRestarts")["NRestarts"] == "1"
    intact(before)
    completes(registry, version)


def test_a_daemon_that_hangs_is_replaced_by_the_watchdog(registry: Registry) -> None:
    version, before = new_version(), deployments()
    registry.publish(version)
    here = cursor()
    with registry.withholding():
        pid, _ = start_switch(registry)
        os.kill(pid, signal.SIGSTOP)
        restarted(pid)
    assert any("watchdog" in entry["MESSAGE"].lower() for entry in journal(here, "_PID=1")), "systemd says nothing"
    assert not Path(f"/proc/{pid}").exists()
    intact(before)
    completes(registry, version)


def test_a_stop_in_the_middle_of_a_job_is_quick_and_orderly(registry: Registry) -> None:
    version, before = new_version(), deployments()
    registry.publish(version)
    here = cursor()
    with registry.withholding():
        start_switch(registry)
        begin = time.monotonic()
        ok("systemctl", "stop", "bootcd.service")
        assert time.monotonic() - begin < 20
    assert show("Result", "ExecMainStatus", "ActiveState", "NRestarts") == {
        "Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive", "NRestarts": "0"}
    said = [entry["MESSAGE"] for entry in journal(here, "_PID=1", "UNIT=bootcd.service")]
    assert not [text for text in said if "Killing" in text or "timed out" in text], said
    ok("systemctl", "start", "bootcd.service")
    assert prop("LastResult")["state"] == "cancelled"
    intact(before)
    completes(registry, version)


def test_a_job_outlives_the_client_that_started_it(registry: Registry) -> None:
    version = new_version()
    registry.publish(version)
    with registry.withholding():
        _, job = start_switch(registry)  # busctl has ended
        assert prop("State", job, "Job") == "running"
    wait("it succeeded", lambda: prop("State", job, "Job") == "succeeded")
    assert next(iter(deployments())) == version
    follow_the_layout()
