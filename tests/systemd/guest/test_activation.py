# SPDX-License-Identifier: Apache-2.0
"""How the daemon comes up under systemd, and what systemd thinks of it. The first test wants a machine where nobody has
called the daemon yet."""

from __future__ import annotations

from pathlib import Path

from machine import USER, Done, call, cursor, deployments, journal, main_pid, ok, run, show, wait

STARTED = "58444082bb0049e08842c04b14cd9376"


def test_the_first_call_starts_the_daemon() -> None:
    before = show("ActiveState", "MainPID", "UnitFileState")
    assert (before["ActiveState"], before["MainPID"]) == ("inactive", "0")
    status = call("GetStatus", "a{sv}", "0")
    assert status["sysroot"] == "/sysroot"
    assert [one["version"] for one in status["deployments"]] == ["1.0"]
    assert show("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def test_it_tells_systemd_that_it_is_ready() -> None:
    shown = show("Type", "NotifyAccess", "StatusText", "BusName")
    assert shown["Type"].startswith("notify")
    assert shown["NotifyAccess"] == "main"
    assert shown["BusName"] == "org.bootcd1"
    assert shown["StatusText"] == "Idle"


def test_its_start_is_in_the_journal_by_id() -> None:
    entry, = journal(f"MESSAGE_ID={STARTED}", "_SYSTEMD_UNIT=bootcd.service")
    assert entry["BOOTCD_SYSROOT"] == "/sysroot"
    assert entry["_PID"] == str(main_pid())
    assert entry["SYSLOG_IDENTIFIER"] == "bootcd"


def test_systemctl_status_is_clean() -> None:
    status = run("systemctl", "status", "--no-pager", "--lines=0", "bootcd.service")
    assert status.status == 0, status
    assert "Active: active (running)" in status.out
    assert 'Status: "Idle"' in status.out
    assert status.err == ""
    complaints = [entry["MESSAGE"] for entry in journal("--unit=bootcd.service", "--priority=warning")]
    assert complaints == []


def test_the_whole_machine_is_well() -> None:
    assert ok("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert ok("systemctl", "is-system-running") == "running\n"


def test_nothing_was_denied_or_missing_when_systemd_read_our_units() -> None:
    complaints = [entry["MESSAGE"] for entry in journal("_PID=1", "--priority=warning")]
    assert [text for text in complaints if "bootcd" in text] == []


def test_the_watchdog_is_fed() -> None:
    assert "WatchdogSec=" in Path(show("FragmentPath")["FragmentPath"]).read_text()
    shown = show("WatchdogUSec", "WatchdogTimestampMonotonic", "NRestarts")
    assert shown["WatchdogUSec"] == "20s"  # guest/root has a drop-in, for the sake of speed
    wait("another ping", lambda: show("WatchdogTimestampMonotonic", "NRestarts", "WatchdogUSec") | {"NRestarts": "0"}
         != shown | {"NRestarts": "0"}, timeout=25)
    assert show("NRestarts")["NRestarts"] == "0"


def test_the_running_deployment_is_recorded_as_good() -> None:
    """bootcd-boot-complete.service, which did it at boot, without the daemon."""
    assert show("Result", "ActiveState", unit="bootcd-boot-complete.service") == {
        "Result": "success", "ActiveState": "active"}
    assert call("GetStatus", "a{sv}", "0")["deployments"][0]["health"] == "good"
    assert deployments() == {"1.0": ["booted", "default"]}


def test_a_reload_reads_the_configuration_again() -> None:
    drop_in = Path("/etc/bootcd/bootcd.toml.d/50-test.toml")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    pid = main_pid()
    try:
        here = cursor()
        drop_in.write_text("[keep]\nprevious = 2\n")
        ok("systemctl", "reload", "bootcd.service")
        wait("it says so", lambda: any("configuration was read again" in text for text in said(here)))
        here = cursor()
        drop_in.write_text("[keep]\nprevious = 'many'\n")
        assert isinstance(run("systemctl", "reload", "bootcd.service"), Done)
        wait("it complains", lambda: any(str(drop_in) in text and "previous" in text for text in said(here)))
    finally:
        drop_in.unlink()
    ok("systemctl", "reload", "bootcd.service")
    assert main_pid() == pid
    assert show("ActiveState")["ActiveState"] == "active"


def test_the_log_level_can_be_changed() -> None:
    assert ok("systemctl", "service-log-level", "bootcd.service") == "info\n"
    ok("systemctl", "service-log-level", "bootcd.service", "debug")
    assert ok("systemctl", "service-log-level", "bootcd.service") == "debug\n"
    ok("systemctl", "service-log-level", "bootcd.service", "info")
    refused = run("systemctl", "service-log-level", "bootcd.service", "debug", user=USER)
    assert refused.status != 0, "anybody may fill the journal"
    assert ok("systemctl", "service-log-level", "bootcd.service") == "info\n"


def said(since: str) -> list[str]:
    return [entry["MESSAGE"] for entry in journal(since, "_SYSTEMD_UNIT=bootcd.service")]
