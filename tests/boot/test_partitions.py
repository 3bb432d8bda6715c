# SPDX-License-Identifier: Apache-2.0
"""Which partitions an installation boots from, and doing the same on all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.boot import partitions
from bootcd.boot.esp import Esp
from bootcd.boot.partitions import XBOOTLDR_TYPE, Partitions, find_partitions
from bootcd.errors import BootcdError, EspFull, NotFound, ObjectMismatch, ReadOnly, UsageError
from bootcd.linux import partition
from kit import partitions as disks

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plays the root directory of the running system; what udev knows is empty."""
    monkeypatch.setattr(partitions, "ROOT", tmp_path)
    monkeypatch.setattr(partitions, "RUNNING", tmp_path / "sysroot")
    monkeypatch.setattr(partitions, "READABLE", frozenset({disks.kind()}))
    monkeypatch.setattr(partition, "UDEV", str(tmp_path / "udev"))
    (tmp_path / "udev").mkdir()
    return tmp_path


@contextlib.contextmanager
def mounted(root: Path, **types: str) -> Iterator[None]:
    """Partitions of these types at efi, boot and so on, as udev tells; of no type where that is empty."""
    with contextlib.ExitStack() as stack:
        for name, kind in types.items():
            stack.enter_context(disks.partition(root / name))
            number = os.stat(root / name).st_dev
            if kind:
                (root / f"udev/b{os.major(number)}:{os.minor(number)}").write_text(
                    f"S:disk/by-label/x\nE:ID_FS_TYPE=vfat\nE:ID_PART_ENTRY_TYPE={kind.upper()}\n")
        yield


def found(root: Path, *mirrors: str) -> tuple[list[str], list[str], list[str]]:
    """Where entries go, where boot loaders are, and what is away."""
    there = find_partitions(root / "sysroot", None, mirrors)
    return ([Path(esp.path).name for esp in there.places], [Path(esp.path).name for esp in there.loaders],
            [Path(path).name for path in there.away])


@pytest.mark.parametrize("kind", [XBOOTLDR_TYPE, ""])
def test_xbootldr_is_used_when_it_is_there(root: Path, kind: str) -> None:
    with mounted(root, efi=ESP_TYPE, boot=kind):
        assert found(root) == (["boot"], ["efi"], [])
    with mounted(root, boot=XBOOTLDR_TYPE):
        assert found(root) == (["boot"], ["boot"], [])


@pytest.mark.parametrize("kind", [ESP_TYPE, "0fc63daf-8483-4772-8e79-3d69d8477de4"])
def test_another_partition_at_boot_is_not_used(root: Path, kind: str) -> None:
    """No boot loader looks there: the type of a partition is what it goes by."""
    with mounted(root, efi=ESP_TYPE, boot=kind):
        assert found(root) == (["efi"], ["efi"], [])


def test_xbootldr_with_a_file_system_that_firmware_cannot_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "READABLE", frozenset({"fat of a kind"}))
    with mounted(root, efi=ESP_TYPE, boot=XBOOTLDR_TYPE):
        assert found(root) == (["efi"], ["efi"], [])


def test_an_installation_stays_where_it_is(root: Path) -> None:
    with mounted(root, efi=ESP_TYPE, boot=XBOOTLDR_TYPE):
        (root / "efi/EFI/bootcd").mkdir(parents=True)
        assert found(root) == (["efi"], ["efi"], [])
        (root / "efi/EFI/bootcd").rmdir()
        (root / "boot/EFI/bootcd").mkdir(parents=True)
        assert found(root) == (["boot"], ["efi"], [])


def test_another_sysroot_has_its_partitions_below(root: Path) -> None:
    other = root / "mnt"
    other.mkdir()
    with mounted(root, **{"mnt/efi": ESP_TYPE, "mnt/boot": XBOOTLDR_TYPE}):
        there = find_partitions(other, None, ())
        assert (there.first.path, there.loader.path) == (str(other / "boot"), str(other / "efi"))


def test_mirrors(root: Path) -> None:
    with mounted(root, efi=ESP_TYPE, efi2=ESP_TYPE, boot2=XBOOTLDR_TYPE):
        assert found(root, "/efi2", "/boot2") == (["efi", "efi2", "boot2"], ["efi", "efi2"], [])
        there = find_partitions(root / "sysroot", None, ["/efi2"])
        there.order(lambda esp: (esp.path.endswith("2"),))
        assert [Path(esp.path).name for esp in (there.first, there.loader)] == ["efi2", "efi2"]
        named = find_partitions(root / "sysroot", root / "efi2", ["/efi2", "/boot2"])
        assert [Path(esp.path).name for esp in named.places] == ["efi2", "boot2"], "none counts twice"
        (root / "efi/EFI/bootcd").mkdir(parents=True)
        (root / "efi2/EFI/bootcd").mkdir(parents=True)
        assert found(root, "/efi2")[0] == ["efi", "efi2"]
        with pytest.raises(UsageError, match="not found"):
            find_partitions(root / "mnt", None, ["/efi2"])  # of the other one there is nothing


