# SPDX-License-Identifier: Apache-2.0
"""What counts as a change in /etc: content, permissions, owner, xattrs and kind of file; modification times do not."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ..formats.tree import Device, Directory, Inode, RegularFile, Symlink

ADDED, CHANGED, DELETED, RETYPED = "added", "changed", "deleted", "retyped"
"""What can have become of a path. `retyped` is another kind of file: a file where a directory was, a symlink where a
file was."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A path that is not as it was. `path` is relative to the top, which itself is b"."; below what was added, deleted
    or retyped as a whole, nothing is told. `what` of a changed one is any of content, mode, owner, xattrs."""

    path: bytes
    kind: str
    what: tuple[str, ...]
    before: Inode | None
    after: Inode | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """With `owners` False, owners and xattrs do not count, since a normal user could not have set them."""

    owners: bool = True

    def same(self, one: Inode, other: Inode) -> bool:
        """Whether two inodes are alike; of directories, with everything inside."""
        if isinstance(one, Directory) and isinstance(other, Directory):
            return (self.same_metadata(one, other) and one.entries.keys() == other.entries.keys()
                    and all(self.same(one.entries[name], child) for name, child in other.entries.items()))
        return _alike(one, other) and self.same_metadata(one, other)

    def same_metadata(self, one: Inode, other: Inode) -> bool:
        if not isinstance(one, Symlink) and one.permissions != other.permissions:
            return False
        return not self.owners or (one.uid, one.gid, one.xattrs) == (other.uid, other.gid, other.xattrs)

    def kind(self, before: Inode | None, after: Inode | None) -> str:
        """What became of a path that is not the same."""
        if before is None:
            return ADDED
        if after is None:
            return DELETED
        return CHANGED if before.file_type == after.file_type else RETYPED

    def differences(self, before: Directory, after: Directory, path: bytes = b"") -> Iterator[Difference]:
        """Every difference, in byte order of the paths of each directory."""
        what = self._what(before, after)
        if what:
            yield Difference(path or b".", CHANGED, what, before, after)
        for name in sorted({*before.entries, *after.entries}):
            one, other = before.entries.get(name), after.entries.get(name)
            below = path + b"/" + name if path else name
            if isinstance(one, Directory) and isinstance(other, Directory):
                yield from self.differences(one, other, below)
            elif one is None or other is None or not self.same(one, other):
                kind = self.kind(one, other)
                what = self._what(one, other) if one is not None and other is not None and kind == CHANGED else ()
                yield Difference(below, kind, what, one, other)

    def _what(self, one: Inode, other: Inode) -> tuple[str, ...]:
        found = [] if _alike(one, other) else ["content"]
        if not isinstance(one, Symlink) and one.permissions != other.permissions:
            found.append("mode")
        if self.owners and (one.uid, one.gid) != (other.uid, other.gid):
            found.append("owner")
        if self.owners and one.xattrs != other.xattrs:
            found.append("xattrs")
        return tuple(found)


def kind_of_file(node: Inode) -> str:
    """In words."""
    return {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
            stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}[node.file_type]


def _alike(one: Inode, other: Inode) -> bool:
    """Whether two inodes are of one kind and, unless they are directories, have the same content."""
    if type(one) is not type(other):
        return False
    if isinstance(one, RegularFile) and isinstance(other, RegularFile):
        return (one.size, one.inline, one.digest) == (other.size, other.inline, other.digest)
    if isinstance(one, Symlink) and isinstance(other, Symlink):
        return one.target == other.target
    if isinstance(one, Device) and isinstance(other, Device):
        return one.rdev == other.rdev
    return True
