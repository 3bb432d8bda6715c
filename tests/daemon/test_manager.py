# SPDX-License-Identifier: Apache-2.0
"""When a reboot is due, and what the rest of the system finds in /run/bootcd then."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.daemon.notices import Notices
from bootcd.ops.results import DeploymentInfo, EtcChanges, LastResult, Status


def deployment(version: str, *roles: str, download_only: bool = False, reset: str = "") -> DeploymentInfo:
    return DeploymentInfo(
        id=version.replace(".", "") * 32, roles=roles, image="quay.io/example/os:1", version=version, title="",
        manifest_digest="", created="", staged="", generation=None, pins=(), health="untried", health_reason="",
        boot_type="bls", boot_digest="", kernel_version="", options="", verification="", etc=EtcChanges(),
        download_only=download_only, reset=reset)


def status(*deployments: DeploymentInfo) -> Status:
    return Status("/sysroot", "/efi", deployments, None, "", ())


@pytest.mark.parametrize(("deployments", "expected"), [
    ([deployment("1.0", "booted", "default")], None),
    ([deployment("1.1", "staged"), deployment("1.0", "booted", "default")], "1.1"),
    ([deployment("1.1", "staged", download_only=True), deployment("1.0", "booted", "default")], None),
    ([deployment("1.1", "booted"), deployment("1.0", "default")], "1.0"),
    ([deployment("1.0", "booted")], None),
    ([deployment("1.1", "default"), deployment("1.0", "rollback")], None),
    ([], None),
    ([deployment("1.0", "booted", "default", reset="etc")], "1.0"),
    ([deployment("1.1", "staged"), deployment("1.0", "booted", "default", reset="etc")], "1.1"),
], ids=["settled", "staged", "only-downloaded", "rolled-back", "boot-partition-unreadable", "nothing-runs", "empty",
        "reset", "reset-with-staged"])
def test_what_a_reboot_would_bring(deployments: list[DeploymentInfo], expected: str | None) -> None:
    found = status(*deployments).awaited()
    assert (found.version if found is not None else None) == expected


def test_notices_come_and_go(tmp_path: Path) -> None:
    notices = Notices(str(tmp_path))
    settled = status(deployment("1.0", "booted", "default"))
    staged = status(deployment("1.1", "staged"), *settled.deployments)
    notices.show(settled)
    assert list(tmp_path.iterdir()) == []
    notices.show(staged)
    assert (tmp_path / "staged").read_text() == staged.deployments[0].id + "\n"
    assert (tmp_path / "motd").read_text() == "Version 1.1 is ready: it runs after the next reboot.\n"
    notices.show(settled)
    assert list(tmp_path.iterdir()) == []


def test_a_notice_is_written_once_and_whatever_is_in_its_place(tmp_path: Path) -> None:
    staged = status(deployment("1.1", "staged"), deployment("1.0", "booted", "default"))
    os.mkfifo(tmp_path / "staged")
    (tmp_path / "motd").mkdir()
    for _ in range(2):
        Notices(str(tmp_path)).show(staged)
    assert (tmp_path / "staged").read_text() == staged.deployments[0].id + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["motd", "staged"]
    written = (tmp_path / "staged").stat().st_ino
    Notices(str(tmp_path)).show(staged)
    assert (tmp_path / "staged").stat().st_ino == written


def test_the_notice_names_what_boots_next_and_what_failed(tmp_path: Path) -> None:
    failed = LastResult("upgrade", "failed", "org.bootcd1.Error.RootFull", "/sysroot is full", "", "", "", "timer")
    back = status(deployment("1.1", "booted", "rollback"), deployment("1.0", "default"))
    Notices(str(tmp_path)).show(replace(back, last=failed))
    assert (tmp_path / "staged").read_text().startswith(back.deployments[1].id)
    assert (tmp_path / "motd").read_text().splitlines() == [
        "Version 1.0 is ready: it runs after the next reboot.", "The last upgrade failed: /sysroot is full"]


def test_the_notice_of_a_reset(tmp_path: Path) -> None:
    waiting = deployment("1.0", "booted", "default", reset="state")
    Notices(str(tmp_path)).show(status(waiting))
    assert (tmp_path / "staged").read_text() == waiting.id + "\n"
    told = "The next reboot resets /etc and /var; 'bootcctl unstage' takes that back.\n"
    assert (tmp_path / "motd").read_text() == told
    Notices(str(tmp_path)).show(status(deployment("1.1", "staged"), waiting))
    assert (tmp_path / "motd").read_text() == "Version 1.1 is ready: it runs after the next reboot.\n" + told


def test_the_notice_says_what_the_machine_fell_back_from(tmp_path: Path) -> None:
    bad = replace(deployment("1.1"), health="bad", health_reason="web: no\nanswer")
    found = status(deployment("1.0", "booted", "default"), bad)
    Notices(str(tmp_path)).show(replace(found, fell_back_from=bad.id))
    assert (tmp_path / "motd").read_text() == (
        "Version 1.1 does not work here, so an older one runs: web: no answer\n")


def test_without_a_runtime_directory_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    Notices().show(status(deployment("1.1", "default"), deployment("1.0", "booted")))
