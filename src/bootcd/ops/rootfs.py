# SPDX-License-Identifier: Apache-2.0
"""The root directory of an image that is being built: its tree, and the contents that somebody asks for.

Without an algorithm the tree has no digests, since nothing is read that nobody asks for.
"""

from __future__ import annotations

import mmap
import os
from functools import cached_property
from pathlib import Path

from ..errors import BootcdError
from ..formats.fsverity import Algorithm
from ..formats.tree import Directory, Inode, RegularFile
from ..linux import files
from ..linux.block import mount_points
from ..store.scan import scan_directory

MAX_READ = 64 << 20
"""Bytes of a file that is read into memory."""


class Rootfs:
    """A directory. That of the running system is looked at without what is mounted below it, at the paths `mounted`."""

    def __init__(self, path: Path, algorithm: Algorithm | None = None) -> None:
        """Scan it, and measure all contents by `algorithm`. Raises BootcdError for what cannot be read, or changes
        meanwhile."""
        self.path = path
        self.running = os.path.realpath(path) == "/"
        self.tree = scan_directory(path, None if algorithm else _unread, algorithm or Algorithm.SHA512,
                                   mounts=not self.running)
        self.mounted = frozenset(os.fsencode(point) for point in mount_points()) if self.running else frozenset()
        for point in self.mounted - {b"/"}:
            self._leave_out(point)

    def _leave_out(self, point: bytes) -> None:
        """Take what is mounted there out of the tree, which also may be of the same file system, or a file."""
        where, _, name = point.rpartition(b"/")
        parent = self.tree.directory(where)
        found = parent.entries.get(name) if parent is not None else None
        if isinstance(found, Directory):
            found.entries.clear()
        elif found is not None and parent is not None:
            del parent.entries[name]

    def where(self, inode: Inode) -> Path:
        """Where an inode of the tree is; of several names one."""
        return self.path / os.fsdecode(self.path_of(inode)[1:])

    def path_of(self, inode: Inode) -> bytes:
        """The path of an inode of the tree in the image; of several names one."""
        return self._paths[id(inode)]

    def read(self, file: RegularFile) -> bytes:
        """The content of a file of the tree. Raises BootcdError, also when it has changed or is larger than any that
        one would read."""
        if file.inline is not None:
            return file.inline
        path = self.where(file)
        if file.size > MAX_READ:
            raise BootcdError(f"{path} has {file.size} bytes, more than {MAX_READ}")
        with files.translate(f"cannot read {path}"), open(files.open_regular(os.fspath(path)), "rb") as stream:
            data = stream.read(file.size + 1)
        if len(data) != file.size:
            raise BootcdError(f"{path} changed while it was read", advice="Stop what writes there, then try again.")
        return data

    def open(self, file: RegularFile) -> int:
        """A descriptor for reading a file of the tree. Raises BootcdError."""
        path = self.where(file)
        with files.translate(f"cannot read {path}"):
            return files.open_regular(os.fspath(path))

    def mapped(self, file: RegularFile) -> memoryview:
        """The content of a file of any size, without reading all of it. Raises BootcdError."""
        descriptor = self.open(file)
        try:
            if os.fstat(descriptor).st_size != file.size:
                raise BootcdError(f"{self.where(file)} changed while it was read")
            return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if file.size else b"")
        finally:
            os.close(descriptor)

    @cached_property
    def _paths(self) -> dict[int, bytes]:
        return {id(node): path for path, node in self.tree.walk()}


def _unread(descriptor: int, size: int) -> bytes:
    return b""
