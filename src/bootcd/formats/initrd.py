# SPDX-License-Identifier: Apache-2.0
"""The names in an initrd: cpio archives one after the other, most of them compressed (Linux: Documentation/driver-api/
early-userspace/buffer-format.rst).

    initrd    = *( *zero ( archive / compressed ) )      compressed = archives by gzip, xz, bzip2 or zstd
    archive   = *member TRAILER!!!                       "newc" (070701) or "crc" (070702)
    member    = header of 110 bytes: magic, 13 numbers of 8 hexadecimal digits, of which the second is the mode, the
                seventh the size of the content, the twelfth that of the name with its NUL;
                name, padding to 4 bytes, content, padding to 4 bytes

What lies behind is read in pieces, so memory is bounded whatever the archive says, and contents are passed over.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zstandard

from ..errors import InitrdError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEADER = 110
_CPIO = (b"070701", b"070702")
_TRAILER = b"TRAILER!!!"
_MAX_NAME = 4096
_MAX_BYTES = 4 << 30
"""Uncompressed bytes that are looked through."""
_MAX_WINDOW = 128 << 20
_STEP = 8 << 10
"""Compressed bytes at a time: zstd gives at most some hundred megabytes for so many."""
_DECODERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj(),
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(),
    b"BZh": lambda: bz2.BZ2Decompressor(),
}
_NOT_READ = {b"\x02\x21\x4c\x18": "lz4", b"\x89LZO": "lzo", b"\x5d\0\0": "lzma"}
_DAMAGED = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError, MemoryError)
"""What decoders raise for bytes that make no sense."""


@dataclass(frozen=True, slots=True)
class Member:
    """A name without leading slash, the st_mode and the size in bytes of what it is."""

    name: bytes
    mode: int
    size: int


def members(data: Buffer, name: str = "initrd") -> Iterator[Member]:
    """The members of all archives in their order. Raises InitrdError."""
    view = memoryview(data).cast("B")
    at = 0
    while True:
        while at < len(view) and not view[at]:
            at += _zeros(view, at)
        if at >= len(view):
            return
        if bytes(view[at : at + 6]) in _CPIO:
            plain = _Plain(view, at, name)
            yield from _archive(plain, name)
            at = plain.at
        else:
            packed = _Packed(view, at, name)
            while packed.skip_zeros():
                yield from _archive(packed, name)
            at = packed.at


def _zeros(view: memoryview, at: int) -> int:
    """How many of the bytes that follow are zero; at least one is."""
    piece = bytes(view[at : at + _STEP])
    return len(piece) - len(piece.lstrip(b"\0"))


def _archive(source: _Plain | _Packed, name: str) -> Iterator[Member]:
    while True:
        header = source.take(_HEADER)
        if header[:6] not in _CPIO:
            raise InitrdError(f"{name}: there is no cpio archive where one should be")
        try:
            numbers = [int(header[at : at + 8], 16) for at in range(6, _HEADER, 8)]
        except ValueError:
            raise InitrdError(f"{name}: the header of a cpio member is malformed") from None
        mode, size, length = numbers[1], numbers[6], numbers[11]
        if not 0 < length <= _MAX_NAME:
            raise InitrdError(f"{name}: a cpio member has a name of {length} bytes")
        text = source.take(length).partition(b"\0")[0]
        source.skip(-(_HEADER + length) % 4)
        source.skip(size + -size % 4)
        if text == _TRAILER:
            return
        yield Member(text.removeprefix(b"./").lstrip(b"/"), mode, size)


class _Plain:
    """An archive as it is; `at` is what was read of all."""

    def __init__(self, view: memoryview, at: int, name: str) -> None:
        self._view = view
        self._name = name
        self.at = at

    def take(self, size: int) -> bytes:
        data = bytes(self._view[self.at : self.at + size])
        self.skip(size)
        return data

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._view):
            raise InitrdError(f"{self._name} ends in the middle of a cpio archive")


class _Packed:
    """What is compressed from `at` on; `at` moves behind it. Compressed parts that follow each other are one."""

    def __init__(self, view: memoryview, at: int, name: str) -> None:
        self._view = view
        self._name = name
        self._decoder: Any = None
        self._left = b""
        self._total = 0
        self.at = at

    def take(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            if not self._left and not self._more():
                raise InitrdError(f"{self._name} ends in the middle of a cpio archive")
            parts.append(self._left[:size])
            self._left = self._left[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size:
            if not self._left and not self._more():
                raise InitrdError(f"{self._name} ends in the middle of a cpio archive")
            passed = min(size, len(self._left))
            self._left = self._left[passed:]
            size -= passed

    def skip_zeros(self) -> bool:
        """Pass over zeros; whether anything follows."""
        while True:
            self._left = self._left.lstrip(b"\0")
            if self._left:
                return True
            if not self._more():
                return False

    def _more(self) -> bool:
        """Make `_left` longer; False where what is compressed ends."""
        while True:
            if self._decoder is None:
                self._decoder = self._begin()
                if self._decoder is None:
                    return False
            piece = bytes(self._view[self.at : self.at + _STEP])
            if not piece:
                raise InitrdError(f"{self._name} ends in the middle of compressed data")
            try:
                self._left = self._decoder.decompress(piece)
            except _DAMAGED as error:
                what = f"{self._name}: the compressed data near byte {self.at} is damaged: {error}"
                raise InitrdError(what) from None
            self.at += len(piece)
            if self._decoder.eof:
                self.at -= len(self._decoder.unused_data)
                self._decoder = None
            self._total += len(self._left)
            if self._total > _MAX_BYTES:
                raise InitrdError(f"{self._name} has more than {_MAX_BYTES >> 30} GiB when decompressed")
            if self._left:
                return True

    def _begin(self) -> Any:
        start = bytes(self._view[self.at : self.at + 8])
        for magic, decoder in _DECODERS.items():
            if start.startswith(magic):
                return decoder()
        if self._total or not start:
            return None
        kind = next((kind for magic, kind in _NOT_READ.items() if start.startswith(magic)), None)
        raise InitrdError(f"{self._name}: what begins at byte {self.at} is compressed by {kind}, which is not read here"
                          if kind else f"{self._name}: what begins at byte {self.at} is no part of an initrd")
