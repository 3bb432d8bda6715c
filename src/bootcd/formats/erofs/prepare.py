# SPDX-License-Identifier: Apache-2.0
"""From a file tree to the list of inodes that an image holds, in the order of their numbers.

V0 and V1 number breadth first: a directory numbers its children in byte order of their names, and a leaf with several
names is numbered where a depth-first walk meets it first. V2 numbers depth first.

What V0 and V1 add to the tree, so that overlayfs can be mounted on top of it:

* the root gets 256 character devices 0/0 named 00 to ff, where no such name exists, and `trusted.overlay.opaque`;
* a whiteout of the tree becomes an empty regular file, marked by xattrs on it and on its directory.

In every version an external file gets the xattrs that lead overlayfs to its object, and names of the tree that begin
with `trusted.overlay.` are escaped. The tree itself is not changed.
"""

from __future__ import annotations

import stat
from binascii import hexlify
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Final, TypeAlias

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import CharDevice, Directory, Inode, RegularFile, link_counts

Xattr: TypeAlias = tuple[bytes, int, bytes]
"""Full name, length of the value, value: V0 and V1 sort xattrs by exactly this."""

_SELINUX: Final = b"security.selinux"
_STUB_NAMES: Final = frozenset(layout.STUB_NAMES)
_OWNER_AND_TIME: Final = attrgetter("uid", "gid", "mtime", "mtime_nsec")


class Node:
    """One inode of an image. What `prepare` knows is set by it, the rest by `xattrs` and `placement`."""

    __slots__ = (
        "address", "block", "blocks", "data_layout", "extended", "file_type", "filter", "inline", "inode",
        "local_xattrs", "name", "nlink", "offset", "parent", "shared_xattrs", "size", "tail", "xattr_size", "xattrs",
    )

    def __init__(self, inode: Inode, file_type: int, parent: DirectoryNode | None, name: bytes) -> None:
        self.inode = inode
        """Where owner, permissions, times and content come from."""
        self.file_type = file_type
        """S_IFMT bits in the image; those of an escaped whiteout differ from `inode`."""
        self.parent = parent
        """None for the root alone."""
        self.name = name
        self.nlink = 1
        self.xattrs: list[Xattr] = []

        self.filter = 0
        """Or of the filter bits of all xattr names."""
        self.shared_xattrs: list[int] = []
        """Offsets in the table of shared xattrs."""
        self.local_xattrs = b""
        self.xattr_size = 0

        self.extended = True
        self.data_layout = 0
        self.size = 0
        self.address = 0
        """i_u: rdev, chunk format or the first block."""
        self.inline = b""
        """Content of a file or symlink, or chunk pointers, wherever it goes; of a directory it depends on nids."""
        self.tail = 0
        """How many bytes follow the xattrs."""
        self.block = 0
        self.blocks = 0
        """The first data block and how many there are."""
        self.offset = 0
        """Of the inode, in bytes; 32 times the nid."""

    def path(self) -> str:
        """Its path, for messages."""
        parts = []
        node: Node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return "/" + b"/".join(reversed(parts)).decode("utf-8", "backslashreplace")


class DirectoryNode(Node):
    """A directory: `names` has everything to be listed, "." and ".." included, in byte order, and `children` what each
    name stands for."""

    __slots__ = ("children", "groups", "names")

    def __init__(self, inode: Directory, parent: DirectoryNode | None, name: bytes) -> None:
        super().__init__(inode, stat.S_IFDIR, parent, name)
        self.names: list[bytes] = []
        self.children: list[Node] = []
        self.groups: list[int] = []
        """Where each block of entries ends in `names`; the last is the inline tail if `tail` is not 0."""


def prepare(root: Directory, version: Version, algorithm: Algorithm) -> list[Node]:
    """The nodes of an image of `root`. Raises ErofsError for what an image cannot hold."""
    builder = _Builder(root, version, algorithm)
    nodes = builder.depth_first() if version is Version.V2 else builder.breadth_first()
    if version is not Version.V2:
        nodes[0].xattrs.append((layout.XATTR_OPAQUE, 1, b"y"))
        for node in nodes:
            node.xattrs.sort()
    return nodes


