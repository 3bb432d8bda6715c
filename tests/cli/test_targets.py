# SPDX-License-Identifier: Apache-2.0
"""`install to-filesystem` where something is wrong with the target or the image: what it says, and that it can be run
again once that is mended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootcd.boot import partitions
from bootcd.config import Config
from bootcd.errors import AccessError, EspFull, ImageNotFound, NotBootable, RootFull, SourceError, UsageError
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import machine as machine_module
from cli.conftest import IMAGE, Machine
from crash.program import Done
from kit.images import Whiteout
from kit.os_images import KERNEL_VERSION, base_layer, os_image

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
NOT_MOUNTED = "is a directory of the root file system"


def install(machine: Machine, image: str = IMAGE) -> Done:
    return machine("install", "to-filesystem", image)


def works(machine: Machine) -> None:
    done = install(machine)
    assert done.status == 0, done.err
    assert machine.versions() == ["1.0"]
    machine.sound()


@contextmanager
def tmpfs(path: Path, options: str = "rw") -> Iterator[None]:
    path.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize(("image", "status", "words"), [
    ("nonsense", UsageError.exit_status, "names no registry"),
    ("", UsageError.exit_status, "names no registry"),
    ("oci:nowhere", SourceError.exit_status, "there is no directory nowhere"),
    ("oci:layout:other", ImageNotFound.exit_status, "no image named 'other', only: \"latest\""),
])
def test_an_image_that_is_not_there(empty: Machine, image: str, status: int, words: str) -> None:
    done = install(empty, image)
    assert done.status == status
    assert words in done.err
    assert "image list" not in done.err, "that one shows what is in the repository"
    works(empty)


@pytest.mark.parametrize(("gone", "words"), [
    (f"usr/lib/modules/{KERNEL_VERSION}/vmlinuz", "neither a kernel in /usr/lib/modules nor a UKI"),
    (f"usr/lib/modules/{KERNEL_VERSION}/initramfs.img", "has no /usr/lib/modules/"),
    ("usr/lib/systemd", "the image has no systemd-boot in /usr/lib/systemd/boot/efi, and esp no boot loader"),
    ("sysroot", "/sysroot"),
])
def test_an_image_that_cannot_boot(empty: Machine, gone: str, words: str) -> None:
    empty.publish(os_image("1.0", [Whiteout(gone)]), "bad")
    done = install(empty, "oci:layout:bad")
    assert done.status == NotBootable.exit_status, done.err
    assert words in done.err
    works(empty)


def test_the_boot_loader_may_be_another(empty: Machine) -> None:
    empty.publish(os_image("1.0", [Whiteout("usr/lib/systemd")]))
    loader = empty.path / "esp/EFI/BOOT/bootx64.efi"
    loader.parent.mkdir(parents=True)
    loader.write_bytes(b"somebody else's")
    works(empty)
    assert loader.read_bytes() == b"somebody else's"


@pytest.mark.parametrize("which", ["sysroot", "esp"])
def test_a_target_that_is_no_directory(empty: Machine, which: str) -> None:
    """Such as the device itself."""
    place = empty.path / which
    place.touch()
    done = install(empty)
    assert done.status == UsageError.exit_status
    assert f"{which} is no directory" in done.err
    assert "to-disk" in done.err
    place.unlink()
    works(empty)


def test_names_with_spaces(empty: Machine) -> None:
    there = ("--sysroot", "my root", "--esp", "my boot partition")
    done = empty(*there, "install", "to-filesystem", IMAGE)
    assert done.status == 0, done.err
    assert empty(*there, "fsck").status == 0
    assert list((empty.path / "my boot partition/loader/entries").glob("bootcd-*"))


@needs_root
@pytest.mark.parametrize("which", ["sysroot", "esp"])
def test_a_target_that_is_read_only(empty: Machine, which: str) -> None:
    with tmpfs(empty.path / which, "ro"):
        done = install(empty)
        assert done.status == AccessError.exit_status
        assert f"{which} is mounted read-only" in done.err or "Read-only file system" in done.err
    works(empty)


@needs_root
@pytest.mark.parametrize(("which", "error"), [("esp", EspFull), ("sysroot", RootFull)])
def test_a_target_that_is_too_small(empty: Machine, which: str, error: type[EspFull | RootFull]) -> None:
    empty.publish(os_image("1.0", base=base_layer(kernel=os.urandom(200_000))))
    with tmpfs(empty.path / which, "size=128k"):
        done = install(empty)
        assert done.status == error.exit_status, done.err
        assert which.upper() in done.err or which in done.err
        assert not list(empty.path.glob("esp/loader/entries/bootcd-*"))
        subprocess.run(["mount", "-o", "remount,size=4M", empty.path / which], check=True)
        works(empty)


@needs_root
def test_a_boot_partition_that_is_not_mounted(empty: Machine) -> None:
    """Its directory is there, in the new root file system; nothing that is put there would ever be read."""
    with tmpfs(empty.path / "sysroot"):
        where = ("--esp", "sysroot/efi", "install", "to-filesystem", IMAGE)
        done = empty(*where)
        assert done.status == 0
        assert f"sysroot/efi {NOT_MOUNTED}" in done.err
    with tmpfs(empty.path / "sysroot"), tmpfs(empty.path / "sysroot/efi"):
        assert NOT_MOUNTED not in empty(*where).err


@needs_root
def test_two_boot_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a running system: the one with our kernels, whichever is mounted where."""
    places = [tmp_path / name for name in ("efi", "boot")]
    monkeypatch.setattr(partitions, "RUNNING", tmp_path / "sysroot")
    monkeypatch.setattr(partitions, "ROOT", tmp_path)
    machine = machine_module.Machine(Sysroot(tmp_path / "sysroot"), None, Config(), SilentProgress())
    with tmpfs(places[0]), tmpfs(places[1]):
        assert machine.esp().path == str(places[0])
        (places[1] / "EFI/bootcd").mkdir(parents=True)
        assert machine.esp().path == str(places[1])
        (places[0] / "EFI/bootcd").mkdir(parents=True)
        with pytest.raises(UsageError, match=f"{places[0]} and {places[1]} are boot partitions") as found:
            machine.esp()
        assert "--esp" in found.value.hint
