# SPDX-License-Identifier: Apache-2.0
"""A directory on disk becomes a file tree.

Nothing is followed: every name is opened relative to its directory with O_NOFOLLOW, so a tree that somebody changes
cannot lead the scan elsewhere. Mount points are crossed, names that are the same inode become hard links, all extended
attributes that the caller may see are taken. A file or directory that changes while it is read ends the scan, because a
digest of half-old content is worse than none. Spec 3.4, "Directory scan".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from ..errors import BootcdError
from ..formats.fsverity import Algorithm, Hasher
from ..formats.tree import (
    INLINE_MAX,
    BlockDevice,
    CharDevice,
    Directory,
    Fifo,
    Leaf,
    RegularFile,
    Socket,
    Symlink,
)
from ..linux import files
from .objects import CHUNK

StoreFile = Callable[[int, int], bytes]
"""Takes a descriptor at offset 0 and the size, and returns the digest."""

_Metadata = tuple[int, int, int, int, int, dict[bytes, bytes]]


def scan_directory(
    path: str | bytes | os.PathLike[str], store: StoreFile | None, algorithm: Algorithm, *, mounts: bool = True,
) -> Directory:
    """The tree below `path`, with its own metadata as the root's.

    Content above 64 bytes is given to `store`, or only measured when that is None. Without `mounts`, a directory on
    which another file system is mounted is an empty one. Raises BootcdError naming the path.
    """
    where = os.fsencode(path)
    with files.translate(f"cannot read {os.fsdecode(where)}", named=True):
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return _Scan(store or _measurer(algorithm), mounts).run(fd, where)


def _measurer(algorithm: Algorithm) -> StoreFile:
    def measure_file(fd: int, size: int) -> bytes:
        hasher = Hasher(algorithm)
        while data := os.read(fd, CHUNK):
            hasher.update(data)
        return hasher.digest()

    return measure_file


def _read_small(fd: int, size: int) -> bytes:
    """At most size + 1 bytes: one more tells that the file has grown, and the caller's second look will see it."""
    parts, left = [], size + 1
    while left and (data := os.read(fd, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


class _Scan:
    def __init__(self, store: StoreFile, mounts: bool) -> None:
        self._store = store
        self._mounts = mounts
        self._device: int | None = None
        self._leaves: dict[tuple[int, int], Leaf] = {}

    def run(self, fd: int, path: bytes) -> Directory:
        """Walk depth first with one descriptor per level; takes `fd` over."""
        stack: list[tuple[int, bytes, os.stat_result, list[bytes], Directory]] = []
        try:
            root = self._enter(fd, path, stack)
            while stack:
                here, prefix, before, names, directory = stack[-1]
                if not names:
                    _check_same(here, before, prefix)
                    stack.pop()
                    os.close(here)
                    continue
                name = names.pop()
                below = prefix.rstrip(b"/") + b"/" + name
                with files.translate(f"cannot read {os.fsdecode(below)}"):
                    status = os.stat(name, dir_fd=here, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                        directory.entries[name] = self._enter(child, below, stack)
                    else:
                        directory.entries[name] = self._leaf(here, name, status, below)
        finally:
            for frame in stack:
                os.close(frame[0])
        return root

    def _enter(self, fd: int, path: bytes, stack: list[tuple[int, bytes, os.stat_result, list[bytes], Directory]]
               ) -> Directory:
        try:
            with files.translate(f"cannot read {os.fsdecode(path)}"):
                status = os.fstat(fd)
                if self._device is None:
                    self._device = status.st_dev
                foreign = status.st_dev != self._device and not self._mounts
                names = [] if foreign else sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
                directory = Directory(*_metadata(fd, status))
        except BaseException:
            os.close(fd)
            raise
        if foreign:
            os.close(fd)
            return directory
        stack.append((fd, path, status, names, directory))
        return directory

    def _leaf(self, dirfd: int, name: bytes, status: os.stat_result, path: bytes) -> Leaf:
        key = (status.st_dev, status.st_ino)
        known = self._leaves.get(key)
        if known is None:
            known = self._leaves[key] = self._read_leaf(dirfd, name, status, path)
        return known

    def _read_leaf(self, dirfd: int, name: bytes, status: os.stat_result, path: bytes) -> Leaf:
        regular = stat.S_ISREG(status.st_mode)
        # O_PATH neither blocks on a fifo nor wakes a device; O_NONBLOCK is for what took a regular file's place.
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_RDONLY | os.O_NONBLOCK if regular else os.O_PATH)
        fd = os.open(name, flags, dir_fd=dirfd)
        try:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino, now.st_mode) != (status.st_dev, status.st_ino, status.st_mode):
                raise _changed(path)
            metadata = _metadata(fd, now)
            kind = stat.S_IFMT(now.st_mode)
            if kind == stat.S_IFREG:
                leaf: Leaf = self._read_file(fd, now, metadata)
                _check_same(fd, now, path)
                return leaf
            if kind == stat.S_IFLNK:
                return Symlink(*metadata, target=os.readlink(b"", dir_fd=fd))
            if kind == stat.S_IFCHR:
                return CharDevice(*metadata, rdev=now.st_rdev)
            if kind == stat.S_IFBLK:
                return BlockDevice(*metadata, rdev=now.st_rdev)
            return Fifo(*metadata) if kind == stat.S_IFIFO else Socket(*metadata)
        finally:
            os.close(fd)

    def _read_file(self, fd: int, status: os.stat_result, metadata: _Metadata) -> RegularFile:
        size = status.st_size
        if size <= INLINE_MAX:
            return RegularFile(*metadata, inline=_read_small(fd, size)[:size])
        return RegularFile(*metadata, digest=self._store(fd, size), size=size)


def _metadata(fd: int, status: os.stat_result) -> _Metadata:
    """The arguments that every inode takes."""
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    xattrs: dict[bytes, bytes] = {}
    proc = f"/proc/self/fd/{fd}"
    try:
        for name in sorted(os.listxattr(proc), key=os.fsencode):
            xattrs[os.fsencode(name)] = os.getxattr(proc, name)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
            raise
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, seconds, nanoseconds, xattrs


def _check_same(fd: int, before: os.stat_result, path: bytes) -> None:
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _changed(path)


def _changed(path: bytes) -> BootcdError:
    return BootcdError(f"{os.fsdecode(path)} changed while it was read",
                       advice="Stop what writes there, then try again.")
