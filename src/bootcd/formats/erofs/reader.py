# SPDX-License-Identifier: Apache-2.0
"""From a composefs image back to the file tree that it was made of.

Images of V0, V1 and V2 are read, whoever wrote them: bootcd, composefs-rs or mkcomposefs. What the writer added for
overlayfs is taken away again (see bootcd.formats.erofs.prepare): the stubs in the root, the xattrs that lead to
objects, the marks on whiteouts and on their directories, the escaping of `trusted.overlay.` names. Writing the tree
again with the same version and algorithm gives the same image.

An image is not trusted. Whatever bytes it has, reading ends with a tree or with ErofsError, in time and memory
proportional to its size: every inode is read once, whatever number of names it has, and see bootcd.formats.erofs.inodes
for the rest. Link counts, `.` and `..`, file types in directories and the order of names must all be right, and a
directory has one name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.inodes import Inodes, Pairs, RawInode, Superblock
from bootcd.formats.erofs.layout import BLOCK_SIZE, DataLayout, Version
from bootcd.formats.tree import (
    BlockDevice,
    CharDevice,
    Directory,
    Fifo,
    Inode,
    Leaf,
    RegularFile,
    Socket,
    Symlink,
    object_path,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

TARGET_MAX: Final = 4095
"""Longest target of a symlink; the kernel could not follow more."""

_SELINUX: Final = b"security.selinux"
_TYPES: Final = {kind: mode for mode, kind in layout.FILE_TYPES.items()}
_DIRECTORY: Final = layout.FILE_TYPES[stat.S_IFDIR]
_ACL_NAMES: Final = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))
_DIGEST_SIZES: Final = {1: 32, 2: 64}
"""By the kernel's id of the hash."""


