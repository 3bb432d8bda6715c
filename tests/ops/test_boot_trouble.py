# SPDX-License-Identifier: Apache-2.0
"""The boot partition fails in the middle of an upgrade: a clear error, nothing is lost, and the next run completes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, EspFull, NotFound, ReadOnly
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from crash.program import snapshot
from kit import partitions
from kit.os_images import base_layer, os_image
from kit.world import World

KERNEL = os.urandom(300_000)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """1.0 is installed on a boot partition of its own, beside files of another system; 1.1 has another kernel."""
    with partitions.partition(tmp_path / "esp"):
        made = World(tmp_path, lambda w: DirectHost(w.sysroot, w.esp, w.config, SilentProgress()), tmp_path)
        for name in ("loader/entries/other.conf", "EFI/other/vmlinuz"):
            (made.esp / name).parent.mkdir(parents=True, exist_ok=True)
            (made.esp / name).write_bytes(b"title Other\n")
        subprocess.run(["sync", "--file-system", made.esp], check=True)
        made.install(os_image("1.0"))
        made.publish(os_image("1.1", base=base_layer(kernel=KERNEL)))
        yield made


def upgrade_fails(world: World, step: str, act: Callable[[], None], error: type[BootcdError], times: int = 1
                  ) -> BootcdError:
    with partitions.at_step(step, act, times) as seen, pytest.raises(error) as raised:
        world.host.upgrade()
    assert seen.count(step) >= times, seen
    assert raised.type is error, raised.value
    assert str(world.esp) in str(raised.value)
    return raised.value


def completes(world: World) -> None:
    """What was there is there, nothing is left over, and the same command does its work."""
    before = world.host.status()
    assert [info.version for info in before.deployments if "default" in info.roles] == ["1.0"]
    assert world.host.upgrade().outcome == "deployed"
    assert world.versions() == ["1.1", "1.0"]
    assert world.host.fsck().ok
    assert len(world.kernels()) == 2
    assert not [path for path in snapshot(world.esp) if ".bootcd-" in path]
    assert (world.esp / "loader/entries/other.conf").read_bytes() == b"title Other\n"
    assert (world.esp / "EFI/other/vmlinuz").read_bytes() == b"title Other\n"


COPYING = [
    pytest.param("esp-temporary-made", 1, id="before-a-byte-is-written"),
    pytest.param("esp-before-fsync", 1, id="when-the-kernel-is-written"),
    pytest.param("esp-before-rename", 2, id="before-the-initrd-gets-its-name"),
    pytest.param("esp-after-sync", 1, id="between-kernel-and-initrd"),
    pytest.param("before-write-entry", 1, id="before-the-entry"),
    pytest.param("esp-before-rename", 3, id="before-the-entry-gets-its-name"),
]


@pytest.mark.parametrize(("step", "times"), COPYING)
def test_yanked(world: World, step: str, times: int) -> None:
    device = partitions.device_of(world.esp)
    error = upgrade_fails(world, step, lambda: partitions.yank(world.esp), NotFound, times)
    assert "is not mounted at" in str(error)
    assert not any(world.esp.iterdir()), "nothing is written to what is below the mount point"
    assert world.host.status().warnings
    partitions.mount(device, world.esp)
    completes(world)


@pytest.mark.parametrize(("step", "times"), COPYING[3:5])
def test_remounted_read_only(world: World, step: str, times: int) -> None:
    error = upgrade_fails(world, step, lambda: partitions.remount(world.esp, "ro"), ReadOnly, times)
    assert error.exit_status == 12
    with pytest.raises(ReadOnly, match="mounted read-only") as again:
        world.host.upgrade()
    assert "Mount it writable" in again.value.hint
    partitions.remount(world.esp, "rw")
    completes(world)


@pytest.mark.parametrize(("step", "times"), COPYING)
def test_a_device_that_does_not_answer(world: World, step: str, times: int) -> None:
    with partitions.at_step(step, lambda: partitions.break_down(world.esp), times), pytest.raises(
            BootcdError, match=r"esp.*(Input/output error|Read-only file system|mounted read-only)"):
        world.host.upgrade()
    partitions.mend(world.esp)
    completes(world)


@pytest.mark.parametrize("step", ["esp-temporary-made", "esp-after-sync"])
def test_somebody_else_fills_it(world: World, step: str) -> None:
    filler = world.esp / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(512)):
                pass

    error = upgrade_fails(world, step, fill, EspFull)
    assert error.exit_status == 8
    assert world.versions() == ["1.0"]
    filler.unlink()
    completes(world)


def test_read_only_from_the_start(world: World) -> None:
    partitions.remount(world.esp, "ro")
    before = snapshot(world.sysroot / "state/deploy"), snapshot(world.esp)
    for change in (world.host.upgrade, lambda: world.host.pin("default"), world.host.cleanup):
        with pytest.raises(ReadOnly, match=str(world.esp)):
            change()
    assert world.host.status().deployments
    assert (snapshot(world.sysroot / "state/deploy"), snapshot(world.esp)) == before
    partitions.remount(world.esp, "rw")
    completes(world)
