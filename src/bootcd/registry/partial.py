# SPDX-License-Identifier: Apache-2.0
"""What has come of large blobs, in files, so that the next process goes on where this one ended.

    <directory>/<digest>        the first bytes of that blob, as they were sent

A file is written as the bytes come and without a flush: a blob that is complete in `QUICK` seconds costs no more than
its pages in memory. Nothing here is trusted. Whoever reads such a file hashes it with what comes after it, and removes
it when the digest of the whole is wrong. No trouble with a file ends a download: it is only not kept then.

For who holds the lock of the installation; single files are used by one thread each.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import BootcdError
from ..formats.oci import Descriptor
from ..linux.room import Guard
from ..model import is_digest

log = logging.getLogger(__name__)

SMALL = 8 << 20
"""Bytes of a blob that is not kept, because it is fetched again as soon."""
QUICK = 10.0
"""Seconds of a transfer that is not kept once it is complete, although its layer is not in the repository yet: there it
would be written to disk with all else."""
OLD = 7 * 24 * 3600.0
"""Seconds after which nobody is expected to go on."""
UNPACKED = 3
"""How many times its compressed size a layer of an operating system takes, or less; it has to fit beside the file."""

_PIECE = 1 << 20
_PIECES = 512
_PATIENCE = 1.0
"""Seconds of a slow transfer that may be lost."""
_LOOK = 4 << 20
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Partials:
    """The directory, which is made when something is kept in it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._off = False

    def of(self, descriptor: Descriptor) -> Partial | None:
        """The file of a blob; None for one that is not kept."""
        if descriptor.size <= SMALL or self._off:
            return None
        return Partial(self._directory / descriptor.digest, descriptor.size)

    def sizes(self) -> dict[str, int]:
        """Bytes of each blob that are here, by digest."""
        return {name: state.st_size for name, state in self._files().items()}

    def to_come(self, descriptors: Iterable[Descriptor]) -> int:
        """Bytes of blobs that are not here."""
        here = self.sizes()
        return sum(max(descriptor.size - here.get(descriptor.digest, 0), 0) for descriptor in descriptors)

    def remove(self, digest: str) -> None:
        """Forget what has come of a blob; never an error. Where that is not possible nothing is kept from now on, so
        that nobody goes on with it."""
        try:
            (self._directory / digest).unlink(missing_ok=True)
        except OSError as error:
            log.info("%s is not removed: %s", self._directory / digest, error)
            self._off = True

    def clear(self) -> bool:
        """Make room: remove all, and keep nothing from now on. Returns whether there was anything."""
        self._off = True
        found = self.sizes()
        for digest in found:
            self.remove(digest)
        return any(found.values())

    def prune(self, wanted: Collection[str]) -> None:
        """Remove what is old and not among the `wanted` digests."""
        limit = time.time() - OLD
        for digest, state in self._files().items():
            if digest not in wanted and state.st_mtime < limit:
                self.remove(digest)

    def _files(self) -> dict[str, os.stat_result]:
        found = {}
        with suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if is_digest(entry.name):
                    with suppress(OSError):
                        found[entry.name] = entry.stat(follow_symlinks=False)
        return found


class Partial:
    """The file of one blob of `size` bytes."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._file = -1
        self._end = 0
        self._looked = 0
        self._waiting: list[bytes] = []
        self._count = 0
        self._written = 0.0
        self._began = time.monotonic()
        self._guard: Guard | None = None
        self.resumed = 0
        """Bytes that an earlier attempt had left."""

    def pieces(self) -> Iterator[bytes]:
        """What is there, for the caller to check."""
        if not self._open():
            return
        while self._file >= 0 and self._end < self._size:
            try:
                piece = os.pread(self._file, min(_PIECE, self._size - self._end), self._end)
            except OSError as error:
                self._give_up(error)
                return
            if not piece:
                return
            self._end += len(piece)
            self.resumed = self._end
            yield piece

    def add(self, piece: bytes) -> None:
        """Keep what came next. Written in batches: each call of the kernel lets another thread take over."""
        if self._file < 0:
            return
        self._waiting.append(piece)
        self._count += len(piece)
        if self._count >= _PIECE or len(self._waiting) >= _PIECES or time.monotonic() - self._written >= _PATIENCE:
            self._write()

    def complete(self) -> None:
        """All has come and is right."""
        if not self.resumed and time.monotonic() - self._began < QUICK:
            self._remove()
            self._waiting.clear()
        self.close()

    def close(self) -> None:
        """Leave what is there."""
        self._write()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _open(self) -> bool:
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._guard = Guard(self._path.parent)
            self._file = os.open(self._path, _FLAGS, 0o600)
            state = os.fstat(self._file)
            if not stat.S_ISREG(state.st_mode):
                raise FileExistsError(f"{self._path} is no regular file")
            if state.st_size > self._size:
                os.ftruncate(self._file, 0)
        except (OSError, BootcdError) as error:
            self._give_up(error)
            return False
        return True

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        count, self._count = self._count, 0
        if self._file < 0 or not waiting:
            return
        self._written = time.monotonic()
        try:
            if not self._has_room():
                self.close()
            elif os.pwritev(self._file, waiting, self._end) != count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._end += count
        except (OSError, BootcdError) as error:
            self._give_up(error)

    def _has_room(self) -> bool:
        """Looked at now and then: whether the rest of the blob fits, here and unpacked."""
        if self._end >= self._looked:
            self._looked = self._end + _LOOK
            assert self._guard is not None
            return self._guard.fits((self._size - self._end) * (1 + UNPACKED), 1)
        return True

    def _give_up(self, error: Exception) -> None:
        log.info("%s is not kept: %s", self._path, error)
        self._remove()
        self.close()

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
