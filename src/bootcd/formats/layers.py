# SPDX-License-Identifier: Apache-2.0
"""Puts the layers of an image on top of each other.

Parents are looked up name by name and symbolic links are never followed, so nothing that a layer says can reach outside
the tree or into a place that another name only points at. Members take effect in their order: an opaque mark also drops
what the same layer put there before it, and a hard link refers to what its target is at that moment. Native overlay
whiteouts (character device 0:0) are devices like any other.

Source: OCI image specification 1.1, layer.md ("Applying Changesets", "Whiteouts"); order as in composefs-rs 0.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import LayerConflict, LayerTooLarge
from .splitstream import External
from .tar import Entry, EntryType
from .tree import BlockDevice, CharDevice, Directory, Fifo, Inode, Leaf, RegularFile, Symlink

MAX_NAMES = 500_000
"""Names that the layers of an image may add. A full desktop has 300,000; each takes about 1 kB of memory while an image
is composed, and a layer of empty files compresses to next to nothing."""
MAX_METADATA = 256 << 20
"""Bytes of names, link targets, inline contents and xattrs that the layers of an image may bring."""
_MAX_PARENTS = 4096
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


@dataclass(slots=True)
class Budget:
    """What the layers of one image may still bring. What a later layer takes away is not given back: counting anew
    could be provoked again and again."""

    names: int = MAX_NAMES
    metadata: int = MAX_METADATA

    def spend(self, names: int, entry: Entry, content: bytes | External | None) -> None:
        """Raise LayerTooLarge when nothing is left."""
        self.names -= names
        size = len(entry.path) + len(entry.target)
        if isinstance(content, bytes):
            size += len(content)
        for key, value in entry.xattrs.items():
            size += len(key) + len(value)
        self.metadata -= size
        if self.names < 0 or self.metadata < 0:
            what = (f"more than {MAX_NAMES} names" if self.names < 0
                    else f"more than {MAX_METADATA >> 20} MiB of names, small files and xattrs")
            raise LayerTooLarge(f"the layers of the image bring {what}, the last of them {_shown(entry.path)}",
                                advice="Build the image with fewer files.")


def new_root() -> Directory:
    """The tree that the lowest layer is applied to: an empty root without metadata."""
    return Directory()


def apply_layer(
    root: Directory, entries: Iterable[tuple[Entry, bytes | External | None]], budget: Budget | None = None,
) -> None:
    """Change `root` as a layer's members say, which are those of `tar.entries`. All layers of an image share a budget.

    Raises LayerConflict, which names the member, when its parent or the target of a hard link is missing or of the
    wrong type, and LayerTooLarge; `root` is then of no use any more.
    """
    budget = budget or Budget()
    # Members mostly come directory by directory. Whatever takes a directory away empties this.
    parents: dict[bytes, Directory] = {b"": root}
    for entry, content in entries:
        path = entry.path
        if not path:
            if entry.type is not EntryType.DIRECTORY:
                raise LayerConflict(f"layer makes the root a {entry.type.value}")
            root.copy_metadata(_directory(entry))
            continue
        where, _, name = path.rpartition(b"/")
        parent = parents.get(where)
        if parent is None:
            if len(parents) >= _MAX_PARENTS:  # a path may have 4 kB
                parents = {b"": root}
            parent = parents[where] = _find_parent(root, where, path)
        siblings = parent.entries
        if name.startswith(_WHITEOUT):
            if name == _OPAQUE:
                siblings.clear()
            else:
                siblings.pop(name[len(_WHITEOUT) :], None)
            parents = {b"": root}
            continue
        old = siblings.get(name)
        budget.spend(old is None, entry, content)
        if entry.type is EntryType.DIRECTORY and isinstance(old, Directory):
            old.copy_metadata(_directory(entry))
            continue
        # A hard link's target is looked up first, since it may lie in what the new name replaces.
        new = _find_target(root, entry) if entry.type is EntryType.HARDLINK else _inode(entry, content)
        if isinstance(old, Directory):
            parents = {b"": root}
        siblings[name] = new


def _find_parent(root: Directory, where: bytes, path: bytes) -> Directory:
    found = root.lookup(where)
    if found is None:
        raise LayerConflict(f"layer entry {_shown(path)}: its parent does not exist")
    if not isinstance(found, Directory):
        raise LayerConflict(f"layer entry {_shown(path)}: its parent is not a directory")
    return found


def _find_target(root: Directory, entry: Entry) -> Leaf:
    found = root.lookup(entry.target)
    what = f"layer entry {_shown(entry.path)}: the target {_shown(entry.target)} of the hard link"
    if found is None:
        raise LayerConflict(f"{what} does not exist")
    if not isinstance(found, Leaf):
        raise LayerConflict(f"{what} is a directory")
    return found


def _directory(entry: Entry) -> Directory:
    return Directory(entry.permissions, entry.uid, entry.gid, entry.mtime, entry.mtime_nsec, entry.xattrs)


def _inode(entry: Entry, content: bytes | External | None) -> Inode:
    metadata = (entry.permissions, entry.uid, entry.gid, entry.mtime, entry.mtime_nsec, entry.xattrs)
    match entry.type:
        case EntryType.FILE:
            if isinstance(content, External):
                return RegularFile(*metadata, digest=content.digest, size=entry.size)
            return RegularFile(*metadata, inline=content or b"")
        case EntryType.DIRECTORY:
            return Directory(*metadata)
        case EntryType.SYMLINK:
            return Symlink(*metadata, target=entry.target)
        case EntryType.CHAR:
            return CharDevice(*metadata, rdev=entry.rdev)
        case EntryType.BLOCK:
            return BlockDevice(*metadata, rdev=entry.rdev)
        case EntryType.FIFO:
            return Fifo(*metadata)
    raise AssertionError(entry.type)  # hard links are no inodes of their own


def _shown(path: bytes) -> str:
    return repr(path if len(path) <= 200 else path[:197] + b"...")[1:]
