# SPDX-License-Identifier: Apache-2.0
"""What the kit makes of a log of writes: all that was certain, some of what was not, and nothing else."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.write_log import MAGIC, SECTOR, Cut, Disk, WriteLog, choose, lucky

SECTORS = 8
WRITES = st.lists(st.tuples(st.integers(0, SECTORS - 1), st.integers(0, 2), st.sampled_from([0, 0, 1, 2])), min_size=1,
                  max_size=12)
"""First sector, number of sectors, flags of dm-log-writes: 1 is a flush, 2 a write that is certain when it is done."""


def made(writes: list[tuple[int, int, int]]) -> WriteLog:
    """A log in which the n-th write is of bytes n."""
    parts = [struct.pack("<QQQL", MAGIC, 1, len(writes), SECTOR).ljust(SECTOR, b"\0")]
    for number, (sector, count, flags) in enumerate(writes, 1):
        parts.append(struct.pack("<QQQQ", sector, count, flags, 0).ljust(SECTOR, b"\0"))
        parts.append(bytes([number]) * count * SECTOR)
    return WriteLog(io.BytesIO(b"".join(parts)))


def disk_after(log: WriteLog, cut: Cut, directory: Path) -> bytes:
    for name in ("disk", "copy"):
        (directory / name).unlink(missing_ok=True)
    disk = Disk(directory / "disk")
    disk.advance(log, cut)
    disk.copy(directory / "copy", (SECTORS + 2) * SECTOR)
    with (directory / "copy").open("r+b") as file:
        cut.apply(log, file)
    return (directory / "copy").read_bytes()


@given(writes=WRITES, seed=st.integers(0, 1 << 20))
def test_what_a_flush_covers_is_there(writes: list[tuple[int, int, int]], seed: int,
                                      tmp_path_factory: pytest.TempPathFactory) -> None:
    log = made(writes)
    directory = tmp_path_factory.getbasetemp()
    for cut in choose(log, 0, len(writes), 4, Random(seed)):
        content = disk_after(log, cut, directory)
        flushed = max((number for number, (_, _, flags) in enumerate(writes[: cut.end], 1) if flags & 1), default=0)
        for sector in range(SECTORS + 2):
            wrote = [number for number, (first, count, _) in enumerate(writes[: cut.end], 1)
                     if first <= sector < first + count]
            certain = max((number for number in wrote if number <= flushed or writes[number - 1][2] & 2), default=0)
            assert content[sector * SECTOR] in {certain, *(number for number in wrote if number > certain)}


def test_nothing_and_everything_are_among_the_cuts(tmp_path: Path) -> None:
    log = made([(number, 1, 0) for number in range(SECTORS)])
    seen = {disk_after(log, cut, tmp_path)[:: SECTOR].count(0) for seed in range(40)
            for cut in choose(log, 0, SECTORS, 99, Random(seed)) if cut.end == SECTORS}
    assert {2, SECTORS + 2} < seen


def test_a_lucky_cut_takes_nothing(tmp_path: Path) -> None:
    log = made([(0, 1, 1), (1, 1, 0), (2, 1, 0)])
    assert disk_after(log, lucky(log, 2), tmp_path)[::SECTOR] == bytes([1, 2, 0]).ljust(SECTORS + 2, b"\0")


def test_marks() -> None:
    log = made([(0, 1, 0), (3, 2, 0)])
    assert list(log.marks(3 * SECTOR)) == [(1, "\x02" * SECTOR)]


def test_no_log() -> None:
    with pytest.raises(ValueError, match="no write log"):
        WriteLog(io.BytesIO(bytes(SECTOR)))
