# SPDX-License-Identifier: Apache-2.0
"""A machine that runs: changes are staged, and made at shutdown, when late edits of /etc are taken along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import BootcdError, Busy, DeploymentNotFound, EtcConflict, NothingStaged, Refused, UsageError
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import collect, health, keep, last, status, update
from bootcd.ops.machine import Machine
from bootcd.ops.results import DeploymentInfo, Status
from kit.os_images import os_image


@dataclass(frozen=True)
class Running(Machine):
    """A machine that says what it runs from."""

    runs: list[str] = field(default_factory=list)

    def booted(self) -> str | None:
        return self.runs[-1] if self.runs else None


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = Running(Sysroot(path / "sysroot"), path / "esp", Config(), SilentProgress())
        self.publish("1.0")
        update.install(self.machine, f"oci:{path}/layout:latest", ())
        self.reboot()

    def publish(self, version: str) -> None:
        os_image(version).write_layout(self.path / "layout", "latest")

    def reboot(self) -> None:
        """Boot what the loader takes first."""
        self.machine.runs.append(next(info.id for info in self.status().deployments if "default" in info.roles))

    def status(self) -> Status:
        return status.status(self.machine)

    def roles(self) -> dict[str, tuple[str, ...]]:
        return {info.version: info.roles for info in self.status().deployments}

    def info(self, role: str) -> DeploymentInfo:
        found = self.status().with_role(role)
        assert found is not None
        return found

    def upgrade(self, version: str) -> str:
        self.publish(version)
        return update.upgrade(self.machine, download_only=False, allow_rejected=False).outcome

    def etc(self, version: str) -> Path:
        found = next(info.id for info in self.status().deployments if info.version == version)
        return self.path / "sysroot/state/deploy" / found / "etc"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_upgrade_waits_for_the_shutdown(world: World) -> None:
    assert world.upgrade("1.1") == "staged"
    assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    (world.etc("1.0") / "late").write_text("edited after staging\n")
    assert update.finalize(world.machine).outcome == "deployed"
    assert world.roles() == {"1.1": ("default",), "1.0": ("booted", "rollback")}
    assert (world.etc("1.1") / "late").read_text() == "edited after staging\n"
    world.reboot()
    assert world.roles() == {"1.1": ("booted", "default"), "1.0": ("rollback",)}
    with pytest.raises(NothingStaged):
        update.finalize(world.machine)


def test_a_conflict_after_staging_leaves_the_old_deployment_in_charge(world: World) -> None:
    assert world.upgrade("1.1") == "staged"
    etc = world.etc("1.0")
    (etc / "version.conf").write_text("edited after staging\n")
    (etc / "bootcd/etc-rules.d").mkdir(parents=True)
    rules = etc / "bootcd/etc-rules.d/late.toml"
    rules.write_text('[[rule]]\npaths = ["/etc/version.conf"]\nmerge = "fail"\n')
    with pytest.raises(EtcConflict, match=r"'version\.conf' was changed here"):
        update.finalize(world.machine)
    assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    assert (world.etc("1.1") / "version.conf").read_text() == "version = 1.1\n", "as it was staged"
    rules.write_text(rules.read_text().replace("fail", "both"))
    assert update.finalize(world.machine).outcome == "deployed"
    assert (world.etc("1.1") / "version.conf").read_text() == "edited after staging\n"
    assert (world.etc("1.1") / "version.conf.bootcd.rpmnew").read_text() == "version = 1.1\n"
    (decision,) = world.status().deployments[0].etc.decisions
    assert decision.taken == "both"


def test_what_runs_is_never_collected(world: World) -> None:
    for version in ("1.1", "1.2", "1.3"):
        world.upgrade(version)
        update.finalize(world.machine)
    assert "booted" in world.roles()["1.0"]
    collect.cleanup(replace(world.machine, config=Config(keep_previous=0)), dry_run=False)
    assert sorted(world.roles()) == ["1.0", "1.3"]
    assert world.etc("1.0").is_dir()


def test_a_rollback_before_the_reboot_stays_with_what_runs(world: World) -> None:
    world.upgrade("1.1")
    update.finalize(world.machine)
    keep.rollback(world.machine, None)
    assert world.roles() == {"1.0": ("booted", "default"), "1.1": ("rollback",)}


def test_unstage_on_a_running_machine(world: World) -> None:
    world.upgrade("1.1")
    assert keep.unstage(world.machine).outcome == "unstaged"
    assert list(world.roles()) == ["1.0"]


def test_after_a_fallback_the_booted_deployment_is_where_changes_start(world: World) -> None:
    world.upgrade("1.1")
    update.finalize(world.machine)
    (world.etc("1.0") / "local").write_text("of 1.0")
    world.upgrade("1.2")  # 1.0 still runs
    update.finalize(world.machine)
    assert (world.etc("1.2") / "local").read_text() == "of 1.0"


def test_a_booted_deployment_that_nobody_knows(world: World) -> None:
    world.machine.runs.append("f" * 128)
    assert world.roles() == {"1.0": ("default",)}
    assert any("has no record" in warning for warning in world.status().warnings)
    with pytest.raises(Refused, match="has no record"):
        world.upgrade("1.1")
    with pytest.raises(Refused, match="nothing is collected"):
        collect.cleanup(world.machine, dry_run=False)
    with pytest.raises(DeploymentNotFound):
        keep.pin(world.machine, "booted", "")


def test_a_deployment_that_did_not_boot_is_not_taken_again(world: World) -> None:
    """The loader has fallen back; the next run of a timer must not lead to the same image again, now for good."""
    world.upgrade("1.1")
    update.finalize(world.machine)
    (counted,) = (world.path / "esp/loader/entries").glob("*+3.conf")
    counted.rename(counted.with_name(counted.name.replace("+3", "+0-3")))
    world.reboot()

    assert world.roles() == {"1.0": ("booted", "default"), "1.1": ()}
    assert "did not boot" in update.check(world.machine).rejected
    assert world.upgrade("1.1") == "rejected"
    assert update.upgrade(world.machine, download_only=False, allow_rejected=True).outcome == "deployed"
    assert list((world.path / "esp/loader/entries").glob("*+3.conf")), "it counts its boots anew"


def test_a_rollback_is_not_undone_at_shutdown(world: World) -> None:
    world.upgrade("1.1")
    update.finalize(world.machine)
    world.reboot()
    world.upgrade("1.2")
    message = keep.rollback(world.machine, "1.0").message
    assert "stays staged" in message
    assert update.finalize(world.machine).outcome == "unchanged"
    world.reboot()
    assert "booted" in world.roles()["1.0"]


def test_switching_to_the_running_image_drops_what_was_staged(world: World) -> None:
    world.upgrade("1.1")
    os_image("1.0").write_layout(world.path / "layout", "stable")
    update.switch(world.machine, f"oci:{world.path}/layout:stable", download_only=False)
    assert world.roles() == {"1.0": ("booted", "default")}
    assert world.status().deployments[0].image.endswith(":stable")


def test_a_staged_deployment_cannot_be_pinned(world: World) -> None:
    world.upgrade("1.1")
    with pytest.raises(Refused, match="only staged"):
        keep.pin(world.machine, "staged", "mine")


def test_a_note_of_the_generation_that_failed_costs_nothing(world: World) -> None:
    """Finalizing stopped between the entry and the record: the entry counts."""
    world.upgrade("1.1")
    update.finalize(world.machine)
    world.reboot()
    record = world.machine.sysroot.records / f"{world.machine.runs[-1]}.json"
    record.write_text(record.read_text().replace('"generation": 2', '"generation": null'))
    assert world.roles()["1.1"] == ("booted", "default")
    world.upgrade("1.2")
    update.finalize(world.machine)
    assert world.etc("1.1").is_dir()
    assert world.roles() == {"1.2": ("default",), "1.1": ("booted", "rollback"), "1.0": ()}


def test_a_boot_that_completes_makes_the_deployment_good(world: World) -> None:
    done = health.boot_complete(world.machine)
    assert done.outcome == "good"
    assert done.deployment is not None
    assert (done.deployment.version, done.deployment.health) == ("1.0", "good")
    assert done.deployment.health_reason.startswith("its boot completed at 20")
    assert health.boot_complete(world.machine).outcome == "unchanged"


def test_a_boot_that_completes_is_not_counted_any_more(world: World) -> None:
    """systemd-bless-boot does the same, but is not installed everywhere; then every boot would use up a try."""
    world.upgrade("1.1")
    update.finalize(world.machine)
    (counted,) = (world.path / "esp/loader/entries").glob("*+3.conf")
    counted.rename(counted.with_name(counted.name.replace("+3", "+2-1")))  # the loader, when it starts it
    world.reboot()
    assert health.boot_complete(world.machine).outcome == "good"
    names = {path.name for path in counted.parent.iterdir()}
    assert counted.name.replace("+3", "") in names
    assert not [name for name in names if "+" in name]
    assert world.roles() == {"1.1": ("booted", "default"), "1.0": ("rollback",)}


def test_nothing_is_good_where_nothing_runs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.machine.runs.clear()
    with pytest.raises(Refused, match=r"no deployment of .* is running"):
        health.boot_complete(world.machine)


def test_who_only_downloads_undoes_nothing(world: World) -> None:
    """The right to download is given away more freely than that to decide what boots."""
    world.upgrade("1.1")
    for version in ("2.0", "1.0"):
        world.publish(version)
        done = update.upgrade(world.machine, download_only=True, allow_rejected=False)
        assert done.outcome == "unchanged"
        assert "only 'bootcctl upgrade' replaces it" in done.message
        assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    with pytest.raises(UsageError, match="only downloaded"):
        update.upgrade(world.machine, download_only=True, allow_rejected=True)


# --- a finalize that fails ------------------------------------------------------------------------------------------


def _fail_rule(world: World) -> None:
    etc = world.etc("1.0")
    (etc / "version.conf").write_text("edited after staging\n")
    (etc / "bootcd/etc-rules.d").mkdir(parents=True)
    (etc / "bootcd/etc-rules.d/late.toml").write_text('[[rule]]\npaths = ["/etc/version.conf"]\nmerge = "fail"\n')


def _no_rule(world: World) -> None:
    (world.etc("1.0") / "bootcd/etc-rules.d/late.toml").unlink()


def _move(there: str, away: str) -> Callable[[World], object]:
    return lambda world: (world.path / there).rename(world.path / away)


@pytest.mark.parametrize(("spoil", "mend", "error"), [
    (_fail_rule, _no_rule, "EtcConflict"),
    (_move("esp", "yanked"), _move("yanked", "esp"), "NotFound"),
    (_move("esp/EFI/bootcd", "kernels"), _move("kernels", "esp/EFI/bootcd"), "Refused"),
], ids=["a conflict in /etc", "no boot partition", "no kernel"])
def test_a_finalize_that_fails_is_remembered_and_the_next_one_completes(
    world: World, spoil: Callable[[World], object], mend: Callable[[World], object], error: str
) -> None:
    """As bootcd-finalize-staged.service does it at one shutdown and at the next."""
    def shut_down() -> None:
        last.recorded(world.machine, "finalize", "test", lambda: update.finalize(world.machine))

    assert world.upgrade("1.1") == "staged"
    spoil(world)
    with pytest.raises(BootcdError):
        shut_down()
    found = last.load_last(world.machine)
    assert found is not None
    assert (found.verb, found.state, found.error) == ("finalize", "failed", f"org.bootcd1.Error.{error}")
    mend(world)
    assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    assert world.status().last == found
    shut_down()
    assert world.roles() == {"1.1": ("default",), "1.0": ("booted", "rollback")}
    found = last.load_last(world.machine)
    assert found is not None
    assert found.state == "succeeded"


def test_a_finalize_that_meets_another_operation_is_remembered(world: World) -> None:
    assert world.upgrade("1.1") == "staged"
    with world.machine.lock(), pytest.raises(Busy):
        last.recorded(world.machine, "finalize", "test", lambda: update.finalize(world.machine))
    found = last.load_last(world.machine)
    assert found is not None
    assert (found.verb, found.error) == ("finalize", "org.bootcd1.Error.Busy")


def test_that_nothing_was_staged_is_no_news(world: World) -> None:
    with pytest.raises(NothingStaged):
        last.recorded(world.machine, "finalize", "test", lambda: update.finalize(world.machine))
    assert last.load_last(world.machine) is None


def test_what_was_staged_outlives_a_power_cut(world: World) -> None:
    """The machine comes up with what it ran before, and the next shutdown finalizes."""
    assert world.upgrade("1.1") == "staged"
    world.reboot()
    assert world.roles() == {"1.1": ("staged",), "1.0": ("booted", "default")}
    assert update.finalize(world.machine).outcome == "deployed"
