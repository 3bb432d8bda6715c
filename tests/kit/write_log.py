# SPDX-License-Identifier: Apache-2.0
"""What a disk holds when the power goes, from the log of all that was written to it.

QEMU's filter `blklogwrites` logs every write and every flush of a disk, in order. When the power goes at one of them,
what a flush has covered is there; of all later writes any may be there, whole or in part, in any combination, whatever
the order in which they were made. So one log holds as many power cuts as anybody wants to try.

    log = WriteLog(file)
    disk = Disk(path)                      # a sparse file
    for cut in choose(log, begin, end, 10, random):
        disk.advance(log, cut)             # everything that is certain
        cut.apply(log, disk.copy(target))  # and something of what is not

Source: the log format of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), which QEMU
writes (block/blklogwrites.c).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO

MAGIC = 0x6A736677736872
_SUPER = struct.Struct("<QQQL")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One write: `size` bytes for the disk's byte `target`, found at byte `place` of the log. One without bytes is a
    flush alone; `flush` says that all before it is certain, `certain` that it is so itself as soon as it is done."""

    target: int
    size: int
    place: int
    flush: bool
    certain: bool


class WriteLog:
    """All entries, in the order in which they were made; data is read when it is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises ValueError when the file is no log."""
        self._file = file
        magic, version, count, sector = _SUPER.unpack(file.read(_SUPER.size))
        if (magic, version) != (MAGIC, 1):
            raise ValueError("no write log")
        self.entries: list[Entry] = []
        place = sector
        for _ in range(count):
            file.seek(place)
            target, sectors, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            place += sector
            size = 0 if flags & _DISCARD else sectors * sector
            self.entries.append(Entry(target * sector, size, place, bool(flags & _FLUSH), bool(flags & _FUA)))
            place += size

    def data(self, entry: Entry) -> bytes:
        self._file.seek(entry.place)
        return self._file.read(entry.size)

    def marks(self, place: int) -> Iterator[tuple[int, str]]:
        """What was written as text to one sector of the disk, with the number of the entry."""
        for number, entry in enumerate(self.entries):
            if entry.target <= place < entry.target + entry.size:
                text = self.data(entry)[place - entry.target :][:SECTOR].rstrip(b"\0")
                if text:
                    yield number, text.decode()

    def certain(self, end: int) -> int:
        """How many entries the last flush before entry `end` covers."""
        return next((number for number in range(end, 0, -1) if self.entries[number - 1].flush), 0)


@dataclass(frozen=True)
class Cut:
    """The power goes before entry `end`. The first `certain` entries are there, and of `torn`, pairs of an entry and a
    number of its bytes, that much each."""

    end: int
    certain: int
    torn: tuple[tuple[int, int], ...]

    def apply(self, log: WriteLog, disk: BinaryIO) -> None:
        """Write what was not certain and got there all the same."""
        for number, size in self.torn:
            disk.seek(log.entries[number].target)
            disk.write(log.data(log.entries[number])[:size])


def lucky(log: WriteLog, end: int) -> Cut:
    """The power goes before entry `end`, and all that was written before is there."""
    certain = log.certain(end)
    return Cut(end, certain, tuple((number, log.entries[number].size) for number in range(certain, end)))


def choose(log: WriteLog, begin: int, end: int, count: int, random: Random) -> list[Cut]:
    """Cuts at `count` different moments between two entries, fewer where there are not so many, in their order."""
    moments = sorted(random.sample(range(begin + 1, end + 1), min(count, end - begin)))
    return [_cut(log, moment, random) for moment in moments]


def _cut(log: WriteLog, end: int, random: Random) -> Cut:
    certain = log.certain(end)
    pending = [number for number in range(certain, end) if log.entries[number].size]
    # Nothing, everything, or any part: the first two are what most disks do, the last what some do.
    share = random.choice((0.0, 1.0, 0.5, random.random()))
    torn = []
    for number in pending:
        entry = log.entries[number]
        if entry.certain or random.random() < share:
            torn.append((number, entry.size))
        elif random.random() < 0.1:
            torn.append((number, random.randrange(0, entry.size, SECTOR)))
    return Cut(end, certain, tuple(torn))


class Disk:
    """A disk to which a log is played, as far as it is certain."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done = 0
        path.touch()

    def advance(self, log: WriteLog, cut: Cut) -> None:
        """Play what is certain at a cut, which is not before those of earlier calls."""
        assert cut.certain >= self._done
        with self._path.open("r+b") as file:
            for entry in log.entries[self._done : cut.certain]:
                file.seek(entry.target)
                file.write(log.data(entry))
        self._done = cut.certain

    def copy(self, target: Path, size: int) -> None:
        """A copy with `size` bytes, holes where this one has them."""
        target.unlink(missing_ok=True)
        with self._path.open("rb") as source, target.open("wb") as copy:
            for start, length in _extents(source.fileno()):
                _copy(source, copy, start, length)
            copy.truncate(size)


def _copy(source: BinaryIO, copy: BinaryIO, start: int, length: int) -> None:
    copy.seek(start)
    while length:
        done = os.sendfile(copy.fileno(), source.fileno(), start, length)
        start, length = start + done, length - done
        copy.seek(start)


def _extents(descriptor: int) -> Sequence[tuple[int, int]]:
    """Where a sparse file has data: starts and lengths."""
    found = []
    end = os.fstat(descriptor).st_size
    place = 0
    while place < end:
        try:
            start = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError:  # no more of them
            break
        place = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, place - start))
    return found
