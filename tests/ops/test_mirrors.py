# SPDX-License-Identifier: Apache-2.0
"""A machine with mirrored disks: every boot partition is kept equal, and one that works is enough."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import BootcdError, EspFull, NotFound, ReadOnly
from bootcd.layout import Sysroot
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.ops.fingerprint import fingerprint
from bootcd.ops.machine import Machine
from crash.program import snapshot
from kit import partitions
from kit.os_images import base_layer, os_image
from kit.world import World

NOISE = ("filler", "lost+found", "loader/random-seed")


@dataclass
class Notes(SilentProgress):
    """Remembers what people are told."""

    notes: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass
class Mirrored:
    """Two disks; `first` is named by --esp, `second` is a mirror."""

    world: World
    first: Path
    second: Path
    progress: Notes

    def content(self, esp: Path) -> dict[str, str]:
        return {path: what for path, what in snapshot(esp).items() if not path.startswith(NOISE)}

    def assert_equal(self) -> None:
        assert self.content(self.first) == self.content(self.second)
        assert not any("boot partition" in warning for warning in self.world.host.status().warnings)

    def publish(self, version: str, size: int = 1000) -> None:
        self.world.publish(os_image(version, base=base_layer(kernel=version.encode() * (size // len(version)))))

    def upgrade(self, version: str) -> None:
        self.publish(version)
        assert self.world.host.upgrade().outcome == "deployed"

    def warning(self) -> str:
        (warning,) = [one for one in self.world.host.status().warnings if "boot partition" in one]
        return warning


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Mirrored]:
    """1.0 and 1.1 are installed."""
    with partitions.partition(tmp_path / "esp") as first, partitions.partition(tmp_path / "sysroot/efi2") as second:
        progress = Notes()
        world = World(tmp_path, lambda w: DirectHost(w.sysroot, w.esp, w.config, progress), tmp_path,
                      Config(boot_mirrors=("/efi2",)))
        world.install(os_image("1.0"))
        made = Mirrored(world, first, second, progress)
        made.upgrade("1.1")
        yield made


def test_everything_is_on_both(mirrored: Mirrored) -> None:
    host = mirrored.world.host
    mirrored.assert_equal()
    assert len(mirrored.world.entries()) == len(mirrored.world.kernels()) == 2
    assert (mirrored.second / "EFI/BOOT/BOOTX64.EFI").is_file()
    assert any("+3" in name for name in os.listdir(mirrored.second / "loader/entries"))
    host.pin("1.0", label="good")
    mirrored.upgrade("1.2")
    mirrored.assert_equal()
    host.rollback("1.0")
    mirrored.assert_equal()
    host.unpin("good")
    host.cleanup()
    mirrored.assert_equal()
    assert host.fsck().ok
    assert not mirrored.progress.notes[1:]


def test_one_that_was_away_is_brought_up_to_date(mirrored: Mirrored) -> None:
    device = partitions.device_of(mirrored.second)
    (mirrored.second / "loader/entries/foreign.conf").write_text("title Foreign\n")
    partitions.yank(mirrored.second)
    assert mirrored.warning() == f"a boot partition is left out: nothing is mounted at {mirrored.second}"
    mirrored.upgrade("1.2")
    mirrored.upgrade("1.3")  # now 1.0 and 1.1 are collected
    assert mirrored.world.versions() == ["1.3", "1.2"]
    assert not any(mirrored.second.iterdir()), "nothing was written to what is below the mount point"
    partitions.mount(device, mirrored.second)
    assert f"{mirrored.second} lacks 2 kernels and 2 boot entries; has old 2 kernels and 2 boot" in mirrored.warning()
    mirrored.world.host.pin("default")
    (mirrored.second / "loader/entries/foreign.conf").unlink()
    mirrored.assert_equal()
    assert any(f"{mirrored.second} is brought up to date: it lacked 2 kernels" in note
               for note in mirrored.progress.notes)
    assert not (mirrored.world.sysroot / "state/bootcd/missed-entries").exists()


def test_a_new_one_gets_everything(mirrored: Mirrored) -> None:
    """The second disk was replaced: an empty file system."""
    shutil.rmtree(mirrored.second / "EFI")
    shutil.rmtree(mirrored.second / "loader")
    assert "lacks 2 kernels and 2 boot entries" in " ".join(mirrored.world.host.status().warnings)
    mirrored.world.host.cleanup()
    mirrored.assert_equal()


def test_the_first_one_was_replaced(mirrored: Mirrored) -> None:
    """Then the second leads, and nothing of it is lost."""
    before = mirrored.content(mirrored.second)
    shutil.rmtree(mirrored.first / "EFI")
    shutil.rmtree(mirrored.first / "loader")
    assert mirrored.world.versions() == ["1.1", "1.0"]
    assert mirrored.world.host.status().esp == str(mirrored.second)
    mirrored.world.host.cleanup()
    assert mirrored.content(mirrored.second) == before
    mirrored.assert_equal()


def test_the_first_one_is_gone(mirrored: Mirrored) -> None:
    device = partitions.device_of(mirrored.first)
    partitions.yank(mirrored.first)
    mirrored.first.rmdir()
    assert "there is no boot partition at" in mirrored.warning()
    mirrored.upgrade("1.2")
    assert mirrored.world.versions() == ["1.2", "1.1"]
    mirrored.first.mkdir()
    partitions.mount(device, mirrored.first)
    mirrored.upgrade("1.3")
    mirrored.assert_equal()


@pytest.mark.parametrize("which", ["first", "second"])
def test_one_that_is_read_only_stops_nothing(mirrored: Mirrored, which: str) -> None:
    broken = getattr(mirrored, which)
    partitions.remount(broken, "ro")
    assert f"{broken} is mounted read-only" in mirrored.warning()
    mirrored.upgrade("1.2")
    assert f"{broken} is mounted read-only" in " ".join(mirrored.progress.notes)
    partitions.remount(broken, "rw")
    mirrored.upgrade("1.3")
    mirrored.assert_equal()


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize(("step", "times"), [("esp-before-fsync", 2), ("esp-before-fsync", 3), ("esp-before-rename", 6),
                                             ("before-write-entry", 1)])
def test_one_that_breaks_in_the_middle_stops_nothing(mirrored: Mirrored, which: str, step: str, times: int) -> None:
    broken: Path = getattr(mirrored, which)
    mirrored.publish("1.2", 200_000)
    with partitions.at_step(step, lambda: partitions.break_down(broken), times):
        assert mirrored.world.host.upgrade().outcome == "deployed"
    assert mirrored.world.versions() == ["1.2", "1.1"]
    assert any("is left out" in note and str(broken) in note for note in mirrored.progress.notes)
    partitions.mend(broken)
    mirrored.world.host.pin("default")
    mirrored.assert_equal()
    assert mirrored.world.host.fsck().ok


@pytest.mark.parametrize("which", ["first", "second"])
def test_one_that_is_broken_from_the_start_stops_nothing(mirrored: Mirrored, which: str) -> None:
    broken: Path = getattr(mirrored, which)
    partitions.break_down(broken)
    mirrored.upgrade("1.2")
    told = [warning for warning in mirrored.world.host.status().warnings if str(broken) in warning]
    assert any("left out" in warning and "Input/output error" in warning for warning in told)
    assert mirrored.world.host.explain("default").summary.endswith("(version 1.2) boots next.")
    mirrored.world.host.rollback()
    partitions.mend(broken)
    mirrored.world.host.cleanup()
    mirrored.assert_equal()


def test_when_none_works_that_is_an_error(mirrored: Mirrored) -> None:
    for esp in (mirrored.first, mirrored.second):
        partitions.remount(esp, "ro")
    with pytest.raises(ReadOnly):
        mirrored.upgrade("1.2")
    assert mirrored.world.versions() == ["1.1", "1.0"]
    for esp in (mirrored.first, mirrored.second):
        partitions.yank(esp)
        esp.rmdir()
    with pytest.raises(NotFound, match="no boot partition at"):
        mirrored.upgrade("1.2")
    assert mirrored.world.host.status().warnings


def test_room_is_that_of_the_smallest(mirrored: Mirrored) -> None:
    """Whichever of them it is."""
    for esp in (mirrored.second, mirrored.first):
        state = os.statvfs(esp)
        with (esp / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - 300_000)
        mirrored.publish("2.0", 400_000)
        with pytest.raises(EspFull, match="lacks"):
            mirrored.world.host.upgrade()
        mirrored.assert_equal()
        (esp / "filler").unlink()
    assert mirrored.world.host.upgrade().outcome == "deployed"
    mirrored.assert_equal()


def test_foreign_files_stay_on_all_of_them(mirrored: Mirrored) -> None:
    foreign = {}
    for esp in (mirrored.first, mirrored.second):
        for name, content in (("loader/entries/windows.conf", f"title Windows on {esp.name}\nefi /EFI/MS/boot.efi\n"),
                              ("loader/entries/broken.conf", "\xff"), (f"EFI/bootcd/{'e' * 64}/vmlinuz", esp.name),
                              ("loader/entries/user.conf", f"linux /EFI/bootcd/{'e' * 64}/vmlinuz\n"),
                              ("EFI/MS/boot.efi", esp.name), ("EFI/Linux/other.efi", esp.name),
                              ("loader/entries/bootcd-0000000002-ffffffffffff.conf", "linux /vmlinuz\n"),
                              ("vmlinuz", "x"), ("loader/loader.conf", f"timeout {len(esp.name)}\n")):
            (esp / name).parent.mkdir(parents=True, exist_ok=True)
            (esp / name).write_text(content)
            foreign[esp / name] = content
    host = mirrored.world.host
    mirrored.upgrade("1.2")
    host.rollback()
    host.cleanup()
    mirrored.upgrade("1.3")
    host.fsck(repair=True)
    assert {path: path.read_text() for path in foreign} == foreign


def test_fsck_looks_at_all_of_them(mirrored: Mirrored) -> None:
    """The same size, other content: only reading it tells."""
    host = mirrored.world.host
    digest = host.status().deployments[0].boot_digest
    for esp in (mirrored.second, mirrored.first):
        kernel = esp / "EFI/bootcd" / digest / "vmlinuz"
        kernel.write_bytes(kernel.read_bytes()[:-1] + b"!")
        found = host.fsck()
        assert [(item.kind, item.what) for item in found.findings] == [("kernel-damaged", digest)]
        assert found.findings[0].detail.endswith(f"on {esp}")
        assert host.fsck(repair=True).ok
        assert host.fsck().ok
    mirrored.assert_equal()


def test_what_changes_on_a_mirror_is_noticed(mirrored: Mirrored) -> None:
    world = mirrored.world
    machine = Machine(Sysroot(world.sysroot), world.esp, world.config, SilentProgress())
    before = fingerprint(machine)
    partitions.yank(mirrored.second)
    assert fingerprint(machine) != before


def test_what_is_used_up_is_told(mirrored: Mirrored) -> None:
    reasons = mirrored.world.host.explain("space").reasons
    assert {str(mirrored.first), str(mirrored.second)} <= {reason.name for reason in reasons}
    with pytest.raises(BootcdError):
        mirrored.world.host.explain("nothing")
