# SPDX-License-Identifier: Apache-2.0
"""Headers of a layer's tar, for the inodes of a tree (POSIX.1-2017 pax; OCI image specification 1.1, layer.md).

What a ustar header cannot say stands in an extended header before it: long or non-ASCII names, times with fractions of
seconds, large numbers, and xattrs (`SCHILY.xattr.NAME`). `tarheader` reads back what is written here. Of the xattrs
those are written that belong to a file wherever it lies: `security.capability` and `user.*`.
"""

from __future__ import annotations

from os import major, minor

from ..errors import TarError
from .tree import BlockDevice, CharDevice, Device, Directory, Fifo, Inode, RegularFile, Symlink

BLOCK = 512
END = bytes(2 * BLOCK)
"""What ends an archive."""

_TYPES = {RegularFile: b"0", Symlink: b"2", CharDevice: b"3", BlockDevice: b"4", Directory: b"5", Fifo: b"6"}
_HARDLINK = b"1"
_NAME = 100
_WHITEOUT = b".wh."


def header(path: bytes, inode: Inode, link: bytes | None = None) -> bytes:
    """The blocks before the content of `path`, which is relative; with `link`, it is another name of that path.

    Raises TarError for what no layer can hold: sockets, times before 1970, names that mean something else there.
    """
    kind = _HARDLINK if link is not None else _TYPES.get(type(inode))
    if kind is None:
        raise TarError(f"/{_shown(path)} is a socket, which no layer can hold")
    if path.rpartition(b"/")[2].startswith(_WHITEOUT):
        raise TarError(f"/{_shown(path)} has a name that means something else in a layer")
    if inode.mtime < 0:
        raise TarError(f"/{_shown(path)} has a time before 1970, which no layer can hold")
    name = path + b"/" if isinstance(inode, Directory) else path
    target = link if link is not None else inode.target if isinstance(inode, Symlink) else b""
    size = inode.size if isinstance(inode, RegularFile) and link is None else 0
    pax: dict[bytes, bytes] = {}
    for key, text in ((b"path", name), (b"linkpath", target)):
        if len(text) > _NAME or not text.isascii():
            pax[key] = text
    numbers = {}
    for key, value, limit in ((b"uid", inode.uid, 8**7), (b"gid", inode.gid, 8**7), (b"size", size, 8**11)):
        numbers[key] = value if value < limit else 0
        if value >= limit:
            pax[key] = b"%d" % value
    mtime = inode.mtime if inode.mtime < 8**11 else 0
    if inode.mtime_nsec or mtime != inode.mtime:
        pax[b"mtime"] = b"%d.%09d" % (inode.mtime, inode.mtime_nsec)
    for xattr, content in sorted(inode.xattrs.items()):
        if xattr == b"security.capability" or xattr.startswith(b"user."):
            if b"=" in xattr or b"\n" in xattr:
                raise TarError(f"/{_shown(path)} has the xattr {_shown(xattr)}, whose name no layer can hold")
            pax[b"SCHILY.xattr." + xattr] = content
    device = inode.rdev if isinstance(inode, Device) else 0
    block = _block(name, kind, inode.permissions, numbers, mtime, target, (major(device), minor(device)))
    if not pax:
        return block
    records = b"".join(_record(key, value) for key, value in pax.items())
    plain = {b"uid": 0, b"gid": 0, b"size": len(records)}
    return _block(b"pax", b"x", 0o644, plain, 0, b"", (0, 0)) + padded(records) + block


def padded(data: bytes) -> bytes:
    """`data`, filled up with zeros to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def _block(name: bytes, kind: bytes, mode: int, numbers: dict[bytes, int], mtime: int, target: bytes,
           device: tuple[int, int]) -> bytes:
    fields = [
        name[:_NAME].ljust(_NAME, b"\0"), _octal(mode, 8), _octal(numbers[b"uid"], 8), _octal(numbers[b"gid"], 8),
        _octal(numbers[b"size"], 12), _octal(mtime, 12), b" " * 8, kind, target[:_NAME].ljust(_NAME, b"\0"),
        b"ustar\00000", bytes(64), _octal(device[0], 8), _octal(device[1], 8), bytes(167),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
