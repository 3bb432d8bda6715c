# SPDX-License-Identifier: Apache-2.0
"""Entries in a real journal, and the catalog that explains them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootcd.daemon import events
from bootcd.linux import journal as linux_journal
from bootcd.ops import events as boot_events
from bootcd.ops.results import CheckResult

ROOT = Path(__file__).resolve().parents[2]
CATALOG = ROOT / "data" / "catalog" / "bootcd.catalog"
JOURNALD = "/lib/systemd/systemd-journald"

IDS = {name: value for name, value in (vars(events) | vars(boot_events)).items()
       if name.isupper() and not name.startswith("_") and isinstance(value, str)}
"""Name of each event → its MESSAGE_ID."""

FIELDS = {
    "DAEMON_STARTED": {"BOOTCD_VERSION": "1.0", "BOOTCD_SYSROOT": "/sysroot", "PRIORITY": "6"},
    "JOB_STARTED": {"BOOTCD_JOB": "7", "BOOTCD_KIND": "switch", "BOOTCD_UID": "1000",
                    "BOOTCD_PROGRAM": "gnome-software", "BOOTCD_IMAGE": "example.org/os:1", "PRIORITY": "6"},
    "JOB_SUCCEEDED": {"BOOTCD_JOB": "7", "BOOTCD_KIND": "switch", "BOOTCD_UID": "1000", "PRIORITY": "6"},
    "JOB_FAILED": {"BOOTCD_JOB": "7", "BOOTCD_ERROR": "org.bootcd1.Error.RootFull", "BOOTCD_ADVICE": "Free space.",
                   "PRIORITY": "3", "MESSAGE": "Job 7 (switch) has failed: no space\nleft"},
    "JOB_CANCELLED": {"BOOTCD_JOB": "7", "PRIORITY": "6"},
    "UPDATE_AVAILABLE": {"BOOTCD_IMAGE": "example.org/os:1", "BOOTCD_IMAGE_VERSION": "43",
                         "BOOTCD_IMAGE_DIGEST": "sha256:aa", "PRIORITY": "6"},
    "STAGED": {"BOOTCD_DEPLOYMENT": "ab" * 32, "BOOTCD_IMAGE": "example.org/os:1", "PRIORITY": "6"},
    "FELL_BACK": {"BOOTCD_DEPLOYMENT": "ab" * 32, "BOOTCD_IMAGE_VERSION": "2.0", "BOOTCD_IMAGE": "example.org/os:1",
                  "BOOTCD_IMAGE_DIGEST": "sha256:aa", "BOOTCD_REASON": "a check failed", "PRIORITY": "4"},
    "BOOT_FAILED": {"BOOTCD_DEPLOYMENT": "ab" * 32, "BOOTCD_REASON": "a check failed", "BOOTCD_REACTION": "reboot",
                    "MESSAGE": "It failed.", "PRIORITY": "3"},
    "KARGS_REVERTED": {"BOOTCD_DEPLOYMENT": "ab" * 32, "BOOTCD_KARGS": "init=/nowhere", "MESSAGE": "They did not boot.",
                       "PRIORITY": "4"},
    "APPLIED": {"BOOTCD_DEPLOYMENT": "ab" * 32, "BOOTCD_IMAGE": "example.org/os:1", "BOOTCD_PREVIOUS": "cd" * 32,
                "PRIORITY": "6"},
    "HOOK_FAILED": {"BOOTCD_HOOK": "/etc/bootcd/hooks.d/mail", "BOOTCD_NOTICE": "failed",
                    "BOOTCD_REASON": "exit status 1", "PRIORITY": "4"},
    "REFUSED": {"BOOTCD_ACTION": "org.bootcd1.switch", "BOOTCD_UID": "1000", "BOOTCD_SENDER": ":1.5",
                "BOOTCD_REASON": "polkit does not allow it", "BOOTCD_MEMBER": "Switch", "PRIORITY": "4"},
}
"""What the program below must leave in the journal."""

PROGRAM = """
from dataclasses import fields
from bootcd.daemon import events
from bootcd.deploy.records import Record
from bootcd.ops import events as boot_events
from bootcd.ops.results import CheckResult, DeploymentInfo

