# SPDX-License-Identifier: Apache-2.0
"""The composefs dump: a file tree as text, one line for every name.

    line   = PATH SP SIZE SP MODE SP NLINK SP UID SP GID SP RDEV SP MTIME SP PAYLOAD SP CONTENT SP DIGEST *(SP XATTR)
    MODE   = ["@"] octal                    type and permissions; "@" marks a further name of an inode (hard link)
    MTIME  = dec "." dec                    seconds "." nanoseconds as an integer: 1.5 is five nanoseconds
    XATTR  = key "=" value
    escape = "\\\\" / "\\n" / "\\r" / "\\t" / "\\x" 2HEX    everything outside 0x21..0x7e, and "=" inside xattrs

A lone `-` stands for an absent PAYLOAD, CONTENT or DIGEST. PAYLOAD is the target of a symlink or hard link, or the
backing path `xx/rest` of a file that is an object; CONTENT is the content of a small file.

`format_dump` writes what `cfsctl create-dumpfile` writes, with one difference: a file that has a backing path but no
digest is written without a digest, where cfsctl makes one up from the path. Every tree that `parse_dump` returns is
therefore returned again when its dump is parsed.

`parse_dump` takes what `cfsctl` or `mkcomposefs` take. It refuses what they understand differently (content and
payload at once, a payload that is not the object of its digest, one path twice) and what the tree cannot hold.

Source: composefs(5) `composefs-dump`, and both tools.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator

from bootcd.errors import DumpError
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
    link_counts,
    object_path,
)

INLINE_CONTENT_MAX = 5000
"""Largest CONTENT in bytes, the limit of mkcomposefs; cfsctl stops at 512."""

NAME_MAX = 255
TARGET_MAX = 4095
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65535
XATTRS_MAX = 65535 * 4
"""Bytes of extended attributes that one inode may have; more could not be counted in any EROFS inode."""

_UINT32_MAX = (1 << 32) - 1
_INT64_MAX = (1 << 63) - 1
_UINT64_MAX = (1 << 64) - 1

_PLAIN_ESCAPES = re.compile(rb"[^!-~]|\\")
_XATTR_ESCAPES = re.compile(rb"[^!-~]|[\\=]")
_ESCAPED = {bytes([value]): b"\\x%02x" % value for value in range(256)} | {
    b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t",
}  # fmt: skip
_ESCAPE_SEQUENCE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_UNESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class _Fault(Exception):
    """What is wrong with the line at hand."""


def format_dump(root: Directory) -> Iterator[bytes]:
    """The lines of the dump of `root`, each with its LF: depth first, names in byte order, the root first.

    The first name of a hard-linked inode carries its metadata, further names refer to it.
    """
    counts = link_counts(root)
    first_names: dict[int, bytes] = {}
    for path, inode in root.walk():
        name = _escape(path)
        if isinstance(inode, Directory):
            links = 2 + sum(isinstance(child, Directory) for child in inode.entries.values())
            yield _line(name, inode, links, b"0 %o", b"- - -")
            continue
        links = counts[id(inode)]
        if links > 1:
            first = first_names.setdefault(id(inode), name)
            if first is not name:
                yield b"%b 0 @120000 - - - - 0.0 %b - -\n" % (name, first)
                continue
        size, content = _content(inode)
        yield _line(name, inode, links, b"%d %%o" % size, content)


def _line(name: bytes, inode: Inode, links: int, size_and_mode: bytes, content: bytes) -> bytes:
    rdev = inode.rdev if isinstance(inode, Device) else 0
    xattrs = b"".join(
        b" %b=%b" % (_escape_xattr(key), _escape_xattr(value)) for key, value in sorted(inode.xattrs.items())
    )
    return b"%b %b %d %d %d %d %d.%d %b%b\n" % (
        name, size_and_mode % inode.mode, links, inode.uid, inode.gid, rdev, inode.mtime, inode.mtime_nsec,
        content, xattrs,
    )  # fmt: skip


def _content(inode: Inode) -> tuple[int, bytes]:
    """SIZE, and the three fields PAYLOAD, CONTENT, DIGEST."""
    if isinstance(inode, RegularFile):
        if inode.digest is not None:
            return inode.size, f"{object_path(inode.digest)} - {inode.digest.hex()}".encode()
        if inode.payload is not None:
            return inode.size, b"%b - -" % _escape_optional(inode.payload)
        if inode.inline:
            return len(inode.inline), b"- %b -" % _escape_optional(inode.inline)
        return inode.size, b"- - -"
    if isinstance(inode, Symlink):
        return len(inode.target), b"%b - -" % _escape_optional(inode.target)
    return 0, b"- - -"


def _escape(value: bytes) -> bytes:
    if _PLAIN_ESCAPES.search(value) is None:
        return value
    return _PLAIN_ESCAPES.sub(lambda found: _ESCAPED[found[0]], value)


def _escape_optional(value: bytes) -> bytes:
    if value == b"-":
        return b"\\x2d"
    return _escape(value) or b"-"


def _escape_xattr(value: bytes) -> bytes:
    return _XATTR_ESCAPES.sub(lambda found: _ESCAPED[found[0]], value)


def parse_dump(lines: Iterable[bytes]) -> Directory:
    """The tree that a dump describes. `lines` may or may not end in LF, as a binary file yields them.

    NLINK and the SIZE of everything but regular files are ignored, since the tree knows them. Empty lines are skipped.

    Raises DumpError, which names the line counted from 1.
    """
    parser = _Parser()
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                line = line[:-1]
            if line:
                parser.add(line, number)
        if parser.root is None:
            raise _Fault("the dump is empty")
        for link in parser.pending:
            number = link.line
            parser.resolve(link)
    except _Fault as fault:
        raise DumpError(f"line {number}: {fault}") from None
    return parser.root


class _PendingLink(Leaf):
    """Stands in the tree for a hard link whose target has not appeared yet."""

    __slots__ = ("directory", "line", "name", "target")

    def __init__(self, line: int, directory: Directory, name: bytes, target: bytes) -> None:
        super().__init__()
        self.line = line
        self.directory = directory
        self.name = name
        self.target = target


class _Parser:
    """The tree so far. `directories` is keyed by path, which makes a path canonical once its parent is found."""

    def __init__(self) -> None:
        self.root: Directory | None = None
        self.directories: dict[bytes, Directory] = {}
        self.pending: list[_PendingLink] = []

    def add(self, line: bytes, number: int) -> None:
        if b"\0" in line:
            raise _Fault("a NUL byte")
        fields = line.split(b" ")
        if len(fields) < 8:
            raise _Fault(f"{len(fields)} fields where at least 8 are needed")
        while len(fields) < 11:  # mkcomposefs lets the trailing text fields be absent
            fields.append(b"-")
        path = _unescape(fields[0])
        if path == b"/":
            self._add_root(fields)
            return
        if self.root is None:
            raise _Fault(f"the first path is {_show(path)}, not '/'")
        parent, slash, name = path.rpartition(b"/")
        if not slash:
            raise _Fault(f"the path {_show(path)} is not absolute")
        if not name or name == b"." or name == b".." or len(name) > NAME_MAX or b"\0" in name:
            raise _Fault(f"the path {_show(path)} ends in an invalid name")
        directory = self.directories.get(parent)
        if directory is None:
            raise _Fault(f"the parent of {_show(path)} is not a directory that appeared before")
        if name in directory.entries:
            raise _Fault(f"the path {_show(path)} appears twice")
        if fields[2].startswith(b"@"):
            directory.entries[name] = self._link(number, directory, name, path, fields)
            return
        inode = _inode(fields)
        directory.entries[name] = inode
        if isinstance(inode, Directory):
            self.directories[path] = inode

    def _add_root(self, fields: list[bytes]) -> None:
        if self.root is not None:
            raise _Fault("the path '/' appears twice")
        root = _inode(fields) if not fields[2].startswith(b"@") else None
        if not isinstance(root, Directory):
            raise _Fault("'/' is not a directory")
        self.root = self.directories[b""] = root

    def _link(self, number: int, directory: Directory, name: bytes, path: bytes, fields: list[bytes]) -> Inode:
        if stat.S_ISDIR(_mode(fields[2][1:])):
            raise _Fault(f"{_show(path)} is a hard link to a directory")
        target = _unescape_optional(fields[8]) or b""
        found = self._find(target)
        if found is not None:
            return found
        link = _PendingLink(number, directory, name, target)
        self.pending.append(link)
        return link

    def _find(self, target: bytes) -> Leaf | None:
        parent, slash, name = target.rpartition(b"/")
        directory = self.directories.get(parent) if slash else None
        found = directory.entries.get(name) if directory is not None else None
        if isinstance(found, Directory) or target == b"/":
            raise _Fault(f"a hard link to the directory {_show(target)}")
        return found if isinstance(found, Leaf) else None

    def resolve(self, link: _PendingLink) -> None:
        """Put the inode that `link` means in its place, and in that of all links it leads through."""
        if link.directory.entries[link.name] is not link:
            return
        chain = {id(link): link}
        found = self._find(link.target)
        while isinstance(found, _PendingLink):
            if id(found) in chain:
                raise _Fault(f"the hard link to {_show(link.target)} leads back to itself")
            chain[id(found)] = found
            found = self._find(found.target)
        if found is None:
            last = next(reversed(chain.values()))
            raise _Fault(f"the hard link target {_show(last.target)} does not exist")
        for each in chain.values():
            each.directory.entries[each.name] = found


def _inode(fields: list[bytes]) -> Inode:
    mode = _mode(fields[2])
    kind = stat.S_IFMT(mode)
    size = _number(fields[1], "size", _INT64_MAX)
    _number(fields[3], "nlink", _UINT32_MAX)
    uid = _number(fields[4], "uid", _UINT32_MAX)
    gid = _number(fields[5], "gid", _UINT32_MAX)
    rdev = _number(fields[6], "rdev", _UINT64_MAX)
    mtime, mtime_nsec = _time(fields[7])
    xattrs = _xattrs(fields) if len(fields) > 11 else {}
    common = (mode & 0o7777, uid, gid, mtime, mtime_nsec, xattrs)
    is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    if rdev and not is_device:
        raise _Fault(f"rdev {rdev} for something that is no device")
    if kind == stat.S_IFREG:
        return _regular(fields, size, common)
    if (fields[9] not in (b"-", b"")) or (fields[10] not in (b"-", b"")):
        raise _Fault("content or digest for something that is no regular file")
    if kind == stat.S_IFDIR:
        return Directory(*common)
    if kind == stat.S_IFLNK:
        target = _unescape_optional(fields[8])
        if not target or len(target) > TARGET_MAX or b"\0" in target:
            raise _Fault("the symlink target is absent, longer than 4095 bytes or has a NUL byte")
        return Symlink(*common, target=target)
    if kind == stat.S_IFCHR:
        return CharDevice(*common, rdev=rdev)
    if kind == stat.S_IFBLK:
        return BlockDevice(*common, rdev=rdev)
    if kind == stat.S_IFIFO:
        return Fifo(*common)
    if kind == stat.S_IFSOCK:
        return Socket(*common)
    raise _Fault(f"mode {mode:o} has no known file type")


def _regular(
    fields: list[bytes], size: int, common: tuple[int, int, int, int, int, dict[bytes, bytes]]
) -> RegularFile:
    payload = _unescape_optional(fields[8])
    content = _unescape_optional(fields[9])
    digest = _digest(fields[10])
    if payload is not None and content is not None:
        raise _Fault("both a payload and content")
    if payload is not None:
        # The path is below the object directory; mkcomposefs allows it to be written as absolute.
        payload = payload.removeprefix(b"/")
        if not payload or payload.startswith(b"/") or b"\0" in payload or len(payload) > TARGET_MAX:
            raise _Fault(f"the payload {_show(payload)} is not a backing path")
        if digest is None:
            return RegularFile(*common, payload=payload, size=size)
        if payload != object_path(digest).encode():
            raise _Fault(f"the payload {_show(payload)} is not the object {digest.hex()}")
        return RegularFile(*common, digest=digest, size=size)
    if digest is not None:
        raise _Fault("a digest without a payload")
    if content is not None:
        if len(content) > INLINE_CONTENT_MAX:
            raise _Fault(f"{len(content)} bytes of content; {INLINE_CONTENT_MAX} are allowed")
        if len(content) != size:
            raise _Fault(f"{len(content)} bytes of content but size {size}")
        return RegularFile(*common, inline=content)
    return RegularFile(*common, size=size) if size else RegularFile(*common, inline=b"")


def _xattrs(fields: list[bytes]) -> dict[bytes, bytes]:
    xattrs: dict[bytes, bytes] = {}
    total = 0
    for field in fields[11:]:
        key, equals, value = field.partition(b"=")
        if not equals:
            raise _Fault(f"the xattr {_show(field)} has no '='")
        if b"\\" in field:
            key, value = _unescape(key), _unescape(value)
        if not key or len(key) > XATTR_NAME_MAX or b"\0" in key or len(value) > XATTR_VALUE_MAX:
            raise _Fault(f"the xattr {_show(key)} has an invalid name or too long a value")
        total += 8 + len(key) + len(value)
        xattrs[key] = value
    if total > XATTRS_MAX:
        raise _Fault(f"{total} bytes of xattrs")
    return xattrs


def _digest(field: bytes) -> bytes | None:
    if field == b"-" or not field:
        return None
    try:
        if len(field) in (64, 128):
            return bytes.fromhex(field.decode("ascii"))
    except ValueError:
        pass
    raise _Fault(f"the digest {_show(field)} is not 64 or 128 hexadecimal digits")


def _mode(field: bytes) -> int:
    if field.isdigit() and len(field) <= 12 and b"8" not in field and b"9" not in field:
        mode = int(field, 8)
        if mode <= 0xFFFF:
            return mode
    raise _Fault(f"the mode {_show(field)} is not an octal number up to 177777")


def _time(field: bytes) -> tuple[int, int]:
    seconds, dot, nanoseconds = field.partition(b".")
    if not dot:
        raise _Fault(f"the mtime {_show(field)} has no '.'")
    nsec = _number(nanoseconds, "nanoseconds of the mtime", 999_999_999)
    if seconds.startswith(b"-"):
        return -_number(seconds[1:], "mtime", 1 << 63), nsec
    return _number(seconds, "mtime", _INT64_MAX), nsec


def _number(field: bytes, what: str, maximum: int) -> int:
    if field.isdigit() and len(field) <= 20:
        value = int(field)
        if value <= maximum:
            return value
    raise _Fault(f"the {what} {_show(field)} is not a number from 0 to {maximum}")


def _unescape_optional(field: bytes) -> bytes | None:
    return None if field == b"-" else _unescape(field) or None


def _unescape(field: bytes) -> bytes:
    return _ESCAPE_SEQUENCE.sub(_unescape_one, field) if b"\\" in field else field


def _unescape_one(found: re.Match[bytes]) -> bytes:
    sequence: bytes = found[1]
    if len(sequence) == 3:
        return bytes([int(sequence[1:], 16)])
    plain = _UNESCAPED.get(sequence)
    if plain is None:
        raise _Fault(f"the escape {_show(found[0])} is unknown or incomplete")
    return plain


def _show(value: bytes) -> str:
    """`value` for a message: printable, quoted, and short."""
    text = value[:120].decode("ascii", "backslashreplace")
    return repr(text if len(value) <= 120 else text + "...")
