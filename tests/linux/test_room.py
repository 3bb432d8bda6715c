# SPDX-License-Identifier: Apache-2.0
"""Free bytes and inodes, what large writes leave of them, and the ballast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, RootFull
from bootcd.linux.room import Ballast, Guard, Room
from kit import loopback

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB with a hundred inodes."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    options = ("-t", "tmpfs", "-o", "size=32M,nr_inodes=100")
    with loopback.mounted(Path("tmpfs"), tmp_path / "small", *options) as mounted:
        yield mounted


def test_room(small: Path) -> None:
    before = Room.of(small)
    assert before.total == 32 * MIB
    (small / "file").write_bytes(bytes(MIB))
    after = Room.of(small)
    assert before.free - after.free == MIB
    assert before.inodes is not None
    assert after.inodes == before.inodes - 1
    with pytest.raises(BootcdError, match="cannot examine"):
        Room.of(small / "absent")


def test_where_inodes_are_made_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """btrfs says that it has none at all."""
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 10000, 9000, 9000, 0, 0, 0, 0, 255)))
    assert Room.of(tmp_path).inodes is None
    assert Guard(tmp_path).fits(MIB, 10**9)
    assert "inodes" not in Guard(tmp_path).sums()


def test_a_guard_ends_writes_in_time(small: Path) -> None:
    guard = Guard(small)
    assert guard.reserve == 4 * MIB
    free = Room.of(small).free
    assert guard.fits(free - guard.reserve)
    assert not guard.fits(free - guard.reserve + 1)

    def write_all() -> None:
        with (small / "big").open("wb", buffering=0) as file:
            while file.write(bytes(100_000)):
                guard.count(100_000)

    with pytest.raises(RootFull, match=r"are free, of which 4194304"):
        write_all()
    assert guard.reserve - 2 * MIB < Room.of(small).free <= guard.reserve


def test_a_guard_counts_inodes(small: Path) -> None:
    guard = Guard(small)
    assert guard.fits(0, 90)
    assert not guard.fits(0, 99)
    for number in range(95):
        (small / str(number)).touch()
    with pytest.raises(RootFull, match=r"and 4 inodes are free, of which 4194304 and 6 have to stay"):
        guard.count(2 * MIB)


def test_ballast_is_dropped_only_when_there_is_no_room(small: Path) -> None:
    ballast = Ballast(small / "ballast")
    ballast.drop()
    ballast.take()
    assert len(os.listdir(small / "ballast")) == 16
    held = Room.of(small).free
    ballast.drop()
    assert Room.of(small).free == held
    (small / "filler").write_bytes(bytes(held))
    ballast.drop()
    assert Room.of(small).free == 2 * MIB
    ballast.take()
    assert os.listdir(small / "ballast") == [], "it would take what it is for"
    (small / "filler").unlink()
    ballast.take()
    assert Room.of(small).free == held


def test_ballast_is_inodes_too(small: Path) -> None:
    ballast = Ballast(small / "ballast")
    ballast.take()
    left = Room.of(small).inodes
    assert left is not None
    for number in range(left):
        (small / str(number)).touch()
    ballast.drop()
    assert Room.of(small).inodes == 16


def test_ballast_is_never_an_error(tmp_path: Path) -> None:
    Ballast(tmp_path / "no" / "directory").take()
    Ballast(tmp_path / "no" / "directory").drop()
    (tmp_path / "ballast").write_text("a file")
    Ballast(tmp_path / "ballast").take()
