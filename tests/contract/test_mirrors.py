# SPDX-License-Identifier: Apache-2.0
"""A second boot partition, named by the configuration, is kept equal to the first, whoever does the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crash.program import snapshot
from kit.os_images import base_layer, os_image
from kit.world import World


def mirror_of(world: World) -> Path:
    """A directory can play one where nothing runs, if there is something for a boot loader in it."""
    mirror = world.sysroot / "efi2"
    (mirror / "loader/entries").mkdir(parents=True)
    world.config = replace(world.config, boot_mirrors=("/efi2",))
    return mirror


def told(world: World) -> list[str]:
    return [warning for warning in world.host.status().warnings if "boot partition" in warning]


def test_a_second_boot_partition(world: World) -> None:
    mirror = mirror_of(world)
    world.install(os_image("1.0"))
    world.upgrade(os_image("1.1", base=base_layer(kernel=b"kernel two")))
    assert snapshot(mirror) == snapshot(world.esp)
    assert told(world) == []
    world.host.rollback()
    world.host.pin("1.1", label="later")
    assert snapshot(mirror) == snapshot(world.esp)


def test_it_is_missed_and_brought_up_to_date(world: World) -> None:
    mirror = mirror_of(world)
    world.install(os_image("1.0"))
    mirror.rename(world.directory / "away")
    for version in ("1.1", "1.2", "1.3"):
        world.upgrade(os_image(version, base=base_layer(kernel=version.encode())))
    assert told(world) == [f"a boot partition is left out: nothing is mounted at {mirror}"]
    (world.directory / "away").rename(mirror)
    assert told(world) == [f"boot partition {mirror} lacks 2 kernels and 2 boot entries; has old 1 kernel and 1 boot "
                           f"entry, compared with {world.esp}; the next change brings it up to date"]
    world.host.cleanup()
    assert told(world) == []
    assert snapshot(mirror) == snapshot(world.esp)


def test_without_the_first_the_second_does(world: World) -> None:
    mirror = mirror_of(world)
    world.install(os_image("1.0"))
    kept = world.esp.rename(world.directory / "away")
    assert world.upgrade(os_image("1.1")).version == "1.1"
    assert world.host.status().esp == str(mirror)
    kept.rename(world.esp)
    world.host.cleanup()
    assert snapshot(mirror) == snapshot(world.esp)
    assert world.versions() == ["1.1", "1.0"]
