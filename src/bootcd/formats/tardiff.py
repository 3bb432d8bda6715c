# SPDX-License-Identifier: Apache-2.0
"""tar-diff: what makes a tar out of files that are here and bytes that come.

    8 bytes that name the version, then one zstd stream of instructions:

    byte  what follows                        meaning
       0  size, that many bytes               these come next in the tar
       1  size, that many bytes               read from this file of the old image from now on, from its beginning
       2  size                                the next `size` bytes of the file come next in the tar
       3  size, that many bytes               the next `size` bytes of the file, each plus one of these, modulo 256
       4  position                            read on from there
       5  size, that many bytes (version 2)   a zstd frame, with the whole file as its dictionary, has what comes next

Sizes and positions are numbers of seven bits a byte, the lowest first, and the highest bit says that more follow. A
file is named by its path in the old image, relative to the root.

Bytes are handed on as they come, so memory stays bounded whatever sizes are claimed. Nothing here is taken at its word:
whoever puts the tar together checks its digest.

Source: containers/tar-diff, file-format.md; version 2 as containers/oci-delta applies it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import OciError

MEDIA_TYPE = "application/vnd.tar-diff"

MAX_PATH = 4096
"""Bytes of the path of a file."""
MAX_INSTRUCTIONS = 32 << 20
"""Instructions in one delta. A layer takes a few for each of its files and each change in one; each takes a few
microseconds, whether or not anything comes out of it, and next to no byte of the delta."""

_VERSIONS = {b"tardf1\n\0": 1, b"tardf2\n\0": 2}
_MAGIC = 8
_MAX_DIGITS = 9  # 63 bits
_DATA, _OPEN, _COPY, _ADD, _SEEK, _PATCH = range(6)


@dataclass(frozen=True, slots=True)
class Open:
    """Read from this file."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes of the file, as they are."""

    size: int


@dataclass(frozen=True, slots=True)
class Add:
    """As many bytes of the file, each plus one of these, modulo 256."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Seek:
    """Read on from this byte of the file."""

    position: int


@dataclass(frozen=True, slots=True)
class Patch:
    """A zstd frame whose dictionary is the file, to be read before the next instruction is asked for. What is left of
    it then is skipped."""

    pieces: Iterator[bytes]


Instruction = bytes | Open | Copy | Add | Seek | Patch
"""Bytes come next in the tar as they are."""


def version(pieces: Iterator[bytes]) -> tuple[int, Iterator[bytes]]:
    """Which version a tar-diff has, and the compressed rest of it. Raises OciError when it is none."""
    head = b""
    while len(head) < _MAGIC and (piece := next(pieces, b"")):
        head += piece
    found = _VERSIONS.get(head[:_MAGIC])
    if found is None:
        raise OciError("it is no tar-diff, or of a version that is not known")
    return found, _after(head[_MAGIC:], pieces)


def _after(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from pieces


def instructions(pieces: Iterable[bytes], version: int = 1) -> Iterator[Instruction]:
    """The instructions in a stream that was decompressed; long ones come as several. Raises OciError."""
    stream = _Stream(pieces)
    for _ in range(MAX_INSTRUCTIONS):
        code = stream.byte()
        if code is None:
            return
        number = stream.number()
        if code == _COPY:
            yield Copy(number)
        elif code == _SEEK:
            yield Seek(number)
        elif code == _DATA:
            yield from stream.some(number)
        elif code == _ADD:
            for data in stream.some(number):
                yield Add(data)
        elif code == _OPEN:
            if number > MAX_PATH:
                raise stream.error(f"a path of {number} bytes")
            yield Open(b"".join(stream.some(number)))
        elif code == _PATCH and version >= 2:
            rest = stream.some(number)
            yield Patch(rest)
            for _ in rest:
                pass
        else:
            raise stream.error(f"an instruction {code}, which is not known")
    raise stream.error(f"more than {MAX_INSTRUCTIONS} instructions")


class _Stream:
    """The bytes of the stream, of which one piece is held at a time."""

    __slots__ = ("_before", "_piece", "_pieces", "_position")

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._position = 0
        self._before = 0

    def error(self, what: str) -> OciError:
        return OciError(f"tar-diff, byte {self._before + self._position}: {what}")

    def byte(self) -> int | None:
        """The next byte; None at the end."""
        if self._position == len(self._piece) and not self._more():
            return None
        value = self._piece[self._position]
        self._position += 1
        return value

    def number(self) -> int:
        value = 0
        for digit in range(_MAX_DIGITS):
            byte = self.byte()
            if byte is None:
                raise self.error("it ends in the middle of a number")
            value |= (byte & 127) << 7 * digit
            if byte < 128:
                return value
        raise self.error("a number of more than 63 bits")

    def some(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, as they come."""
        while size:
            if self._position == len(self._piece) and not self._more():
                raise self.error(f"it ends {size} bytes too early")
            data = self._piece[self._position : self._position + size]
            self._position += len(data)
            size -= len(data)
            yield data

    def _more(self) -> bool:
        self._before += len(self._piece)
        self._position = 0
        self._piece = b""
        for piece in self._pieces:
            if piece:
                self._piece = piece
                return True
        return False