class Image:
    """One image, its headers validated. Close it, or use it as a context manager, before closing a mapping it reads."""

    def __init__(self, data: Buffer) -> None:
        """Raises ErofsError if `data` is no image of composefs, or is larger than 1 GiB."""
        self._view = memoryview(data).cast("B")
        try:
            self._superblock = Superblock(self._view)
        except ErofsError:
            self._view.release()
            raise

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the data."""
        self._view.release()

    @property
    def version(self) -> Version:
        """The version of the format; to be given to the writer for the same image again."""
        return self._superblock.version

    def root(self) -> Directory:
        """The tree. Raises ErofsError."""
        return _TreeReader(self._view, self._superblock).read()

    def objects(self) -> set[bytes]:
        """The digests of all objects that the files of the image are kept in, without building the tree.

        A file whose backing path is not that of its digest is an error, since it would read something else than what
        its digest protects. Raises ErofsError.
        """
        inodes = Inodes(self._view, self._superblock)
        found = set()
        for inode in _leaves(inodes, self._superblock.root_nid):
            if stat.S_ISREG(inode.mode):
                digest, _, _ = _backing(inode)
                if digest is not None:
                    found.add(digest)
        return found

    def check(self) -> None:
        """Check everything that `root` checks, and what kernels expect beyond that. Raises ErofsError."""
        reader = _TreeReader(self._view, self._superblock, strict=True)
        reader.read()
        claimed = self._superblock.inode_count
        if reader.inode_count != claimed:
            raise ErofsError(f"the superblock counts {claimed} inodes, there are {reader.inode_count}")


def _leaves(inodes: Inodes, root_nid: int) -> Iterator[RawInode]:
    """Every inode that is no directory, once."""
    directories = [root_nid]
    seen = {root_nid}
    while directories:
        directory = inodes.read(directories.pop())
        if not stat.S_ISDIR(directory.mode):
            raise ErofsError(f"inode {directory.nid} should be a directory")
        for name, nid, kind in inodes.entries(directory):
            if kind == _DIRECTORY:
                if name == b"." or name == b"..":
                    continue
                if nid in seen:
                    raise ErofsError(f"directory {nid} is reached twice")
                directories.append(nid)
            elif nid in seen:
                continue
            else:
                leaf = inodes.read(nid)
                if stat.S_ISDIR(leaf.mode):
                    raise ErofsError(f"inode {nid} should not be a directory")
                yield leaf
            seen.add(nid)


class _TreeReader:
    """One reading of the whole tree. `strict` adds what Image.check promises."""

    def __init__(self, view: memoryview, superblock: Superblock, strict: bool = False) -> None:
        self._inodes = Inodes(view, superblock)
        self._superblock = superblock
        self._is_v2 = superblock.version is Version.V2
        self._strict = strict
        self._leaves: dict[int, Leaf] = {}
        self._missing_links: dict[int, int] = {}
        """How many names are still to be found for the inodes that have more than one."""
        self._marks: Pairs = list(layout.WHITEOUT_PARENT_XATTRS)
        if superblock.version is Version.V1:
            self._marks += layout.WHITEOUT_OPAQUE_XATTRS
        self.inode_count = 0

    def read(self) -> Directory:
        root_nid = self._superblock.root_nid
        root = Directory()
        seen = {root_nid}
        # Directories to be filled: nid, nid of the parent, and the object.
        stack = [(root_nid, root_nid, root)]
        while stack:
            nid, parent_nid, directory = stack.pop()
            for child_nid, child in self._fill(nid, parent_nid, directory):
                if child_nid in seen or child_nid in self._leaves:
                    raise ErofsError(f"directory {child_nid} is reached twice")
                seen.add(child_nid)
                stack.append((child_nid, nid, child))
        for nid, missing in self._missing_links.items():
            if missing:
                raise ErofsError(f"the link count of inode {nid} is {missing} more than it has names")
        return root

    def _fill(self, nid: int, parent_nid: int, directory: Directory) -> list[tuple[int, Directory]]:
        """Read one directory; returns its directories, which are still empty."""
        inode = self._read(nid)
        if not stat.S_ISDIR(inode.mode):
            raise ErofsError(f"inode {nid} should be a directory")
        is_root = nid == self._superblock.root_nid
        entries = self._inodes.entries(inode)
        itself = {b".": nid, b"..": parent_nid}
        found: list[tuple[int, Directory]] = []
        children = directory.entries
        pairs = inode.xattrs
        marked = not self._is_v2 and all(mark in pairs for mark in self._marks)
        whiteouts: set[bytes] = set()
        for name, child_nid, kind in entries:
            if kind != _DIRECTORY:
                leaf, is_whiteout = self._leaf(child_nid, kind, marked, is_root and name in layout.STUB_NAMES)
                if is_whiteout:
                    whiteouts.add(name)
                children[name] = leaf
            elif name in itself:
                expected = itself.pop(name)
                if child_nid != expected:
                    raise ErofsError(f"directory {nid}: '{name.decode()}' is inode {child_nid}, not {expected}")
            else:
                child = Directory()
                children[name] = child
                found.append((child_nid, child))
        if itself:
            raise ErofsError(f"directory {nid} lacks '.' or '..'")
        if b"." in children or b".." in children:
            raise ErofsError(f"directory {nid}: '.' or '..' is no directory")
        if inode.nlink != 2 + len(found):
            raise ErofsError(f"directory {nid} has {inode.nlink} links and {len(found)} directories")
        if whiteouts:
            pairs = _without(pairs, self._marks)
        if is_root and not self._is_v2:
            if (layout.XATTR_OPAQUE, b"y") not in pairs:
                raise ErofsError(f"the root lacks the xattr {layout.XATTR_OPAQUE.decode()}")
            pairs = _without(pairs, [(layout.XATTR_OPAQUE, b"y")])
        _set_metadata(directory, inode, pairs)
        if is_root and not self._is_v2:
            self._drop_stubs(directory, whiteouts)
        return found

    def _read(self, nid: int) -> RawInode:
        inode = self._inodes.read(nid)
        self.inode_count += 1
        if self._strict:
            _check_filter(inode, self._superblock)
        return inode

    def _leaf(self, nid: int, kind: int, marked: bool, may_be_stub: bool) -> tuple[Leaf, bool]:
        """The leaf at `nid`, and whether it was an escaped whiteout; `marked` tells whether one may be here."""
        leaf = self._leaves.get(nid)
        if leaf is not None:
            missing = self._missing_links.get(nid, 0)
            if not missing:
                raise ErofsError(f"inode {nid} has more names than its link count tells")
            if leaf.file_type != _TYPES.get(kind):
                raise ErofsError(f"inode {nid} has two types")
            self._missing_links[nid] = missing - 1
            return leaf, False
        inode = self._read(nid)
        if stat.S_IFMT(inode.mode) != _TYPES.get(kind):
            raise ErofsError(f"inode {nid} has mode {inode.mode:o} and stands in a directory as type {kind}")
        is_whiteout = False
        if marked and inode.nlink == 1 and _is_whiteout(inode):
            is_whiteout = True
            leaf = CharDevice()
            _set_metadata(leaf, inode, _without(inode.xattrs, layout.WHITEOUT_XATTRS))
        else:
            leaf = self._plain_leaf(inode)
            is_native = not self._is_v2 and isinstance(leaf, CharDevice) and leaf.is_whiteout
            if is_native and not (may_be_stub and inode.nlink == 1):
                raise ErofsError(f"inode {nid} is a whiteout that is not escaped")
        if inode.nlink != 1:
            if not inode.nlink:
                raise ErofsError(f"inode {nid} has no links")
            self._missing_links[nid] = inode.nlink - 1
        self._leaves[nid] = leaf
        return leaf, is_whiteout

    def _plain_leaf(self, inode: RawInode) -> Leaf:
        kind = stat.S_IFMT(inode.mode)
        pairs = inode.xattrs
        leaf: Leaf
        if kind == stat.S_IFREG:
            leaf, pairs = self._regular(inode)
        elif kind == stat.S_IFLNK:
            leaf = self._symlink(inode)
        elif inode.layout != DataLayout.FLAT_PLAIN or inode.size:
            raise ErofsError(f"inode {inode.nid} has mode {inode.mode:o} and {inode.size} bytes")
        elif kind == stat.S_IFCHR:
            leaf = CharDevice(rdev=inode.start)
        elif kind == stat.S_IFBLK:
            leaf = BlockDevice(rdev=inode.start)
        elif kind == stat.S_IFIFO:
            leaf = Fifo()
        else:
            leaf = Socket()
        _set_metadata(leaf, inode, pairs)
        return leaf

    def _regular(self, inode: RawInode) -> tuple[RegularFile, Pairs]:
        digest, payload, pairs = _backing(inode)
        if inode.layout != DataLayout.CHUNK_BASED:
            if self._strict and self._is_v2 and _is_whiteout(inode):
                raise ErofsError(f"inode {inode.nid} is an escaped whiteout, which V2 does not have")
            return RegularFile(inline=self._inodes.content(inode)), pairs
        self._inodes.check_chunks(inode, digest is not None)
        if digest is None and payload is None and not inode.size:
            return RegularFile(inline=b""), pairs
        return RegularFile(digest=digest, payload=payload, size=inode.size), pairs

    def _symlink(self, inode: RawInode) -> Symlink:
        if not 0 < inode.size <= TARGET_MAX:
            raise ErofsError(f"symlink {inode.nid} has a target of {inode.size} bytes")
        target = self._inodes.content(inode)
        if b"\0" in target:
            raise ErofsError(f"symlink {inode.nid} has a target with a NUL byte")
        is_inline = inode.layout == DataLayout.FLAT_INLINE
        if self._strict and is_inline and inode.tail % BLOCK_SIZE + inode.size > BLOCK_SIZE:
            raise ErofsError(f"the target of symlink {inode.nid} crosses a block; Linux before 6.12 cannot read it")
        return Symlink(target=target)

    def _drop_stubs(self, root: Directory, whiteouts: set[bytes]) -> None:
        """Take away the stubs, but not the `whiteouts` that were escaped.

        A stub without the label that the root has was in the tree, where the writer took it for a stub.
        """
        label = root.xattrs.get(_SELINUX)
        xattrs = {} if label is None else {_SELINUX: label}
        owner_and_time = (layout.STUB_PERMISSIONS, root.uid, root.gid, root.mtime, root.mtime_nsec)
        for name in layout.STUB_NAMES:
            child = root.entries.get(name)
            if child is None:
                if self._strict:
                    raise ErofsError(f"the root lacks {name.decode()}, which hides a directory of objects")
                continue
            if not (isinstance(child, CharDevice) and child.is_whiteout) or name in whiteouts:
                continue
            if (child.permissions, child.uid, child.gid, child.mtime, child.mtime_nsec) != owner_and_time:
                raise ErofsError(f"/{name.decode()} is a whiteout that is neither escaped nor a stub")
            if child.xattrs == xattrs:
                del root.entries[name]
            elif child.xattrs:
                raise ErofsError(f"/{name.decode()} is a whiteout that is neither escaped nor a stub")


def _is_whiteout(inode: RawInode) -> bool:
    """Whether the inode looks like what a whiteout is turned into."""
    return (
        stat.S_ISREG(inode.mode) and not inode.size and inode.layout == DataLayout.FLAT_PLAIN
        and all(mark in inode.xattrs for mark in layout.WHITEOUT_XATTRS)
    )  # fmt: skip


def _without(pairs: Pairs, marks: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """`pairs` without one of each of `marks`; a tree may have had the same pair, then composefs-rs writes it twice."""
    rest = pairs.copy()
    for mark in marks:
        rest.remove(mark)
    return rest


def _backing(inode: RawInode) -> tuple[bytes | None, bytes | None, Pairs]:
    """Where the data of a regular file is: digest of its object, or a path without one; and all its other xattrs."""
    metacopy: bytes | None = None
    redirect: bytes | None = None
    rest: Pairs = []
    for pair in inode.xattrs:
        name, value = pair
        if name == layout.XATTR_METACOPY and metacopy is None:
            metacopy = value
        elif name == layout.XATTR_REDIRECT and redirect is None:
            redirect = value
        else:
            rest.append(pair)
    if metacopy is None and redirect is None:
        return None, None, rest
    if inode.layout != DataLayout.CHUNK_BASED or metacopy is None:
        raise ErofsError(f"inode {inode.nid} has content of its own and leads to an object as well")
    if redirect is not None and (not redirect.startswith(b"/") or redirect[1:2] in (b"", b"/") or b"\0" in redirect):
        raise ErofsError(f"inode {inode.nid} has no backing path in its xattr {layout.XATTR_REDIRECT.decode()}")
    if not metacopy:
        return None, redirect and redirect[1:], rest
    head, digest = metacopy[:layout.METACOPY_HEADER.size], metacopy[layout.METACOPY_HEADER.size:]
    if len(head) == layout.METACOPY_HEADER.size:
        version, size, flags, algorithm = layout.METACOPY_HEADER.unpack(head)
        if (version, size, flags) == (0, len(metacopy), 0) and _DIGEST_SIZES.get(algorithm) == len(digest):
            if redirect != b"/" + object_path(digest).encode():
                raise ErofsError(f"inode {inode.nid} has another backing path than that of its digest {digest.hex()}")
            return digest, None, rest
    raise ErofsError(f"inode {inode.nid} has no digest in its xattr {layout.XATTR_METACOPY.decode()}")


def _set_metadata(target: Inode, inode: RawInode, pairs: Pairs) -> None:
    target.permissions = stat.S_IMODE(inode.mode)
    target.uid = inode.uid
    target.gid = inode.gid
    target.mtime = inode.mtime
    target.mtime_nsec = inode.mtime_nsec
    if pairs:
        target.xattrs = _unescaped(pairs, inode.nid)


def _unescaped(pairs: Pairs, nid: int) -> dict[bytes, bytes]:
    xattrs: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name.startswith(layout.OVERLAY_PREFIX):
            if not name.startswith(layout.OVERLAY_ESCAPED_PREFIX):
                raise ErofsError(f"inode {nid} has the xattr {name.decode('ascii', 'backslashreplace')}")
            name = layout.OVERLAY_PREFIX + name[len(layout.OVERLAY_ESCAPED_PREFIX):]
        if name in xattrs:
            raise ErofsError(f"inode {nid} has the xattr {name.decode('ascii', 'backslashreplace')} twice")
        xattrs[name] = value
    return xattrs


def _check_filter(inode: RawInode, superblock: Superblock) -> None:
    """The kernel does not find an xattr that the name filter denies, nor an ACL that the header does not announce."""
    bits = 0
    for name, _ in inode.xattrs:
        bits |= layout.xattr_filter_bit(*layout.split_xattr_name(name, superblock.version))
        if name in _ACL_NAMES and superblock.version is not Version.V2 and not superblock.flags & layout.FLAG_HAS_ACL:
            raise ErofsError(f"inode {inode.nid} has an ACL, but the header denies it")
    if inode.xattrs and inode.name_filter != ~bits & 0xFFFFFFFF:
        raise ErofsError(f"inode {inode.nid} has the wrong filter for the names of its xattrs")