record = Record("ab" * 32, "example.org/os:1", "sha256:aa", "", "bls", "", "", version="2.0")
boot_events.fell_back(record, "It fell back.", "a check failed")
boot_events.boot_failed(record, "It failed.", "a check failed", "reboot")
boot_events.kargs_reverted(record, "They did not boot.", "init=/nowhere")
boot_events.hook_failed("/etc/bootcd/hooks.d/mail", "failed", "exit status 1")
events.daemon_started("1.0", "/sysroot")
job = events.JobEntry(7, "switch", 1000, "gnome-software", image="example.org/os:1")
events.job_started(job)
events.job_succeeded(job)
events.job_failed(job, "org.bootcd1.Error.RootFull", "no space\\nleft", "Free space.")
events.job_cancelled(job)
events.update_available(CheckResult("example.org/os:1", True, "sha256:aa", version="43"))
texts = {field.name: "" for field in fields(DeploymentInfo)}
deployment = DeploymentInfo(**{**texts, "id": "ab" * 32, "image": "example.org/os:1"})
events.staged(deployment)
events.applied(deployment, "cd" * 32)
events.refused("org.bootcd1.switch", sender=":1.5", uid=1000, reason="polkit does not allow it", member="Switch")
"""

# In mounts of its own, so that it neither meets the journal of this machine nor leaves a trace in it. Audit= empty: the
# kernel's auditing is not to be touched.
SCRIPT = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib/systemd
mount -t tmpfs tmpfs /etc/systemd
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=\\nRuntimeMaxUse=16M\\n' > /etc/systemd/journald.conf
mkdir -p /var/lib/systemd/catalog
cp "$1" /var/lib/systemd/catalog/database
"$2" & journald=$!
trap 'kill $journald; wait $journald' EXIT
tries=0
until [ -S /run/systemd/journal/socket ] || [ $tries -ge 500 ]; do tries=$((tries + 1)); sleep 0.02; done
"$3" -c "$4"
journalctl --quiet --sync
journalctl --quiet --no-pager --output json --all SYSLOG_IDENTIFIER=bootcd > "$5/entries"
journalctl --quiet --no-pager --catalog SYSLOG_IDENTIFIER=bootcd > "$5/explained"
"""


def update_catalog(root: Path) -> subprocess.CompletedProcess[str]:
    """Compile our catalog alone, below `root`."""
    place = root / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (root / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(CATALOG, place)
    return subprocess.run(["journalctl", "--update-catalog", f"--root={root}"], capture_output=True, text=True,
                          check=False)


needs_journalctl = pytest.mark.skipif(shutil.which("journalctl") is None, reason="journalctl is not installed")


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], str]:
    """The entries by MESSAGE_ID, and what `journalctl -x` shows."""
    if os.geteuid() != 0 or not os.access(JOURNALD, os.X_OK):
        pytest.skip("needs root and systemd-journald")
    directory = tmp_path_factory.mktemp("journal")
    assert update_catalog(directory / "root").returncode == 0
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", SCRIPT, "sh",
         directory / "root/var/lib/systemd/catalog/database", JOURNALD, sys.executable, PROGRAM, directory],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (directory / "entries").read_text().splitlines()]
    assert len(entries) == len(IDS), entries
    return {entry["MESSAGE_ID"]: entry for entry in entries}, (directory / "explained").read_text()


def test_every_event_is_checked_below() -> None:
    assert FIELDS.keys() == IDS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_entry(name: str, journal: tuple[dict[str, dict[str, str]], str]) -> None:
    entry = journal[0][IDS[name]]
    assert FIELDS[name].items() <= entry.items()
    assert not [field for field, value in entry.items() if not value], "an empty field says nothing"


def test_the_journal_explains_each(journal: tuple[dict[str, dict[str, str]], str]) -> None:
    entries, explained = journal
    assert explained.count("Defined-By: bootcd") == len(entries)
    assert "Job 7 of kind 'switch' was started by user 1000" in explained
    assert "The source of example.org/os:1 offers version 43" in explained


def test_ids_are_random_and_differ() -> None:
    assert len(set(IDS.values())) == len(IDS)
    for value in IDS.values():
        assert re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", value), f"no random UUID: {value}"


@needs_journalctl
def test_catalog_has_each_id(tmp_path: Path) -> None:
    done = update_catalog(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = subprocess.run(["journalctl", "--list-catalog", f"--root={tmp_path}"], capture_output=True, text=True,
                            check=True).stdout
    assert {line.split()[0] for line in listed.splitlines()} == set(IDS.values())


def test_catalog_uses_only_fields_that_exist() -> None:
    used = set(re.findall("@([A-Z_]+)@", CATALOG.read_text()))
    sent = {field for fields in FIELDS.values() for field in fields}
    assert used
    assert used <= sent, f"nobody sends {used - sent}"


def test_without_a_journal_it_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(linux_journal, "_SOCKET", str(tmp_path / "nobody"))
    with caplog.at_level(logging.INFO):
        events.update_available(CheckResult("example.org/os:1", True, "sha256:aa"))
        events.refused("org.bootcd1.pin", sender=":1.9", uid=None, reason="it has gone")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "An update is available: sha256:aa of example.org/os:1."),
        ("WARNING", "Refused org.bootcd1.pin to a caller that has left (:1.9): it has gone."),
    ]
