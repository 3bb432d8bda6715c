# SPDX-License-Identifier: Apache-2.0
"""What is news: told once, over any number of statuses and daemons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import RecordError
from bootcd.layout import Sysroot
from bootcd.ops.last import load_told, save_told
from bootcd.ops.news import Notice, Told, news
from bootcd.ops.results import CheckResult, DeploymentInfo, EtcChanges, LastResult, Status

IMAGE = "quay.io/example/os:1"


def deployment(version: str, *roles: str, staged: str = "", download_only: bool = False) -> DeploymentInfo:
    return DeploymentInfo(
        id=version.replace(".", "") * 32, roles=roles, image=IMAGE, version=version, title="",
        manifest_digest=f"sha256:{version}", created="", staged=staged, generation=1, pins=(), health="untried",
        health_reason="", boot_type="bls", boot_digest="", kernel_version="", options="", verification="",
        etc=EtcChanges(), download_only=download_only)


OLD = deployment("1.0", "booted", "default")
NEW = deployment("1.1", "staged", staged="2026-01-01T00:00:00+00:00")
SETTLED = Status("/sysroot", "/efi", (OLD,), None, "", ())
STAGED = replace(SETTLED, deployments=(NEW, OLD))
OFFERED = replace(SETTLED, update=CheckResult(IMAGE, True, "sha256:1.1", version="1.1", current_version="1.0",
                                              download_size=7), update_time="2026-01-01T00:00:00+00:00")
BOOTED = replace(SETTLED, deployments=(deployment("1.1", "booted", "default"), deployment("1.0", "rollback")))
BAD = replace(deployment("1.1"), health="bad", health_reason="web: no answer")
FELL_BACK = replace(SETTLED, deployments=(OLD, BAD), fell_back_from=BAD.id)


class Owner:
    """Who is told; what was told before is kept as it would be between daemons."""

    def __init__(self, told: Told | None = None) -> None:
        self.told = told

    def hears(self, status: Status) -> list[str]:
        return [notice.kind for notice in self.listens(status)]

    def listens(self, status: Status) -> tuple[Notice, ...]:
        notices, self.told = news(self.told, status)
        assert news(self.told, status)[0] == (), "the same status is told twice"
        return notices


@pytest.fixture
def owner() -> Owner:
    owner = Owner()
    assert owner.hears(SETTLED) == [], "what was there before anybody looked is no news"
    return owner


def failed(verb: str, message: str, state: str = "failed", ended: str = "2026-01-01T00:00:00+00:00") -> Status:
    return replace(SETTLED, last=LastResult(verb, state, "org.bootcd1.Error.RootFull", message, "Free some.", "", ended,
                                            "timer"))


def test_an_update_from_the_check_to_the_reboot(owner: Owner) -> None:
    (notice,) = owner.listens(OFFERED)
    assert notice == Notice("update-available", f"An update is available: 1.1 of {IMAGE}.", {
        "image": IMAGE, "image-version": "1.1", "image-digest": "sha256:1.1", "running-version": "1.0",
        "download-size": "7"})
    (notice,) = owner.listens(STAGED)
    assert notice == Notice("staged", f"What is staged runs after the next reboot: version 1.1 of {IMAGE}.", {
        "deployment": NEW.id, "image": IMAGE, "image-version": "1.1", "image-digest": "sha256:1.1",
        "download-only": "false"})
    (notice,) = owner.listens(BOOTED)
    assert notice == Notice("applied", f"The machine runs version 1.1 of {IMAGE} now.", {
        "deployment": NEW.id, "image": IMAGE, "image-version": "1.1", "image-digest": "sha256:1.1",
        "previous": OLD.id})
    assert owner.hears(SETTLED) == ["applied"], "going back is as much of a change"


def test_an_image_is_offered_once(owner: Owner) -> None:
    assert owner.hears(OFFERED) == ["update-available"]
    assert owner.hears(STAGED) == ["staged"]
    assert owner.hears(OFFERED) == [], "it was unstaged"
    assert OFFERED.update is not None
    rejected = replace(OFFERED.update, manifest_digest="sha256:1.2", rejected="it did not boot here")
    assert owner.hears(replace(OFFERED, update=rejected)) == []
    assert owner.hears(replace(OFFERED, update=replace(rejected, rejected=""))) == ["update-available"]


def test_what_was_downloaded_is_told_again_when_it_may_boot(owner: Owner) -> None:
    waiting = replace(NEW, download_only=True)
    (notice,) = owner.listens(replace(SETTLED, deployments=(waiting, OLD)))
    assert "waits for an upgrade" in notice.message
    assert notice.facts["download-only"] == "true"
    assert owner.hears(STAGED) == ["staged"]
    assert owner.hears(SETTLED) == []
    assert owner.hears(STAGED) == ["staged"]


@pytest.mark.parametrize("seen_before", [False, True], ids=["never-ran-long-enough", "ran-and-failed"])
def test_a_fallback_is_no_new_version(owner: Owner, seen_before: bool) -> None:
    owner.hears(STAGED)
    if seen_before:
        assert owner.hears(BOOTED) == ["applied"]
    (notice,) = owner.listens(FELL_BACK)
    assert notice == Notice("fell-back", "The machine runs version 1.0, because version 1.1 is bad: web: no answer.", {
        "deployment": NEW.id, "image": IMAGE, "image-version": "1.1", "image-digest": "sha256:1.1",
        "reason": "web: no answer", "running": OLD.id, "running-version": "1.0"})
    assert owner.told is not None
    assert owner.told.fallbacks == 1
    assert owner.hears(SETTLED) == []
    assert owner.hears(FELL_BACK) == ["fell-back"]
    assert owner.told.fallbacks == 2


def test_a_failure_is_told_until_something_succeeds(owner: Owner) -> None:
    (notice,) = owner.listens(failed("upgrade", "/sysroot is full"))
    assert notice == Notice("failed", "The last upgrade failed: /sysroot is full", {
        "verb": "upgrade", "error": "org.bootcd1.Error.RootFull", "advice": "Free some.", "by": "timer",
        "ended": "2026-01-01T00:00:00+00:00"})
    assert owner.hears(failed("upgrade", "/sysroot is full", ended="2026-01-02T00:00:00+00:00")) == []
    assert owner.hears(failed("upgrade", "the ESP is full")) == ["failed"]
    assert owner.hears(failed("upgrade", "", "succeeded")) == []
    assert owner.hears(failed("upgrade", "the ESP is full")) == ["failed"]
    assert owner.hears(failed("upgrade", "", "cancelled")) == []
    assert owner.hears(failed("finalize", "", "cancelled")) == ["failed"], "systemd lost its patience"


def test_how_each_verb_ended_is_kept(owner: Owner) -> None:
    def results() -> list[tuple[str, bool, str]]:
        assert owner.told is not None
        return [(one.verb, one.success, one.time[:10]) for one in owner.told.results]

    owner.hears(failed("upgrade", "no"))
    owner.hears(OFFERED)
    owner.hears(failed("pin", "", "succeeded", "2026-01-03T00:00:00+00:00"))
    assert results() == [("check", True, "2026-01-01"), ("pin", True, "2026-01-03"), ("upgrade", False, "2026-01-01")]
    owner.hears(failed("check", "no network", ended="2026-01-04T00:00:00+00:00"))
    owner.hears(OFFERED)  # and a status that was read before that
    assert results()[0] == ("check", False, "2026-01-04")
    owner.hears(replace(OFFERED, update_time="2026-01-05T00:00:00+00:00"))
    assert results()[0] == ("check", True, "2026-01-05")


def test_a_disk_that_does_not_answer_is_no_news(owner: Owner) -> None:
    owner.hears(FELL_BACK)
    before = owner.told
    assert owner.hears(Status("/sysroot", "", (), None, "", ("the status cannot be read",))) == []
    assert owner.told == before
    assert Owner(None).hears(replace(SETTLED, deployments=())) == []


def test_what_was_told_is_kept_for_the_next_daemon(tmp_path: Path, owner: Owner) -> None:
    sysroot = Sysroot(tmp_path)
    sysroot.own_state.mkdir(parents=True)
    assert load_told(sysroot) is None
    owner.hears(OFFERED)
    owner.hears(failed("upgrade", "no"))
    assert owner.told is not None
    save_told(sysroot, owner.told)
    assert load_told(sysroot) == owner.told
    assert Owner(load_told(sysroot)).hears(BOOTED) == ["applied"]
    sysroot.told.write_text("{")
    with pytest.raises(RecordError, match=r"told\.json: malformed"):
        load_told(sysroot)
