# SPDX-License-Identifier: Apache-2.0
"""The tar that a tar-diff makes (`formats.tardiff`) of files that are here.

What comes out is the tar of a layer, byte by byte; whoever reads it checks the diff ID, so neither the delta nor the
files have to be believed. How much comes out is bounded by whoever reads it. What can be asked for without anything
coming out is bounded here: files that are named, and the dictionaries of version 2, which are whole files. A million of
either compress to nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

import zstandard

from ..errors import OciError
from ..formats.tardiff import Add, Copy, Open, Seek, instructions, version
from .decompress import CHUNK, decompress, together

MAX_DICTIONARY = 128 << 20
"""Largest file, in bytes, that a patch of version 2 may be for, and the largest window that it may have. Both are held
in memory."""
MAX_DICTIONARIES = 16 << 30
"""Bytes of all files that one delta has patches for."""
MAX_FILES = 1 << 20
"""How often one delta may name a file or have a patch. An image has half as many names; each takes about 30
microseconds."""

_PATCHING = threading.Lock()
"""One at a time, since each takes up to three times MAX_DICTIONARY of memory."""


class OldFile(Protocol):
    """A file of the old image."""

    size: int

    def read(self, size: int, position: int) -> bytes:
        """`size` bytes, all of which are there. Raises IntegrityError, RepositoryError."""

    def close(self) -> None: ...


class OldFiles(Protocol):
    """The files of the old image."""

    def open(self, path: bytes) -> OldFile:
        """Raises DeltaUnusable when it has no such file, IntegrityError, RepositoryError."""


def patched(pieces: Iterator[bytes], files: OldFiles) -> Iterator[bytes]:
    """The tar that a tar-diff makes. Raises OciError, and what opening and reading the files raises."""
    return together(_patched(pieces, files))


def _patched(pieces: Iterator[bytes], files: OldFiles) -> Iterator[bytes]:
    number, rest = version(pieces)
    cursor = _Cursor(files)
    try:
        for one in instructions(decompress(rest, "zstd"), number):
            if isinstance(one, bytes):
                yield one
            elif isinstance(one, Copy):
                yield from cursor.copy(one.size)
            elif isinstance(one, Add):
                yield _sum(one.data, cursor.take(len(one.data)))
            elif isinstance(one, Seek):
                cursor.position = one.position
            elif isinstance(one, Open):
                cursor.open(one.path)
            else:
                yield from cursor.patch(one.pieces)
    finally:
        cursor.close()


class _Cursor:
    """Where the old image is read."""

    def __init__(self, files: OldFiles) -> None:
        self.position = 0
        self._files = files
        self._file: OldFile | None = None
        self._path = b""
        self._files_left = MAX_FILES
        self._dictionaries_left = MAX_DICTIONARIES

    def open(self, path: bytes) -> None:
        self._count_file()
        self.close()
        self._file = self._files.open(path)
        self._path = path
        self.position = 0

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def take(self, size: int) -> bytes:
        file = self._opened(size)
        data = file.read(size, self.position)
        self.position += size
        return data

    def copy(self, size: int) -> Iterator[bytes]:
        self._opened(size)
        while size:
            data = self.take(min(size, CHUNK))
            size -= len(data)
            yield data

    def patch(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """What a frame gives whose dictionary is the file."""
        file = self._opened(0)
        if file.size > MAX_DICTIONARY:
            raise OciError(f"tar-diff: a patch for {_shown(self._path)}, which has {file.size} bytes, more than "
                           f"{MAX_DICTIONARY}")
        self._count_file()
        self._dictionaries_left -= file.size
        if self._dictionaries_left < 0:
            raise OciError(f"tar-diff: patches for files of more than {MAX_DICTIONARIES} bytes together")
        with _PATCHING:
            yield from self._patch(file, pieces)

    def _patch(self, file: OldFile, pieces: Iterator[bytes]) -> Iterator[bytes]:
        content = zstandard.ZstdCompressionDict(file.read(file.size, 0), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self.position = file.size
        decoder = zstandard.ZstdDecompressor(dict_data=content, max_window_size=MAX_DICTIONARY)
        reader = decoder.stream_reader(_Pieces(pieces))  # type: ignore[arg-type]  # the stubs want more than read()
        try:
            while data := reader.read(CHUNK):
                yield data
        except zstandard.ZstdError as error:
            raise OciError(f"tar-diff: a patch for {_shown(self._path)} is not valid: {error}") from None

    def _count_file(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise OciError(f"tar-diff: it names files more than {MAX_FILES} times")

    def _opened(self, size: int) -> OldFile:
        if self._file is None:
            raise OciError("tar-diff: it reads from a file before it names one")
        if self.position + size > self._file.size:
            raise OciError(f"tar-diff: {size} bytes from byte {self.position} of {_shown(self._path)}, which has "
                           f"{self._file.size}")
        return self._file


class _Pieces:
    """Bytes as they come, for who calls read()."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int) -> bytes:
        return next(self._pieces, b"")


def _sum(left: bytes, right: bytes) -> bytes:
    """Byte by byte, modulo 256."""
    return b"".join(_sum_of_few(left[start : start + _FEW], right[start : start + _FEW])
                    for start in range(0, len(left), _FEW))


def _sum_of_few(left: bytes, right: bytes) -> bytes:
    """All at once, the highest bits apart so that nothing is carried into the next byte."""
    size = len(left)
    if left.count(0) == size:  # most of a program that was built again is the same
        return right
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    low, high = (_LOW, _HIGH) if size == _FEW else (_bytes(0x7f, size), _bytes(0x80, size))
    return ((a & low) + (b & low) ^ (a ^ b) & high).to_bytes(size, "little")


def _bytes(value: int, size: int) -> int:
    return int.from_bytes(bytes([value]) * size, "little")


_FEW = 16 << 10
_LOW, _HIGH = _bytes(0x7f, _FEW), _bytes(0x80, _FEW)


def _shown(path: bytes) -> str:
    return repr(path if len(path) <= 200 else path[:197] + b"...")[1:]
