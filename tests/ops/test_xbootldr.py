# SPDX-License-Identifier: Apache-2.0
"""XBOOTLDR beside an ESP: kernels, UKIs and entries go there; the boot loader and its settings stay on the ESP."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.boot import partitions as places
from bootcd.formats.bls import BootEntry
from bootcd.linux import partition
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from crash.program import snapshot
from kit import partitions
from kit.images import Dir, File, ImageBuilder
from kit.os_images import base_layer, os_image
from kit.pefiles import make_pe
from kit.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A machine with both partitions, mounted below its sysroot; which is which, udev tells."""
    monkeypatch.setattr(places, "READABLE", frozenset({partitions.kind()}))
    monkeypatch.setattr(partition, "UDEV", str(tmp_path / "udev"))
    (tmp_path / "udev").mkdir()
    with contextlib.ExitStack() as stack:
        for name in ("efi", "boot"):
            stack.enter_context(partitions.partition(tmp_path / "sysroot" / name))
        number = os.stat(tmp_path / "sysroot/boot").st_dev
        (tmp_path / f"udev/b{os.major(number)}:{os.minor(number)}").write_text(
            f"E:ID_PART_ENTRY_TYPE={places.XBOOTLDR_TYPE}\n")
        yield World(tmp_path, lambda w: DirectHost(w.sysroot, None, w.config, SilentProgress()), tmp_path)


def content(world: World, name: str) -> set[str]:
    return {path for path in snapshot(world.sysroot / name) if (world.sysroot / name / path).is_file()}


def entry(world: World, generation: int) -> BootEntry:
    (path,) = (world.sysroot / "boot/loader/entries").glob(f"bootcd-{generation:010}-*.conf")
    return BootEntry.parse(path.read_bytes())


def with_uki(version: str, digest: str) -> ImageBuilder:
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd",
                   ".cmdline": f"composefs.digest=?v1-sha512-12:{digest} quiet".encode()})
    return os_image(version, [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki)])


def test_a_kernel_goes_to_xbootldr_and_the_loader_to_the_esp(world: World) -> None:
    deployment = world.install(os_image("1.0"))
    digest = deployment.boot_digest
    assert content(world, "efi") == {f"EFI/BOOT/BOOT{name}.EFI" for name in ("X64", "AA64")} | {
        f"EFI/systemd/systemd-boot{name}.efi" for name in ("x64", "aa64")}
    assert content(world, "boot") == {
        "loader/entries.srel", f"loader/entries/bootcd-0000000001-{deployment.id[:12]}.conf",
        f"EFI/bootcd/{digest}/vmlinuz", f"EFI/bootcd/{digest}/initrd"}
    for path in entry(world, 1).files:
        assert (world.sysroot / "boot" / path).is_file(), "a path is relative to the partition that holds the entry"
    status = world.host.status()
    assert status.esp == str(world.sysroot / "boot")
    assert not any("boot" in warning for warning in status.warnings)


def test_a_uki_goes_there_too(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(with_uki("1.1", "0" * 128))
    digest = world.host.image_pull(world.image, name="probe", bootable=True).image.boot_id
    world.upgrade(with_uki("1.1", digest))
    assert (world.sysroot / f"boot/EFI/bootcd/{digest}.efi").is_file()
    assert entry(world, 2).loader == f"EFI/bootcd/{digest}.efi"
    assert not any(digest in path for path in content(world, "efi"))


def test_upgrades_and_cleanups_leave_the_esp_alone(world: World) -> None:
    world.install(os_image("1.0"))
    for name in ("loader/entries/other.conf", "EFI/Linux/other.efi", "EFI/Microsoft/Boot/bootmgfw.efi"):
        for esp in ("efi", "boot"):
            (world.sysroot / esp / name).parent.mkdir(parents=True, exist_ok=True)
            (world.sysroot / esp / name).write_text("title Other\n")
    before = snapshot(world.sysroot / "efi")
    for version in ("1.1", "1.2"):
        world.upgrade(os_image(version, base=base_layer(kernel=version.encode())))
    world.host.rollback()
    world.host.cleanup()
    assert world.host.fsck(repair=True).ok
    assert snapshot(world.sysroot / "efi") == before
    assert (world.sysroot / "boot/loader/entries/other.conf").read_text() == "title Other\n"


def test_what_overrides_the_order_is_read_from_the_esp(world: World) -> None:
    """systemd-boot reads loader.conf nowhere else."""
    world.install(os_image("1.0"))
    (world.sysroot / "boot/loader/loader.conf").write_text("default never.conf\n")
    assert not any("never.conf" in warning for warning in world.host.status().warnings)
    (world.sysroot / "efi/loader").mkdir()
    (world.sysroot / "efi/loader/loader.conf").write_text("default always.conf\n")
    assert any("always.conf" in warning for warning in world.host.status().warnings)
    assert "overrides" in {reason.verdict for reason in world.host.explain("default").reasons}


def test_a_full_esp_is_no_obstacle(world: World) -> None:
    world.install(os_image("1.0"))
    with (world.sysroot / "efi/filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert world.upgrade(os_image("1.1", base=base_layer(kernel=os.urandom(200_000)))).version == "1.1"
