# SPDX-License-Identifier: Apache-2.0
"""The file tree that everything else is computed from.

A tree is a `Directory` with named children. Names, link targets and xattrs are bytes, since Linux gives them no
encoding. A hard link is the same `Leaf` object under more than one name; the link count is therefore never stored.

The tree holds what composefs can express (spec: composefs(5) dump format). Content of at most `INLINE_MAX` bytes is
held inline, anything larger is named by its fs-verity digest.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import ClassVar

INLINE_MAX = 64
"""Largest file content, in bytes, that is stored inside the image instead of as an object."""


class Inode:
    """Metadata that every kind of file has.

    `permissions` holds the twelve low bits of st_mode; `mtime` is in seconds and may be negative; `mtime_nsec` is
    in [0, 10**9).
    """

    __slots__ = ("gid", "mtime", "mtime_nsec", "permissions", "uid", "xattrs")

    file_type: ClassVar[int]
    """The S_IFMT bits."""

    def __init__(
        self, permissions: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_nsec: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        self.permissions = permissions
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_nsec = mtime_nsec
        self.xattrs: dict[bytes, bytes] = {} if xattrs is None else xattrs

    @property
    def mode(self) -> int:
        """st_mode: type and permissions."""
        return self.file_type | self.permissions

    def copy_metadata(self, other: Inode) -> None:
        """Take over everything but type and content."""
        self.permissions = other.permissions
        self.uid = other.uid
        self.gid = other.gid
        self.mtime = other.mtime
        self.mtime_nsec = other.mtime_nsec
        self.xattrs = dict(other.xattrs)


class Directory(Inode):
    """A directory; `entries` maps names (no '/', not '.', not '..') to inodes, in no particular order."""

    __slots__ = ("entries",)
    file_type = stat.S_IFDIR

    def __init__(
        self, permissions: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_nsec: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(permissions, uid, gid, mtime, mtime_nsec, xattrs)
        self.entries: dict[bytes, Inode] = {}

    def sorted_entries(self) -> list[tuple[bytes, Inode]]:
        """The children in byte order of their names."""
        return sorted(self.entries.items(), key=_name)

    def lookup(self, path: bytes) -> Inode | None:
        """The inode at `path` below this directory, or None. Symlinks are not followed; '/' alone is this directory."""
        node: Inode = self
        for part in path.split(b"/"):
            if not part:
                continue
            if not isinstance(node, Directory):
                return None
            child = node.entries.get(part)
            if child is None:
                return None
            node = child
        return node

    def directory(self, path: bytes) -> Directory | None:
        """Like `lookup`, but only for directories."""
        node = self.lookup(path)
        return node if isinstance(node, Directory) else None

    def walk(self, path: bytes = b"/") -> Iterator[tuple[bytes, Inode]]:
        """Every (absolute path, inode) depth first in byte order of names, this directory first. Not recursive, so
        depth is bounded by memory alone."""
        stack: list[tuple[bytes, Inode]] = [(path, self)]
        while stack:
            here, node = stack.pop()
            yield here, node
            if isinstance(node, Directory):
                prefix = here if here.endswith(b"/") else here + b"/"
                stack.extend((prefix + name, child) for name, child in reversed(node.sorted_entries()))


class Leaf(Inode):
    """Anything but a directory. The same object may stand under several names: these are hard links."""

    __slots__ = ()


class RegularFile(Leaf):
    """A regular file in one of four forms:

    * inline: `inline` is the content (possibly empty), `digest` and `payload` are None;
    * external: `digest` is the fs-verity digest of an object, `size` its length;
    * unverified: `payload` is the backing path (`xx/rest`), no digest;
    * sparse: nothing but a `size`; reads as zeros.
    """

    __slots__ = ("digest", "inline", "payload", "size")
    file_type = stat.S_IFREG

    def __init__(
        self, permissions: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_nsec: int = 0,
        xattrs: dict[bytes, bytes] | None = None, *, inline: bytes | None = None, digest: bytes | None = None,
        size: int | None = None, payload: bytes | None = None,
    ) -> None:
        super().__init__(permissions, uid, gid, mtime, mtime_nsec, xattrs)
        self.inline = inline
        self.digest = digest
        self.payload = payload
        self.size = len(inline or b"") if size is None else size


class Symlink(Leaf):
    """A symbolic link; the target is kept verbatim."""

    __slots__ = ("target",)
    file_type = stat.S_IFLNK

    def __init__(
        self, permissions: int = 0o777, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_nsec: int = 0,
        xattrs: dict[bytes, bytes] | None = None, *, target: bytes = b"",
    ) -> None:
        super().__init__(permissions, uid, gid, mtime, mtime_nsec, xattrs)
        self.target = target


class Device(Leaf):
    """A device node; `rdev` is a 64-bit dev_t as glibc encodes it."""

    __slots__ = ("rdev",)

    def __init__(
        self, permissions: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, mtime_nsec: int = 0,
        xattrs: dict[bytes, bytes] | None = None, *, rdev: int = 0,
    ) -> None:
        super().__init__(permissions, uid, gid, mtime, mtime_nsec, xattrs)
        self.rdev = rdev


class CharDevice(Device):
    """A character device; with rdev 0 it is overlayfs's whiteout."""

    __slots__ = ()
    file_type = stat.S_IFCHR

    @property
    def is_whiteout(self) -> bool:
        return self.rdev == 0


class BlockDevice(Device):
    """A block device."""

    __slots__ = ()
    file_type = stat.S_IFBLK


class Fifo(Leaf):
    """A named pipe."""

    __slots__ = ()
    file_type = stat.S_IFIFO


class Socket(Leaf):
    """A Unix socket."""

    __slots__ = ()
    file_type = stat.S_IFSOCK


def object_path(digest: bytes) -> str:
    """Where an object lies below `objects/`: `xx/rest`, lower-case hex."""
    text = digest.hex()
    return f"{text[:2]}/{text[2:]}"


def link_counts(root: Directory) -> dict[int, int]:
    """How many names each leaf has, by `id()` of the leaf."""
    counts: dict[int, int] = {}
    stack: list[Directory] = [root]
    while stack:
        for child in stack.pop().entries.values():
            if isinstance(child, Directory):
                stack.append(child)
            else:
                counts[id(child)] = counts.get(id(child), 0) + 1
    return counts


def _name(item: tuple[bytes, Inode]) -> bytes:
    return item[0]
