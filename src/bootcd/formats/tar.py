# SPDX-License-Identifier: Apache-2.0
"""Tar archives as image layers use them, cut into what a splitstream holds and what becomes objects.

`split` cuts the raw bytes of an archive into what a splitstream keeps inline (headers, padding, small contents, all
that follows the end of the archive) and the contents of files of more than 64 bytes. Every byte comes out, in order, so
that the archive can be put together again and still has its digest. `entries` reads the members back from a
splitstream, `members` reads them from the archive itself. All read headers with the same code (`tarheader`), so they
refuse the same archives.

An archive is not trusted: however long it claims its parts to be, memory stays bounded, by about 1 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..errors import TarError
from .splitstream import External
from .tarheader import BLOCK, Entry, EntryType, Headers
from .tree import INLINE_MAX

__all__ = ["Entry", "EntryType", "Payload", "entries", "members", "split"]

_STEP = 256 << 10
_KEEP = 1024  # pieces, which are blocks for the most part


class Payload:
    """The content of a file of more than 64 bytes. `read(n)` gives at most n bytes and b"" at the end; all must be read
    before `split` goes on."""

    __slots__ = ("_buffer", "_headers", "left", "size")

    def __init__(self, size: int, buffer: _Buffer, headers: Headers) -> None:
        self.size = size
        self.left = size
        self._buffer = buffer
        self._headers = headers

    def read(self, n: int) -> bytes:
        """Raises TarError when the archive ends before the content does."""
        if n > self.left:
            n = self.left
        if n <= 0:
            return b""
        piece = self._buffer.some(n)
        if not piece:
            raise self._headers.error(f"the archive ends {self.left} bytes before the content does")
        self.left -= len(piece)
        return piece


def split(read: Callable[[int], bytes]) -> Iterator[bytes | Payload]:
    """Cut a raw archive, read with `read(n)`, into bytes to keep and payloads to be stored apart.

    Several items of bytes may follow each other; none is much larger than 1 MiB. Raises TarError, which names the
    offset of the header and the member.
    """
    headers = Headers()
    buffer = _Buffer(lambda: read(_STEP), read)
    take = buffer.take
    kept: list[bytes] = []
    keep = kept.append
    while True:
        if len(kept) >= _KEEP:
            yield b"".join(kept)
            kept.clear()
        block = take(BLOCK)
        entry = headers.parse(block, buffer.offset - len(block))
        keep(block)
        if entry is None:
            if headers.at_end:
                break
            data = take(headers.padded)
            headers.extend(data)
            keep(data)
            continue
        size = entry.size
        if size > INLINE_MAX:
            yield b"".join(kept)
            kept.clear()
            payload = Payload(size, buffer, headers)
            yield payload
            if payload.left:
                raise RuntimeError(f"{payload.left} bytes of a payload were not read")
            padding = -size % BLOCK
        else:
            padding = headers.padded
        if padding:
            data = take(padding)
            if len(data) < padding:
                raise headers.error("the archive ends within the content or its padding")
            keep(data)
    yield b"".join(kept)
    while data := buffer.some(_STEP):
        yield data


def entries(chunks: Iterable[bytes | External]) -> Iterator[tuple[Entry, bytes | External | None]]:
    """The members of an archive that was split: with the content of small files, or the object of larger ones.

    Raises TarError, also when what is external are not the contents of files of more than 64 bytes.
    """
    headers = Headers()
    pieces = _Chunks(chunks)
    buffer = _Buffer(pieces.inline, None)
    take = buffer.take
    while True:
        block = take(BLOCK)
        entry = headers.parse(block, buffer.offset - len(block))
        if entry is None:
            if headers.at_end:
                break
            headers.extend(take(headers.padded))
            continue
        content: bytes | External | None = None
        size = entry.size
        if size > INLINE_MAX:
            content = pieces.external() if buffer.is_empty else None
            if content is None:
                raise headers.error(f"a content of {size} bytes is not external")
            buffer.offset += size
            padding = -size % BLOCK
        else:
            padding = headers.padded
        data = take(padding)
        if len(data) < padding:
            raise headers.error("the archive ends within the content or its padding")
        if entry.type is EntryType.FILE and content is None:
            content = data[:size]
        yield entry, content
    while buffer.some(_STEP):
        pass
    if pieces.external() is not None:
        raise TarError(f"tar, byte {buffer.offset}: an external part where none belongs")


def members(read: Callable[[int], bytes]) -> Iterator[tuple[Entry, bytes | Payload | None]]:
    """The members of a raw archive, read with `read(n)`: with the content of small files, or a payload, which must be
    read before the next member is asked for. All of the archive is read, to the last byte. Raises TarError."""
    headers = Headers()
    buffer = _Buffer(lambda: read(_STEP), read)
    while True:
        block = buffer.take(BLOCK)
        entry = headers.parse(block, buffer.offset - len(block))
        if entry is None:
            if headers.at_end:
                break
            headers.extend(buffer.take(headers.padded))
            continue
        if entry.size > INLINE_MAX:
            payload = Payload(entry.size, buffer, headers)
            yield entry, payload
            if payload.left:
                raise RuntimeError(f"{payload.left} bytes of a payload were not read")
            padding = -entry.size % BLOCK
        else:
            padding = headers.padded
        data = buffer.take(padding)
        if len(data) < padding:
            raise headers.error("the archive ends within the content or its padding")
        if entry.size <= INLINE_MAX:
            yield entry, data[: entry.size] if entry.type is EntryType.FILE else None
    while buffer.some(_STEP):
        pass


class _Buffer:
    """Bytes that were read ahead. `more` gives the next piece, `direct(n)` at most n bytes past the buffer."""

    __slots__ = ("_data", "_direct", "_more", "_position", "offset")

    def __init__(self, more: Callable[[], bytes], direct: Callable[[int], bytes] | None) -> None:
        self._more = more
        self._direct = direct
        self._data = b""
        self._position = 0
        self.offset = 0

    @property
    def is_empty(self) -> bool:
        return self._position == len(self._data)

    def take(self, n: int) -> bytes:
        """The next n bytes, fewer only at the end."""
        position = self._position
        end = position + n
        if end > len(self._data):
            parts = [self._data[position:]]
            have = len(parts[0])
            while have < n and (piece := self._more()):
                parts.append(piece)
                have += len(piece)
            self._data = b"".join(parts)
            position, end = 0, min(n, have)
        self._position = end
        self.offset += end - position
        return self._data[position:end]

    def some(self, n: int) -> bytes:
        """At least one and at most n of the next bytes; none at the end. Without `direct`, as many as there are."""
        position = self._position
        if position < len(self._data):
            piece = self._data[position : position + n]
            self._position = position + len(piece)
        else:
            piece = self._direct(n) if self._direct else self._more()
        self.offset += len(piece)
        return piece


class _Chunks:
    """The inline and the external parts of a splitstream, each only where it is expected."""

    __slots__ = ("_chunks", "_next")

    def __init__(self, chunks: Iterable[bytes | External]) -> None:
        self._chunks = iter(chunks)
        self._next: External | None = None

    def inline(self) -> bytes:
        if self._next is not None:
            return b""
        for chunk in self._chunks:
            if isinstance(chunk, External):
                self._next = chunk
                return b""
            if chunk:
                return chunk
        return b""

    def external(self) -> External | None:
        if self._next is None and self.inline():
            return None
        found, self._next = self._next, None
        return found
