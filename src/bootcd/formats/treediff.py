# SPDX-License-Identifier: Apache-2.0
"""How two file trees differ, path by path: why two images that should be one have different digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .tree import Device, Directory, Inode, RegularFile, Symlink, link_counts


@dataclass(frozen=True, slots=True)
class Difference:
    """A path at which two trees differ. `what` is "missing", "added", or what of it differs, with both values."""

    path: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.path.decode(errors='backslashreplace')}: {self.what}"


def differences(expected: Directory, found: Directory) -> Iterator[Difference]:
    """Every difference, depth first in byte order. Below a directory that only one tree has, nothing is told."""
    links = (link_counts(expected), link_counts(found))
    stack: list[tuple[bytes, Inode, Inode]] = [(b"/", expected, found)]
    while stack:
        path, one, other = stack.pop()
        what = "; ".join(_attributes(one, other, links))
        if what:
            yield Difference(path, what)
        if not isinstance(one, Directory) or not isinstance(other, Directory):
            continue
        prefix = path if path.endswith(b"/") else path + b"/"
        names = sorted(one.entries.keys() | other.entries.keys())
        for name in names:
            if name not in other.entries:
                yield Difference(prefix + name, "missing")
            elif name not in one.entries:
                yield Difference(prefix + name, "added")
        stack.extend((prefix + name, one.entries[name], other.entries[name]) for name in reversed(names)
                     if name in one.entries and name in other.entries)


def _attributes(one: Inode, other: Inode, links: tuple[dict[int, int], dict[int, int]]) -> Iterator[str]:
    """What differs in metadata and content; the value that was expected comes last."""
    if one.file_type != other.file_type:
        yield f"mode {other.mode:o} instead of {one.mode:o}"
        return
    if one.permissions != other.permissions:
        yield f"mode {other.permissions:o} instead of {one.permissions:o}"
    if (one.uid, one.gid) != (other.uid, other.gid):
        yield f"owner {other.uid}:{other.gid} instead of {one.uid}:{one.gid}"
    if (one.mtime, one.mtime_nsec) != (other.mtime, other.mtime_nsec):
        yield f"time {other.mtime}.{other.mtime_nsec:09} instead of {one.mtime}.{one.mtime_nsec:09}"
    for name in sorted(one.xattrs.keys() | other.xattrs.keys()):
        if one.xattrs.get(name) != other.xattrs.get(name):
            shown = name.decode(errors="backslashreplace")
            yield f"xattr {shown} {_presence(name in one.xattrs, name in other.xattrs)}"
    counts = links[1].get(id(other), 1), links[0].get(id(one), 1)
    if not isinstance(one, Directory) and counts[0] != counts[1]:
        yield f"{counts[0]} links instead of {counts[1]}"
    if _content(one) != _content(other) and not _of_other_algorithms(one, other):
        yield "content"


def _presence(expected: bool, found: bool) -> str:
    return "differs" if expected and found else "is missing" if expected else "was not there"


def _of_other_algorithms(one: Inode, other: Inode) -> bool:
    """Whether digests cannot tell if the contents are the same."""
    return (isinstance(one, RegularFile) and isinstance(other, RegularFile) and one.size == other.size
            and one.digest is not None and other.digest is not None and len(one.digest) != len(other.digest))


def _content(inode: Inode) -> object:
    if isinstance(inode, RegularFile):
        return inode.size, inode.inline or None, inode.digest, inode.payload if inode.digest is None else None
    if isinstance(inode, Symlink):
        return inode.target
    return inode.rdev if isinstance(inode, Device) else None