class _Builder:
    def __init__(self, root: Directory, version: Version, algorithm: Algorithm) -> None:
        self._root = root
        self._top = DirectoryNode(root, None, b"")
        self._top.xattrs = _xattrs(self._top, algorithm)
        self._version = version
        self._algorithm = algorithm
        self._links = link_counts(root)
        self._linked: dict[int, Node] = {}
        """Nodes of leaves that have several names, by id() of the leaf."""

    def breadth_first(self) -> list[Node]:
        home = self._homes()
        nodes: list[Node] = [self._top]
        queue = [self._top]
        for directory in queue:
            whiteouts = False
            for child in self._list(directory):
                if isinstance(child, DirectoryNode):
                    queue.append(child)
                elif child.nlink > 1:
                    key = id(child.inode)
                    if home.get(key) is not directory.inode:
                        continue
                    del home[key]
                elif child.file_type != child.inode.file_type:
                    whiteouts = True
                nodes.append(child)
            if whiteouts:
                self._mark_whiteouts(directory)
        return nodes

    def depth_first(self) -> list[Node]:
        nodes: list[Node] = []
        numbered: set[int] = set()
        # What is still to be numbered, the next on top.
        stack: list[Node] = [self._top]
        while stack:
            node = stack.pop()
            if isinstance(node, DirectoryNode):
                stack.extend(reversed(self._list(node)))
            elif node.nlink > 1:
                if id(node) in numbered:
                    continue
                numbered.add(id(node))
            nodes.append(node)
        return nodes

    def _homes(self) -> dict[int, Inode]:
        """The directory in which a depth-first walk first meets each leaf that has several names."""
        missing = {leaf for leaf, count in self._links.items() if count > 1}
        home: dict[int, Inode] = {}
        stack: list[tuple[Directory, Inode]] = [(self._root, self._root)]
        while missing and stack:
            directory, inode = stack.pop()
            if isinstance(inode, Directory):
                stack.extend((inode, child) for _, child in reversed(inode.sorted_entries()))
            elif id(inode) in missing:
                missing.remove(id(inode))
                home[id(inode)] = directory
        return home

    def _list(self, directory: DirectoryNode) -> list[Node]:
        """Fill a directory and return its children in order, without "." and ".."."""
        inodes = self._entries(directory)
        names = sorted(inodes)
        children = []
        directory.nlink = 2
        links = self._links
        linked = self._linked
        for name in names:
            inode = inodes[name]
            child: Node | None
            if isinstance(inode, Directory):
                child = DirectoryNode(inode, directory, name)
                directory.nlink += 1
            elif (count := links.get(id(inode), 1)) == 1:
                child = Node(inode, inode.file_type, directory, name)
            elif (child := linked.get(id(inode))) is None:
                child = linked[id(inode)] = Node(inode, inode.file_type, directory, name)
                child.nlink = count
            else:
                children.append(child)
                continue
            children.append(child)
            if inode.xattrs or isinstance(inode, RegularFile):
                child.xattrs = _xattrs(child, self._algorithm)
            if isinstance(inode, CharDevice) and inode.is_whiteout:
                if child.nlink > 1:
                    raise ErofsError(f"{child.path()}: a whiteout must not have hard links")
                if self._version is not Version.V2:
                    self._escape_whiteout(child)
        directory.names, directory.children = names, children.copy()
        for name, node in ((b".", directory), (b"..", directory.parent or directory)):
            position = bisect_left(names, name)
            names.insert(position, name)
            directory.children.insert(position, node)
        return children

    def _entries(self, directory: DirectoryNode) -> dict[bytes, Inode]:
        """What a directory holds, with the stubs if it is the root."""
        assert isinstance(directory.inode, Directory)
        entries = directory.inode.entries
        if entries:
            joined = b"".join(entries)
            if (
                b"" in entries or b"." in entries or b".." in entries or b"/" in joined or b"\0" in joined
                or max(map(len, entries)) > layout.NAME_MAX
            ):
                _reject_name(directory)
        if directory is self._top and self._version is not Version.V2:
            stub = CharDevice()
            stub.copy_metadata(self._root)
            stub.permissions = layout.STUB_PERMISSIONS
            stub.xattrs = _label(self._root)
            return dict.fromkeys(layout.STUB_NAMES, stub) | entries
        return entries

    def _escape_whiteout(self, node: Node) -> None:
        inode = node.inode
        root = self._root
        # A stub that an image already had, when its tree is written again.
        if (
            node.parent is self._top and node.name in _STUB_NAMES and inode.permissions == layout.STUB_PERMISSIONS
            and _OWNER_AND_TIME(inode) == _OWNER_AND_TIME(root) and inode.xattrs == _label(root)
        ):
            return
        node.file_type = stat.S_IFREG
        node.xattrs.extend(_pairs(layout.WHITEOUT_XATTRS))

    def _mark_whiteouts(self, directory: DirectoryNode) -> None:
        directory.xattrs.extend(_pairs(layout.WHITEOUT_PARENT_XATTRS))
        if self._version is Version.V1:
            directory.xattrs.extend(_pairs(layout.WHITEOUT_OPAQUE_XATTRS))


