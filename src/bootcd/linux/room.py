# SPDX-License-Identifier: Apache-2.0
"""How much a file system still takes, and a little of it that is kept for the moment when it takes nothing more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import BootcdError, RootFull
from .files import translate

_RESERVE = 16 << 20
"""Bytes; on small file systems an eighth, which is twice the ballast."""
_RESERVE_INODES = 512
_BALLAST_FILES = 16
_BALLAST_SIZE = 128 << 10
"""Bytes of each of its files; on small file systems less, a sixteenth for all of them."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes and inodes that are free for everybody, and of which there are. Where inodes are made when they are needed
    (btrfs), `inodes` and `inodes_total` are None."""

    free: int
    total: int
    inodes: int | None
    inodes_total: int | None

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """The room on the file system of `path`."""
        with translate(f"cannot examine {os.fspath(path)}"):
            state = os.statvfs(path)
        counted = state.f_files > 0
        return cls(state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize,
                   state.f_favail if counted else None, state.f_files if counted else None)


class Guard:
    """Ends large writes on the file system of `path` in time: `reserve` bytes, and a few inodes, stay free for what has
    to be written after them, and for the ballast."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._written = 0
        room = Room.of(path)
        self.reserve = min(_RESERVE, room.total // 8)
        self._inodes = min(_RESERVE_INODES, (room.inodes_total or 0) // 16)

    def fits(self, size: int, inodes: int = 0) -> bool:
        """Whether that many more bytes and inodes leave the reserve alone."""
        room = Room.of(self._path)
        return size + self.reserve <= room.free and (room.inodes is None or inodes + self._inodes <= room.inodes)

    def count(self, size: int) -> None:
        """So many bytes more are on their way. Raises RootFull when the reserve is touched."""
        self._written += size
        if self._written > self.reserve // 4:
            self._written = 0
            if not self.fits(0):
                raise RootFull(f"{self._path}: {self.sums()}")

    def counting(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """`read`, with all that it gives counted."""
        def counted(size: int) -> bytes:
            data = read(size)
            self.count(len(data))
            return data

        return counted

    def sums(self) -> str:
        """What is free, for an error."""
        room = Room.of(self._path)
        if room.inodes is None:
            return f"{room.free} bytes are free, of which {self.reserve} have to stay"
        return (f"{room.free} bytes and {room.inodes} inodes are free, of which {self.reserve} and {self._inodes} "
                "have to stay")


class Ballast:
    """A directory of files that hold 2 MiB, less on small file systems, and a few inodes. Thrown off when the file
    system is full, they are what journal, records and the like need, so that what frees space always works. Only for
    who holds the lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def drop(self) -> None:
        """Free it, if there is no other room; never an error."""
        with contextlib.suppress(OSError, BootcdError):
            if not self._fits(Room.of(self._directory.parent), 1):
                for path in self._directory.iterdir():
                    path.unlink()

    def take(self) -> None:
        """Have it again, if there is room for twice as much; never an error."""
        with contextlib.suppress(OSError, BootcdError):
            room = Room.of(self._directory.parent)
            if not self._fits(room, 2):
                return
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for number in range(_BALLAST_FILES):
                path = self._directory / f"{number:02}"
                if not path.exists():
                    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        os.posix_fallocate(descriptor, 0, self._size(room))
                    finally:
                        os.close(descriptor)

    def _fits(self, room: Room, times: int) -> bool:
        enough = room.inodes is None or room.inodes >= times * _BALLAST_FILES
        return enough and room.free >= times * _BALLAST_FILES * self._size(room)

    def _size(self, room: Room) -> int:
        return max(min(_BALLAST_SIZE, room.total // 16 // _BALLAST_FILES), 1)
