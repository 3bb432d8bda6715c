# SPDX-License-Identifier: Apache-2.0
"""The fingerprint changes with the installation, and with nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bootcd.boot.loader import EFIVARS
from bootcd.layout import Sysroot
from bootcd.linux.files import atomic_write
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.fingerprint import Fingerprint, fingerprint, watched
from bootcd.ops.machine import Machine
from kit.os_images import os_image
from kit.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, lambda w: DirectHost(w.sysroot, w.esp, w.config, SilentProgress()), tmp_path)


def machine(world: World) -> Machine:
    return Machine(Sysroot(world.sysroot), world.esp, world.config, SilentProgress())


def now(world: World) -> Fingerprint:
    return fingerprint(machine(world))


def test_another_choice_of_the_boot_loader_makes_another_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bootcd.ops.fingerprint.EFIVARS", str(tmp_path / "efivars"))
    world.install(os_image("1.0"))
    before = now(world)
    variable = tmp_path / "efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    variable.parent.mkdir()
    variable.write_bytes(b"\7\0\0\0" + "one.conf\0".encode("utf-16-le"))
    assert now(world) != before


def test_every_change_makes_another_one(world: World) -> None:
    seen = [now(world)]

    def changed(what: str) -> None:
        seen.append(now(world))
        assert seen.count(seen[-1]) == 1, what

    world.install(os_image("1.0"))
    changed("install")
    world.upgrade(os_image("1.1"))
    changed("upgrade")
    world.publish(os_image("1.2"))
    world.host.check()
    changed("check")
    world.host.pin("default", "good")
    changed("pin")
    world.host.unpin("default")
    changed("unpin")
    world.host.rollback()
    changed("rollback")
    world.host.image_pull(world.image, name="other")
    changed("image pull")
    world.host.image_remove("other")
    changed("image remove")
    world.host.cleanup()
    changed("cleanup")


def test_reading_changes_nothing(world: World) -> None:
    world.install(os_image("1.0"))
    before = now(world)
    world.host.status()
    world.host.image_list()
    world.host.fsck()
    world.host.cleanup(dry_run=True)
    (world.sysroot / "state/bootcd/deployments/.x.json.0123456789ab").touch()
    (world.sysroot / "state/bootcd/deployments/.x.json.0123456789ab").unlink()
    assert [item for item in now(world) if not str(item[0]).endswith("/deployments")] == [
        item for item in before if not str(item[0]).endswith("/deployments")]


def test_a_boot_that_the_loader_counted_shows(world: World) -> None:
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1"))
    before = now(world)
    entries = world.esp / "loader/entries"
    counted = next(path for path in entries.iterdir() if "+3" in path.name)
    os.rename(counted, counted.with_name(counted.name.replace("+3", "+2-1")))
    assert now(world) != before


def test_a_record_that_another_process_rewrote_shows(world: World) -> None:
    world.install(os_image("1.0"))
    before = now(world)
    record = next((world.sysroot / "state/bootcd/deployments").glob("*.json"))
    atomic_write(record, record.read_bytes())
    assert now(world) != before


def test_what_is_not_there_is_no_error(world: World) -> None:
    assert now(world) == now(world)
    assert json.loads(json.dumps(now(world))) == now(world)
    unknown = Machine(Sysroot(world.sysroot), None, world.config, SilentProgress())
    assert fingerprint(unknown) == fingerprint(unknown)
    assert watched(unknown)


def test_files_that_ask_for_kernel_arguments(world: World) -> None:
    directory = world.etc(world.install(os_image("1.0"))) / "bootcd/kargs.d"
    before = now(world)
    directory.mkdir(parents=True)
    assert directory in watched(machine(world))
    there = now(world)
    (directory / "a.toml").write_text("")
    assert len({json.dumps(one) for one in (before, there, now(world))}) == 3


def test_what_changes_lies_in_what_is_watched(world: World) -> None:
    world.install(os_image("1.0"))
    directories = set(watched(machine(world)))
    assert all(directory.is_dir() for directory in directories - {Path(EFIVARS)}), "which not every machine has"
    for path, *_ in now(world):
        assert Path(str(path)) in directories or Path(str(path)).parent in directories, path
