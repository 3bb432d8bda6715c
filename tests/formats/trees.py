# SPDX-License-Identifier: Apache-2.0
"""Random file trees, and a way to compare them."""

from __future__ import annotations

from hypothesis import strategies as st

from bootcd.formats.tree import (
    BlockDevice,
    CharDevice,
    Device,
    Directory,
    Fifo,
    Inode,
    Leaf,
    RegularFile,
    Socket,
    Symlink,
)

UINT32 = (1 << 32) - 1

_name_bytes = st.one_of(
    st.sampled_from([b"a", b"b", b"-x", b"!", b"00", b"ff", b"..a", b"=", b" ", b"\n", b"-", b"\\x", b"n" * 255]),
    st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"\0", b"_").replace(b"/", b"|")),
)
names = _name_bytes.filter(lambda name: name not in (b".", b".."))
_words = st.sampled_from([0, 0, 0, 1, 1000, 65535, 65536, UINT32])
_xattr_names = st.sampled_from(
    [
        b"user.a", b"user.b=c", b"user.overlay.x", b"security.selinux", b"security.capability", b"trusted.t",
        b"trusted.overlay.metacopy", b"trusted.overlay.opaque", b"trusted.overlay.overlay.opaque", b"lustre.lov",
        b"system.posix_acl_access", b"system.posix_acl_default", b"odd", b"user." + b"k" * 250,
    ]
)  # fmt: skip
_values = st.one_of(st.sampled_from([b"", b"-", b"same", b"same", b"v" * 300]), st.binary(max_size=20))
_xattrs = st.one_of(st.just({}), st.dictionaries(_xattr_names, _values, max_size=5))
_contents = st.one_of(st.sampled_from([b"", b"-", b"x" * 64]), st.binary(max_size=64))


@st.composite
def _metadata(draw: st.DrawFn) -> tuple[int, int, int, int, int, dict[bytes, bytes]]:
    seconds = draw(st.sampled_from([0, 0, 1, 5, 1700000000, 1 << 40]))
    nsec = draw(st.sampled_from([0, 0, 7, 999_999_999]))
    return draw(st.integers(0, 0o7777)), draw(_words), draw(_words), seconds, nsec, dict(draw(_xattrs))


@st.composite
def leaves(draw: st.DrawFn, digest_size: int = 64, whiteouts: bool = True) -> Leaf:
    common = draw(_metadata())
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return RegularFile(*common, inline=draw(_contents))
    if kind == 1:
        digest = draw(st.binary(min_size=digest_size, max_size=digest_size))
        return RegularFile(*common, digest=digest, size=draw(st.integers(65, 1 << 40)))
    if kind == 2:
        return RegularFile(*common, size=draw(st.integers(1, 1 << 33)))
    if kind == 3:
        target = draw(st.one_of(st.binary(min_size=1, max_size=40), st.just(b"t" * 1020)))
        return Symlink(*common, target=target.replace(b"\0", b"0"))
    if kind == 4:
        rdev = draw(st.sampled_from([0, 0, 259, UINT32] if whiteouts else [259, UINT32]))
        return CharDevice(*common, rdev=rdev)
    if kind == 5:
        return BlockDevice(*common, rdev=draw(st.sampled_from([0, 7])))
    return Fifo(*common) if kind == 6 else Socket(*common)


@st.composite
def trees(draw: st.DrawFn, digest_size: int = 64, whiteouts: bool = True, size: int = 20) -> Directory:
    """Trees of up to `size` names with hard links, of which no whiteout is one."""
    root = Directory(*draw(_metadata()))
    directories = [root]
    linkable: list[Leaf] = []
    for _ in range(draw(st.integers(0, size))):
        parent = directories[draw(st.integers(0, len(directories) - 1))]
        name = draw(names)
        if name in parent.entries:
            continue
        kind = draw(st.integers(0, 5))
        if kind <= 1:
            child = Directory(*draw(_metadata()))
            parent.entries[name] = child
            directories.append(child)
        elif kind == 2 and linkable:
            parent.entries[name] = linkable[draw(st.integers(0, len(linkable) - 1))]
        else:
            leaf = draw(leaves(digest_size, whiteouts))
            parent.entries[name] = leaf
            if not (isinstance(leaf, CharDevice) and leaf.is_whiteout):
                linkable.append(leaf)
    return root


def describe(root: Directory) -> list[tuple[object, ...]]:
    """Everything a tree says, in a form that compares and prints: one row for every name."""
    first: dict[int, bytes] = {}
    rows: list[tuple[object, ...]] = []
    for path, inode in root.walk():
        rows.append((path, first.setdefault(id(inode), path), inode.mode, inode.uid, inode.gid, inode.mtime,
                     inode.mtime_nsec, sorted(inode.xattrs.items()), _content(inode)))  # fmt: skip
    return rows


def _content(inode: Inode) -> object:
    if isinstance(inode, RegularFile):
        return inode.size, inode.inline, inode.digest, inode.payload
    if isinstance(inode, Symlink):
        return inode.target
    return inode.rdev if isinstance(inode, Device) else None
