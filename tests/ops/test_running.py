# SPDX-License-Identifier: Apache-2.0
"""A machine that runs: changes are staged, and made at shutdown, when late edits of /etc are taken along."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import DeploymentNotFound, NothingStaged
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import collect, keep, status, update
from bootcd.ops.machine import Machine
from bootcd.ops.results import Status
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
    assert world.upgrade("1.1") == "staged"
    with pytest.raises(DeploymentNotFound):
        keep.pin(world.machine, "booted", "")
