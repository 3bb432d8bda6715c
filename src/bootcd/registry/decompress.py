# SPDX-License-Identifier: Apache-2.0
"""Decompression of layers as a stream, in bounded memory whatever the input says.

Every step asks for at most one chunk of output, so that a small input never becomes a large buffer. A layer may consist
of any number of gzip members (RFC 1952) or zstd frames (RFC 8878), skippable ones included, as tools for lazy pulling
write them; what follows the last one must be another one or the end. Windows of zstd are bounded.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import zstandard

from ..errors import OciError

_gzip: Any
try:
    from isal import isal_zlib as _gzip
except ImportError:  # no build of isal for this machine
    _gzip = zlib

CHUNK = 1 << 20
"""Most bytes in one piece of output."""

MAX_WINDOW = 128 << 20
"""Largest zstd window, in bytes: what `zstd --long=27` needs and every decoder accepts by default."""

_FIRST = 4 << 10
_SMALL = 256 << 10
_GZIP = 31  # windowBits: 15, plus 16 for the gzip header


def decompress(pieces: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """Decompress `pieces`, none of them empty, as `none`, `gzip` or `zstd`.

    Raises OciError, which names the place in the compressed data.
    """
    if compression == "none":
        return pieces
    if compression == "gzip":
        return together(_gunzip(pieces))
    if compression == "zstd":
        return _unzstd(pieces)
    raise OciError(f"compression {compression!r} is not supported")


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decoder: Any = None
    position = 0  # of the first byte that was not consumed
    for piece in pieces:
        view = memoryview(piece)
        start, step = 0, len(view)
        while start < len(view):
            if decoder is None:
                # A decoder copies all that follows its member. Start small, or many tiny members take quadratic time.
                decoder, step = _gzip.decompressobj(wbits=_GZIP), _FIRST
            data: Any = view[start : start + step]
            start += len(data)
            step *= 2
            while data:
                try:
                    output = decoder.decompress(data, CHUNK)
                except Exception as error:  # zlib.error or the error of isal, which is another class
                    raise OciError(f"not valid gzip data near byte {position + start}: {error}") from None
                if output:
                    yield output
                data = decoder.unconsumed_tail
                if decoder.eof:
                    start -= len(decoder.unused_data)
                    decoder = None
                    break
        position += len(view)
    if decoder is not None:
        # The last call may have left output behind when it filled its chunk exactly.
        try:
            while output := decoder.decompress(b"", CHUNK):
                yield output
        except Exception as error:
            raise OciError(f"not valid gzip data near byte {position}: {error}") from None
    if (decoder is not None and not decoder.eof) or not position:
        raise OciError(f"gzip data ends in the middle at byte {position}")


def together(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join small pieces, since each one costs a hand-over to another thread."""
    pending: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > CHUNK:
            yield b"".join(pending)
            pending, size = [], 0
        pending.append(piece)
        size += len(piece)
        if size >= _SMALL:
            yield pending[0] if len(pending) == 1 else b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


class _Marked:
    """Input for the zstd reader, followed by a frame that holds a mark.

    The reader does not say whether its input ended between frames. When it did, and only then, the mark is the last
    that comes out.
    """

    def __init__(self, pieces: Iterator[bytes], mark: bytes) -> None:
        self._pieces = pieces
        self._frame = zstandard.ZstdCompressor().compress(mark)
        self.position = 0
        self.ended = False

    def read(self, size: int) -> bytes:
        piece = next(self._pieces, b"")
        self.position += len(piece)
        if not piece:
            self.ended = True
            piece, self._frame = self._frame, b""
        return piece


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    # Repeated, so that its frame, when a block that was cut off takes it for content, does not look like the mark.
    mark = os.urandom(8) * 64
    source = _Marked(pieces, mark)
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    # The stubs know no reader that has only read(); the library asks for nothing else.
    reader = decoder.stream_reader(source, read_across_frames=True)  # type: ignore[arg-type]
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    held = 0  # how many bytes at the start of the buffer may be the mark
    while True:
        try:
            size = reader.readinto(view[held:])
        except zstandard.ZstdError as error:
            text = str(error)
            if "too much memory" in text:
                text = f"its window is larger than {MAX_WINDOW >> 20} MiB"
            elif source.ended:
                break
            raise OciError(f"not valid zstd data near byte {source.position}: {text}") from None
        if not size:
            break
        size += held
        held = min(size, len(mark))
        if size > held:
            yield bytes(view[: size - held])
            view[:held] = bytes(view[size - held : size])
    if bytes(view[:held]) != mark or not source.position:
        raise OciError(f"zstd data ends in the middle, or something else follows it, at byte {source.position}")
