# SPDX-License-Identifier: Apache-2.0
"""From boot to boot: trials, verdicts, fallbacks, and what is told about them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.boot.loader import LoaderVariables
from bootcd.config import Config
from bootcd.errors import NotProven, Refused
from bootcd.ops import collect, compose, health, keep, last, status, update
from bootcd.ops.results import ChangeResult, DeploymentInfo
from ops.test_running import World

COUNTING = LoaderVariables(info="systemd-boot 257")


class Booting(World):
    """A machine with a boot loader, which keeps a counter or does not, and boots that have ids."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boots = 0
        self.loader = COUNTING
        for name in ("bootcd.ops.health", "bootcd.deploy.execute"):
            monkeypatch.setattr(f"{name}.boot_id", lambda: f"boot {self.boots}")
        monkeypatch.setattr(health, "read_variables", lambda: self.loader)
        days = itertools.count(1)
        monkeypatch.setattr(compose, "now", lambda: f"2026-01-{next(days):02}T00:00:00+00:00")
        super().__init__(path)

    def reboot(self, version: str | None = None) -> None:
        """Start what the loader takes first, which counts, or what somebody chooses in the menu."""
        self.boots += 1
        info = next(one for one in self.status().deployments if version in (None, one.version)
                    and (version or "default" in one.roles))
        self.machine.runs.append(info.id)
        if self.loader is COUNTING:
            for entry in (self.path / "esp/loader/entries").glob(f"*-{info.id[:12]}+*.conf"):
                stem, _, counter = entry.name.removesuffix(".conf").partition("+")
                left, _, done = counter.partition("-")
                entry.rename(entry.with_name(f"{stem}+{max(int(left) - 1, 0)}-{int(done or 0) + 1}.conf"))

    def boot(self, version: str | None = None) -> ChangeResult:
        """Boot as far as the first unit of ours."""
        self.reboot(version)
        return health.boot_started(self.machine)

    def bring(self, version: str) -> None:
        self.upgrade(version)
        update.finalize(self.machine)

    def fail(self, reason: str = "web: no answer") -> str:
        return health.boot_failed(self.machine, reason, "test").outcome

    def configure(self, **settings: object) -> None:
        self.machine = replace(self.machine, config=Config(**settings))  # type: ignore[arg-type]

    def running(self) -> str:
        return next(info.version for info in self.status().deployments if "booted" in info.roles)

    def info(self, version: str) -> DeploymentInfo:
        return next(info for info in self.status().deployments if info.version == version)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Booting:
    """1.0 is good, 1.1 is the default and has not been booted."""
    world = Booting(tmp_path, monkeypatch)
    health.boot_complete(world.machine)
    world.bring("1.1")
    return world


@pytest.mark.parametrize("counts", [True, False], ids=["the loader counts", "nobody else counts"])
def test_a_version_whose_checks_fail_falls_back_after_its_tries(world: Booting, counts: bool) -> None:
    world.loader = COUNTING if counts else LoaderVariables()
    for number in (1, 2):
        world.boot()
        assert world.running() == "1.1"
        assert world.fail() == "reboot"
        assert world.info("1.1").health == "untried"
        assert world.info("1.1").health_reason == f"try {number} of 3: web: no answer"
    world.boot()
    assert world.fail() == ("reboot" if counts else "rollback")
    said = world.boot()
    assert world.running() == "1.0"
    assert said.message == "The machine runs version 1.0, because version 1.1 is bad: web: no answer."
    assert (world.info("1.1").health, world.info("1.1").health_reason) == ("bad", "web: no answer")
    assert world.status().fell_back_from == world.info("1.1").id
    health.boot_complete(world.machine)
    done = update.upgrade(world.machine, download_only=False, allow_rejected=False)
    assert done.outcome == "rejected"
    assert "web: no answer" in done.message
    world.bring("1.2")
    world.boot()
    health.boot_complete(world.machine)
    assert (world.running(), world.status().fell_back_from) == ("1.2", "")


def test_a_version_that_never_gets_as_far_as_a_unit(world: Booting) -> None:
    for _ in range(3):
        world.reboot()
    world.boot()
    assert world.running() == "1.0"
    assert (world.info("1.1").health, world.info("1.1").health_reason) == ("bad", "its boot attempts are used up")


def test_a_version_that_hangs_is_counted(world: Booting) -> None:
    for _ in range(3):
        world.boot()
        health.boot_started(world.machine)  # twice in one boot is one boot
    world.boot()
    assert world.info("1.1").health_reason == "it was started 3 times, and no boot completed"


def test_a_fallback_without_a_loader_that_counts(world: Booting) -> None:
    world.loader = LoaderVariables()
    world.boot("1.0")
    assert (world.info("1.1").health, world.info("1.1").health_reason) == ("bad", "the boot loader fell back from it")


