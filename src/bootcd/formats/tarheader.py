# SPDX-License-Identifier: Apache-2.0
"""Headers of tar archives: ustar, pax and GNU, one at a time.

`Headers` reads blocks in order, remembers the extensions that belong to the next member and lets them replace what its
header says. Where the contents go is the business of `tar`.

Readers of tar differ in what they make of odd archives, and a difference is a way to hide something. What common
readers disagree about is therefore refused: contents of anything but files, a lone zero block, sparse files, a global
header between an extension and its member, files whose name ends in '/', names with '..' or NUL. A global header is
kept but not applied. What Linux cannot represent is refused as well.

Source: POSIX.1-2017 pax (ustar and pax interchange formats), GNU tar manual ("Basic Tar Format", "Extensions").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from struct import Struct
from zlib import adler32

from ..errors import TarError

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""

MAX_EXTENSIONS = 1 << 20
"""Most bytes of long names and pax records for one member; a global header is bounded alike."""

_ZEROS = bytes(BLOCK)
_MAX_SIZE = (1 << 63) - 1
_MAX_ID = (1 << 32) - 1
_MAX_MAJOR = (1 << 12) - 1
_MAX_MINOR = (1 << 20) - 1
_MAX_NAME = 255
_MAX_PATH = 4095
_MAX_XATTR_NAME = 255
_MAX_XATTR_VALUE = 65535

_HEADER = Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_CHECKSUM_BLANKS = 8 * 0x20
_USTAR, _GNU = b"ustar\x0000", b"ustar  \x00"
_XATTR = b"SCHILY.xattr."
_NUMBER = re.compile(rb"[0-9]{1,20}")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]{1,512})=")


class EntryType(Enum):
    FILE = "file"
    HARDLINK = "hard link"
    SYMLINK = "symbolic link"
    CHAR = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


_TYPES = {
    b"0": EntryType.FILE,
    b"\0": EntryType.FILE,
    b"7": EntryType.FILE,
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHAR,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
}
_DEVICES = (EntryType.CHAR, EntryType.BLOCK)
_LINKS = (EntryType.HARDLINK, EntryType.SYMLINK)


@dataclass(slots=True)
class Entry:
    """One member. `path` and the target of a hard link have neither '.' nor '..' nor slashes at their ends, b"" is the
    root; the target of a symbolic link is as it was written. `rdev` is encoded as glibc does."""

    path: bytes
    type: EntryType
    permissions: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_nsec: int = 0
    size: int = 0
    target: bytes = b""
    rdev: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Headers:
    """Reads headers one by one and remembers the extensions that belong to the next member.

    `parse` gives a member, or None for an extension, whose `padded` bytes must be given to `extend`, and at the end.
    For a member, `padded` is how many bytes of content and padding follow.
    """

    __slots__ = (
        "_extended", "_extensions", "_kind", "_long_link", "_long_name", "_offset", "_path", "_pax", "_size",
        "_zeros", "at_end", "padded",
    )

    def __init__(self) -> None:
        self.at_end = False
        self.padded = 0
        self._kind = b""
        self._size = 0
        self._offset = 0
        self._path = b""
        self._zeros = False
        self._clear()

    def _clear(self) -> None:
        self._extended = False
        self._extensions = 0
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._pax: dict[bytes, bytes] | None = None

    def error(self, what: str) -> TarError:
        return TarError(f"tar, byte {self._offset}, {_shown(self._path)}: {what}")

    def parse(self, block: bytes, offset: int) -> Entry | None:
        self._offset = offset
        self._path = b""
        if len(block) < BLOCK:
            if block:
                raise self.error("the archive ends within a header")
            if self._zeros:
                raise self.error("the archive ends after one zero block")
            self._end()
            return None
        if block[0] == 0 and block == _ZEROS:
            if self._zeros:
                self._end()
                return None
            self._zeros = True
            self._kind, self._size, self.padded = b"", 0, 0  # as an empty extension, so that another block is read
            return None
        if self._zeros:
            raise self.error("a lone zero block stands before this header")
        return self._parse(block)

    def extend(self, data: bytes) -> None:
        """Take the data of the extension that `parse` announced."""
        if len(data) < self.padded:
            raise self.error("the archive ends within an extension")
        kind, data = self._kind, data[: self._size]
        if kind == b"x":
            if self._pax is not None:
                raise self.error("two extended headers for one member")
            self._pax = self._records(data)
        elif kind == b"L":
            if self._long_name is not None:
                raise self.error("two long names for one member")
            self._long_name = self._without_nul(data.removesuffix(b"\0"))
        elif kind == b"K":
            if self._long_link is not None:
                raise self.error("two long link targets for one member")
            self._long_link = self._without_nul(data.removesuffix(b"\0"))

    def _end(self) -> None:
        if self._extended:
            raise self.error("an extension without a member")
        self.at_end = True

    def _parse(self, block: bytes) -> Entry | None:
        (name, mode, uid, gid, size_field, mtime, checksum, type_byte, link, magic, major, minor, prefix) = (
            _HEADER.unpack(block)
        )
        name = self._path = name.partition(b"\0")[0]
        self._check_sum(block, checksum)
        type_ = _TYPES.get(type_byte)
        if type_ is None:
            self._announce(type_byte, self._number(size_field, "size"), magic)
            return None

        if magic == _USTAR and prefix[0]:
            name = prefix.partition(b"\0")[0] + b"/" + name
        entry = Entry(
            name,
            type_,
            self._octal(mode, "mode") & 0o7777,
            self._number(uid, "uid"),
            self._number(gid, "gid"),
            self._number(mtime, "mtime"),
            0,
            self._number(size_field, "size"),
        )
        if type_ in _LINKS:
            entry.target = link.partition(b"\0")[0]
        elif type_ in _DEVICES:
            entry.rdev = self._device(self._octal(major, "devmajor"), self._octal(minor, "devminor"))
        if self._extended:
            self._apply(entry)
            self._clear()
        self._check(entry)
        return entry

    def _check_sum(self, block: bytes, checksum: bytes) -> None:
        # zlib sums far faster than Python; for ASCII its modulus (65521) is never reached.
        total = (adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
        blank = total - sum(checksum) + _CHECKSUM_BLANKS
        stored = self._octal(checksum, "checksum")
        if stored == blank or (not block.isascii() and stored == blank - 256 * sum(byte > 127 for byte in block)):
            return  # the latter: some old writers summed signed bytes
        raise self.error(f"the checksum of the header is {blank}, not {stored}")

    def _announce(self, type_byte: bytes, size: int, magic: bytes) -> None:
        if type_byte not in (b"x", b"g", b"L", b"K") or magic not in (_USTAR, _GNU):
            raise self.error(f"members of type {repr(type_byte)[1:]} are not supported")
        if type_byte == b"g" and self._extended:
            raise self.error("a global header between an extension and its member")
        self._extended = type_byte != b"g"
        total = (self._extensions if self._extended else 0) + size
        if not 0 <= size <= total <= MAX_EXTENSIONS:
            raise self.error(f"extensions of {total} bytes, more than {MAX_EXTENSIONS}")
        if self._extended:
            self._extensions = total
        self._kind, self._size = type_byte, size
        self.padded = size + -size % BLOCK

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """The records of a pax header: `LENGTH KEY=VALUE\\n`, where the length counts the whole record."""
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(data):
            match = _RECORD.match(data, position)
            end = position + int(match[1]) if match else 0
            if match is None or not match.end() <= end <= len(data) or data[end - 1] != 0x0A:
                raise self.error(f"malformed pax record at byte {position} of the extended header")
            key, value = match[2], data[match.end() : end - 1]
            if key.startswith(b"GNU.sparse."):
                raise self.error("sparse files are not supported")
            if key == b"mtime" and key in records:  # composefs-rs mixes the two
                raise self.error("two mtime records for one member")
            records[key] = value
            position = end
        return records

    def _apply(self, entry: Entry) -> None:
        """Let extensions replace what the header says: pax over GNU over the header."""
        pax = self._pax or {}
        path, target = pax.get(b"path", self._long_name), pax.get(b"linkpath", self._long_link)
        if path is not None:
            entry.path = self._path = self._without_nul(path)
        if target is not None and entry.type in _LINKS:
            entry.target = self._without_nul(target)
        for key, value in pax.items():
            if key.startswith(_XATTR):
                entry.xattrs[self._xattr(key[len(_XATTR) :], value)] = value
            elif key == b"size":
                entry.size = self._decimal(value, "size")
            elif key == b"uid":
                entry.uid = self._decimal(value, "uid")
            elif key == b"gid":
                entry.gid = self._decimal(value, "gid")
            elif key == b"mtime":
                seconds, _, fraction = value.partition(b".")
                entry.mtime = self._decimal(seconds, "mtime")
                if fraction:
                    entry.mtime_nsec = self._decimal(fraction[:9].ljust(9, b"0"), "mtime")

    def _check(self, entry: Entry) -> None:
        type_, size, raw = entry.type, entry.size, entry.path
        self._path = raw
        if not raw:
            raise self.error("a member without a name")
        entry.path = self._normalised(raw)
        if type_ is EntryType.FILE:
            if raw[-1] == 0x2F:
                raise self.error("a file whose name ends in '/'")
        elif size:
            raise self.error(f"a {type_.value} with a content of {size} bytes")
        elif type_ is EntryType.SYMLINK:
            if not 0 < len(entry.target) <= _MAX_PATH:
                raise self.error(f"a symbolic link with a target of {len(entry.target)} bytes")
        elif type_ is EntryType.HARDLINK:
            entry.target = self._normalised(entry.target)
        if not 0 <= size <= _MAX_SIZE or not -_MAX_SIZE <= entry.mtime <= _MAX_SIZE:
            raise self.error(f"size {size} or mtime {entry.mtime} is out of range")
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise self.error(f"owner {entry.uid}:{entry.gid} is out of range")
        self.padded = size + -size % BLOCK

    def _normalised(self, path: bytes) -> bytes:
        parts = [part for part in path.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise self.error(f"'..' in {_shown(path)}")
        if len(path) > _MAX_NAME and (len(path) > _MAX_PATH or max(map(len, parts)) > _MAX_NAME):
            raise self.error(f"a name longer than {_MAX_NAME} bytes or a path longer than {_MAX_PATH}")
        return b"/".join(parts)

    def _without_nul(self, text: bytes) -> bytes:
        if b"\0" in text:
            raise self.error(f"a NUL in {_shown(text)}")
        return text

    def _xattr(self, name: bytes, value: bytes) -> bytes:
        if not 0 < len(name) <= _MAX_XATTR_NAME or len(value) > _MAX_XATTR_VALUE or b"\0" in name:
            raise self.error(f"extended attribute {_shown(name)} with {len(value)} bytes cannot be represented")
        return name

    def _device(self, major: int, minor: int) -> int:
        if major > _MAX_MAJOR or minor > _MAX_MINOR:
            raise self.error(f"device {major}:{minor} is out of range")
        return (major << 8) | (minor & 0xFF) | ((minor & ~0xFF) << 12)

    def _number(self, data: bytes, what: str) -> int:
        """A number in octal or, with the top bit set, in base 256."""
        if data[0] < 0x80:
            return self._octal(data, what)
        if data[0] == 0xFF:
            return int.from_bytes(data, "big", signed=True)
        if data[0] != 0x80:
            raise self.error(f"malformed {what} {_shown(data)}")
        return int.from_bytes(data[1:], "big")

    def _octal(self, data: bytes, what: str) -> int:
        value = _octal(data)
        if value < 0:
            raise self.error(f"malformed {what} {_shown(data)}")
        return value

    def _decimal(self, text: bytes, what: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise self.error(f"malformed {what} {_shown(text)} in a pax record")
        return int(text)


@lru_cache(maxsize=4096)
def _octal(data: bytes) -> int:
    """Octal digits up to a NUL, with blanks around them; nothing is 0. -1 when malformed."""
    text = data.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    # int() alone would take signs, underscores and a prefix.
    return int(text, 8) if text.isdigit() and b"8" not in text and b"9" not in text else -1


def _shown(text: bytes) -> str:
    return repr(text if len(text) <= 200 else text[:197] + b"...")[1:]