def test_what_is_not_mounted_is_away(root: Path) -> None:
    (root / "efi2/EFI/bootcd").mkdir(parents=True)
    with mounted(root, efi=ESP_TYPE):
        there = find_partitions(root / "sysroot", None, ["/efi2", "/efi3"])
        assert [esp.path for esp in there.places] == [str(root / "efi")]
        assert [str(error) for error in there.away.values()] == [f"nothing is mounted at {root}/efi{number}"
                                                                 for number in (2, 3)]
    with pytest.raises(UsageError, match="was not found"):
        find_partitions(root / "sysroot", None, ["/efi2"])


def test_a_mirror_does_when_the_first_is_away(root: Path) -> None:
    with mounted(root, efi2=ESP_TYPE):
        assert found(root, "/efi2") == (["efi2"], ["efi2"], ["the first"])
        there = find_partitions(root / "sysroot", root / "named", ["/efi2"])
        assert there.loader.path == there.first.path
        assert there.first.path == str(root / "efi2")
        assert there.are_several


# --- the same on all --------------------------------------------------------------------------------------------------


class Work:
    """Fails where it is told to."""

    def __init__(self, **errors: BootcdError) -> None:
        self.errors = errors
        self.done: list[str] = []

    def __call__(self, esp: Esp) -> str:
        name = Path(esp.path).name
        if name in self.errors:
            raise self.errors[name]
        self.done.append(name)
        return name


@pytest.fixture
def three(tmp_path: Path) -> Partitions:
    for name in "abc":
        (tmp_path / name).mkdir()
    return Partitions([Esp(tmp_path / name) for name in "abc"], [Esp(tmp_path / name) for name in "ab"], {})


@pytest.mark.parametrize("error", [BootcdError("a: I/O error"), ReadOnly("a is read-only"), NotFound("a is gone")])
def test_one_that_fails_is_left_out(three: Partitions, error: BootcdError) -> None:
    work = Work(a=error)
    assert three.each(work) == ["b", "c"]
    assert work.done == ["b", "c"]
    assert [(Path(path).name, repr(why)) for path, why in three.away.items()] == [("a", repr(error))]
    assert three.each(Work()) == ["b", "c"]
    assert [Path(esp.path).name for esp in three.loaders] == ["b"]


def test_the_last_one_s_error_is_the_error(three: Partitions) -> None:
    errors = {name: ReadOnly(f"{name} is read-only") for name in "abc"}
    with pytest.raises(ReadOnly, match="c is read-only"):
        three.each(Work(**errors))
    assert len(three.places) == 1


@pytest.mark.parametrize("error", [EspFull("full"), ObjectMismatch("another digest"), UsageError("no")])
def test_what_is_not_its_fault_is_raised_before_anything_shows(three: Partitions, error: BootcdError) -> None:
    with pytest.raises(type(error)):
        three.each(Work(a=error))
    assert not three.away
    work = Work(b=error)
    assert three.each(work) == ["a", "c"]
    assert work.done == ["a", "c"], "what shows already is not taken back"
    assert [repr(why) for why in three.away.values()] == [repr(error)]


def test_writing_is_tried(tmp_path: Path) -> None:
    """A device that is broken looks as before."""
    with disks.partition(tmp_path / "one") as one, disks.partition(tmp_path / "two") as two:
        boot = Partitions([Esp(one), Esp(two)], [], {})
        boot.check_writable()
        assert not boot.away
        assert os.listdir(one) == os.listdir(two)
        (two / "filler").write_bytes(bytes(Esp(two).free() - 4096))
        boot.check_writable()
        assert not boot.away, "to be full is another matter"
        disks.remount(two, "ro")
        boot.check_writable()
        assert list(boot.away) == [str(two)]
        disks.break_down(one)
        with pytest.raises(BootcdError, match="one"):
            boot.check_writable()


def test_room_is_that_of_the_smallest(tmp_path: Path) -> None:
    with disks.partition(tmp_path / "one", 16 << 20) as one, disks.partition(tmp_path / "two") as two:
        boot = Partitions([Esp(one), Esp(two)], [], {})
        assert boot.free() == Esp(two).free_for_kernels() < Esp(one).free_for_kernels()
        assert boot.needed([1, 5000]) == max(Esp(path).occupied(1, 5000, 1, 1) for path in (one, two))


def test_what_is_mounted(root: Path) -> None:
    with mounted(root, efi=ESP_TYPE, other=""):
        assert partition.partition_type(root / "efi") == ESP_TYPE
        assert partition.partition_type(root / "other") == ""
        assert partition.file_system(root / "efi") == disks.kind()
    assert partition.file_system("/proc") == "proc"
    assert partition.file_system(root / "nothing") == partition.partition_type(root / "nothing") == ""
