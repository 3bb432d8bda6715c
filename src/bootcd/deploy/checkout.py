# SPDX-License-Identifier: Apache-2.0
"""Write a tree into a fresh directory, with owners, modes, xattrs, times and hard links.

Everything is opened relative to the directory that was just made, without following symlinks, so that a hostile tree
stays inside. A normal user cannot give files away: then owners, devices and privileged xattrs are left out, which is
good enough for a directory that no machine boots from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import ImageUnusable
from ..formats.tree import Device, Directory, Fifo, Inode, RegularFile, Socket, Symlink
from ..linux import files

MAX_DEPTH = 256
"""How deep directories may be nested in what is checked out, which is /etc and /var."""
Content = Callable[[RegularFile], int]
"""Opens the content of a file that is not inline; the caller closes the descriptor."""


def checkout(root: Directory, path: Path, content: Content) -> None:
    """Create `path`, which must not exist, from `root`. Nothing is synced; the caller does that once for all."""
    with files.translate(str(path)):
        path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Checkout(content, path).directory(root, descriptor)
        finally:
            os.close(descriptor)


class _Checkout:
    def __init__(self, content: Content, path: Path) -> None:
        self._content = content
        self._path = path
        self._privileged = os.geteuid() == 0
        self._links: dict[int, str] = {}

    def directory(self, node: Directory, descriptor: int, inside: str = "", depth: int = 0) -> None:
        if depth > MAX_DEPTH:  # every level takes a descriptor and a frame
            raise ImageUnusable(f"{self._path.name}/{inside[:60]}… is nested more than {MAX_DEPTH} levels deep")
        for name, child in node.sorted_entries():
            text = os.fsdecode(name)
            if isinstance(child, Directory):
                os.mkdir(text, 0o700, dir_fd=descriptor)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                below = os.open(text, flags, dir_fd=descriptor)
                try:
                    self.directory(child, below, f"{inside}{text}/", depth + 1)
                finally:
                    os.close(below)
            else:
                self._leaf(child, text, descriptor, inside)
        self._metadata(node, descriptor)

    def _leaf(self, node: Inode, name: str, parent: int, inside: str) -> None:
        first = self._links.get(id(node))
        if first is not None:
            os.link(self._path / first, name, dst_dir_fd=parent, follow_symlinks=False)
            return
        if isinstance(node, RegularFile):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=parent)
            try:
                self._fill(node, descriptor)
                self._metadata(node, descriptor)
            finally:
                os.close(descriptor)
        elif isinstance(node, Symlink):
            os.symlink(os.fsdecode(node.target), name, dir_fd=parent)
            if self._privileged:
                os.chown(name, node.uid, node.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=_times(node), dir_fd=parent, follow_symlinks=False)
        elif isinstance(node, (Fifo, Socket, Device)):
            if isinstance(node, Device) and not self._privileged:
                return
            rdev = node.rdev if isinstance(node, Device) else 0
            os.mknod(name, node.file_type | 0o600, rdev, dir_fd=parent)
            if self._privileged:
                os.chown(name, node.uid, node.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, node.permissions, dir_fd=parent)
            os.utime(name, ns=_times(node), dir_fd=parent, follow_symlinks=False)
        self._links[id(node)] = inside + name

    def _fill(self, node: RegularFile, descriptor: int) -> None:
        if node.inline is not None:
            os.write(descriptor, node.inline)
        elif node.digest is None:
            os.ftruncate(descriptor, node.size)
        else:
            source = self._content(node)
            try:
                files.copy_file(source, descriptor)
            finally:
                os.close(source)

    def _metadata(self, node: Inode, descriptor: int) -> None:
        # chown clears setuid and file capabilities, so it comes first.
        if self._privileged:
            os.fchown(descriptor, node.uid, node.gid)
        for name, value in node.xattrs.items():
            if self._privileged:
                os.setxattr(descriptor, name, value)
            else:
                with suppress(OSError):
                    os.setxattr(descriptor, name, value)
        os.fchmod(descriptor, node.permissions)
        os.utime(descriptor, ns=_times(node))


def _times(node: Inode) -> tuple[int, int]:
    time = node.mtime * 1_000_000_000 + node.mtime_nsec
    return time, time