def _pairs(xattrs: Iterable[tuple[bytes, bytes]]) -> Iterator[Xattr]:
    return ((name, len(value), value) for name, value in xattrs)


def _label(root: Directory) -> dict[bytes, bytes]:
    return {_SELINUX: root.xattrs[_SELINUX]} if _SELINUX in root.xattrs else {}


def _xattrs(node: Node, algorithm: Algorithm) -> list[Xattr]:
    inode = node.inode
    found: list[Xattr] = []
    if isinstance(inode, RegularFile) and inode.inline is None:
        _add_data_xattrs(node, inode, algorithm, found)
    for name in sorted(inode.xattrs):
        value = inode.xattrs[name]
        if name.startswith(layout.OVERLAY_PREFIX):
            name = layout.OVERLAY_ESCAPED_PREFIX + name[len(layout.OVERLAY_PREFIX):]
        found.append((name, len(value), value))
    return found


def _add_data_xattrs(node: Node, inode: RegularFile, algorithm: Algorithm, found: list[Xattr]) -> None:
    """How overlayfs finds and verifies the data of a file that is not inline."""
    if inode.digest is not None:
        size = len(inode.digest)
        if size != algorithm.digest_size:
            raise ErofsError(
                f"{node.path()}: its digest has {size} bytes, {algorithm.label} needs {algorithm.digest_size}"
            )
        size += layout.METACOPY_HEADER.size
        metacopy = layout.METACOPY_HEADER.pack(0, size, 0, algorithm.kernel_id) + inode.digest
        name = hexlify(inode.digest)
        redirect = b"/%b/%b" % (name[:2], name[2:])
    elif inode.payload is not None:
        metacopy = b""
        redirect = inode.payload if inode.payload.startswith(b"/") else b"/" + inode.payload
    elif inode.size:
        found.append((layout.XATTR_METACOPY, 0, b""))
        return
    else:
        return
    found.append((layout.XATTR_METACOPY, len(metacopy), metacopy))
    found.append((layout.XATTR_REDIRECT, len(redirect), redirect))


def _reject_name(directory: DirectoryNode) -> None:
    assert isinstance(directory.inode, Directory)
    for name in sorted(directory.inode.entries):
        if name in (b"", b".", b"..") or len(name) > layout.NAME_MAX or b"/" in name or b"\0" in name:
            raise ErofsError(f"{directory.path()}: {name[:300]!r} cannot be the name of a file")