def test_who_chooses_an_older_one_in_the_menu_condemns_nothing(world: Booting) -> None:
    world.boot("1.0")
    assert world.info("1.1").health == "untried", "the loader counts, and would have taken it"
    world.boot("1.1")
    health.boot_complete(world.machine)
    world.loader = LoaderVariables()
    world.boot("1.0")
    assert world.info("1.1").health == "good", "it had been good before"
    assert world.status().fell_back_from == ""


def test_what_was_promoted_in_this_boot_had_no_chance_yet(world: Booting) -> None:
    world.loader = LoaderVariables()
    for _ in range(2):
        health.boot_started(world.machine)  # 1.0 still runs
    assert world.info("1.1").health == "untried"


def test_a_good_deployment_stays_whatever_fails_later(world: Booting) -> None:
    world.boot()
    health.boot_complete(world.machine)
    world.boot()
    assert world.fail() == "stay"
    assert world.info("1.1").health == "good"
    found = status.status(world.machine).last
    assert found is not None
    assert (found.verb, found.state, found.error) == ("boot", "failed", "org.bootcd1.Error.Unhealthy")
    assert "web: no answer" in found.message
    world.boot()
    health.boot_complete(world.machine)
    found = last.load_last(world.machine)
    assert found is not None
    assert (found.verb, found.state) == ("boot", "succeeded")


def test_a_loader_that_starts_the_bad_one_again_does_not_make_it_reboot_for_ever(world: Booting) -> None:
    outcomes = []
    for _ in range(5):
        world.boot("1.1")
        outcomes.append(world.fail())
    assert outcomes == ["reboot", "reboot", "reboot", "stay", "stay"]


def test_at_once(world: Booting) -> None:
    world.configure(health_on_failure="rollback")
    world.boot()
    assert world.fail() == "rollback"
    assert world.fail() == "reboot", "again, because something held the reboot back"
    world.boot()
    assert world.running() == "1.0"
    world.configure(health_on_failure="stay")
    assert world.fail() == "stay"


def test_the_first_deployment_has_nothing_to_fall_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Booting(tmp_path, monkeypatch)
    world.boot()
    assert world.fail() == "stay"
    assert world.info("1.0").health == "bad"
    assert world.upgrade("1.1") == "staged", "which is the way out"
    world.boot()
    health.boot_complete(world.machine)
    assert world.info("1.0").health == "good"


def test_a_bad_deployment_that_is_gone_back_to_starts_anew(world: Booting) -> None:
    world.configure(health_on_failure="rollback")
    world.boot()
    world.fail()
    world.boot()
    keep.rollback(world.machine, "1.1")
    assert (world.info("1.1").health, world.info("1.1").health_reason) == ("untried", "")
    world.boot()
    assert world.running() == "1.1"
    assert health.boot_complete(world.machine).outcome == "good"


def test_nothing_is_staged_before_the_boot_is_complete(world: Booting) -> None:
    world.boot()
    world.publish("1.2")
    layout = f"oci:{world.path}/layout:latest"
    with pytest.raises(NotProven, match="is not complete yet"):
        update.upgrade(world.machine, download_only=False, allow_rejected=False)
    with pytest.raises(NotProven):
        update.switch(world.machine, layout, download_only=False)
    assert update.upgrade(world.machine, download_only=True, allow_rejected=False).outcome == "staged"
    keep.unstage(world.machine)
    assert update.switch(world.machine, layout, download_only=False, allow_untried=True).outcome == "staged"
    keep.unstage(world.machine)
    world.configure(health_upgrade_untried=True)
    assert update.upgrade(world.machine, download_only=False, allow_rejected=False).outcome == "staged"
    keep.unstage(world.machine)
    world.configure()
    health.boot_complete(world.machine)
    assert update.upgrade(world.machine, download_only=False, allow_rejected=False).outcome == "staged"


def test_the_last_good_one_is_kept_while_the_running_one_is_not(world: Booting) -> None:
    world.configure(keep_previous=0, health_upgrade_untried=True)
    world.boot()
    world.bring("1.2")
    collect.cleanup(world.machine, dry_run=False)
    assert sorted(world.roles()) == ["1.0", "1.1", "1.2"]
    health.boot_complete(world.machine)
    collect.cleanup(world.machine, dry_run=False)
    assert sorted(world.roles()) == ["1.1", "1.2"]


def test_nothing_is_judged_where_nothing_runs(world: Booting) -> None:
    world.machine.runs.clear()
    for verb in (health.boot_started, health.boot_complete, lambda machine: health.boot_failed(machine, "", "")):
        with pytest.raises(Refused, match=r"no deployment of .* is running"):
            verb(world.machine)
