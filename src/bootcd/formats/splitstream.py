# SPDX-License-Identifier: Apache-2.0
"""Splitstreams: a stream of bytes whose large parts are named by digest instead of being held.

Layout (composefs-rs 0.9, all integers little-endian; R = range of u64 start, u64 end in the file):

      0  "SplitStream", u8 version 0, u16 flags 0, u8 algorithm, u8 lg of the block size (12), R of the info block
     32  info block: R stream_refs, R object_refs, R stream, R named_refs, u64 content type, u64 size of the content
    112  stream_refs: raw digests of the streams and images that named_refs point at
         object_refs: raw digests of the parts
         named_refs: a zstd frame of `<index into stream_refs>:<name>\\0` in byte order of names
         stream: a zstd frame of chunks: i64 n; n < 0 is followed by -n inline bytes, n >= 0 stands for object_refs[n]

Both tables hold unique digests in order of first use, adjacent inline bytes are one chunk, and the frames carry neither
content size nor checksum, so that the bytes equal those that composefs-rs writes with the same libzstd. An older
header, which bootc up to 1.15 wrote, is read as well.

A file is not trusted: every range, index and length is checked, and what is decompressed is handed on in small pieces.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import zstandard

from ..errors import SplitstreamError
from .fsverity import Algorithm

MAX_CHUNK = 1 << 30
"""Most inline bytes between two external parts: a million headers in a row, or a bomb."""

_MAX_HELD = 32 << 20
"""Most memory for inline bytes, compressed, whose number is not known yet. A header with a small random content takes
about 100 bytes, so more than 300,000 of them may follow each other."""

_SPOOL_STEP = 4 << 20
_FEED_STEP = 1 << 20
_READ_STEP = 128 << 10
_MAX_NAMED_REFS = 16 << 20
_MAX_WINDOW = 8 << 20  # a writer at zstd's default level needs 2 MiB

_MAGIC = b"SplitStream"
_HEADER = struct.Struct("<11sBHBBQQ")
_OLD_HEADER = struct.Struct("<QQH11sBBB")
_INFO = struct.Struct("<10Q")
_LENGTH = struct.Struct("<q")
_NAMED_REF = re.compile(rb"([0-9]{1,9}):(.+)", re.DOTALL)


class ContentType(IntEnum):
    """What a stream holds: eight ASCII bytes as an integer."""

    OCI_LAYER = int.from_bytes(b"ocilayer", "little")
    OCI_CONFIG = int.from_bytes(b"ociconfg", "little")
    OCI_MANIFEST = int.from_bytes(b"ocimanif", "little")
    OCI_BLOB = int.from_bytes(b"oci_blob", "little")


@dataclass(frozen=True, slots=True)
class External:
    """A part that is an object of its own."""

    digest: bytes


class Writer:
    """Writes one splitstream; data is compressed as it comes.

    The length of an inline chunk stands before it, so inline bytes wait for the next external part. Long runs of them
    wait compressed: tar headers shrink tenfold or more, and a run of zeros to nothing.
    """

    def __init__(self, algorithm: Algorithm, content_type: int) -> None:
        self._algorithm = algorithm
        self._content_type = content_type
        self._stream_refs: dict[bytes, int] = {}
        self._object_refs: dict[bytes, int] = {}
        self._named_refs: dict[str, bytes] = {}
        self._size = 0
        self._compressor = _compressor(0)
        self._compressed: list[bytes] = []
        self._ready: list[bytes] = []
        self._ready_size = 0
        self._inline: list[bytes] = []
        self._inline_size = 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._held_compressed = 0
        self._spool: zstandard.ZstdCompressionObj | None = None

    def add_named_ref(self, name: str, digest: bytes) -> None:
        """Refer to a stream or image by name. The same twice is once; another digest for a name is an error."""
        self._check_digest(digest)
        if not name or "\0" in name:
            raise SplitstreamError(f"'{name!r}' cannot name a reference")
        if self._named_refs.setdefault(name, digest) != digest:
            raise SplitstreamError(f"named reference {name!r} would have two digests")
        self._stream_refs.setdefault(digest, len(self._stream_refs))

    def write_inline(self, data: bytes) -> None:
        """Raises SplitstreamError when more than `MAX_CHUNK` bytes come between two external parts."""
        if not data:
            return
        self._inline.append(data)
        self._inline_size += len(data)
        if self._inline_size >= _SPOOL_STEP:
            self._hold()

    def write_external(self, digest: bytes, size: int) -> None:
        """`size` bytes of the stream are the object `digest`."""
        self._check_digest(digest)
        self._flush_inline()
        self._size += size
        self._put(_LENGTH.pack(self._object_refs.setdefault(digest, len(self._object_refs))))

    def finish(self) -> bytes:
        """The whole file. The writer cannot be used any more."""
        self._flush_inline()
        self._feed()
        self._compressed.append(self._compressor.flush())
        sections = [
            b"".join(self._stream_refs),
            b"".join(self._object_refs),
            self._named_refs_blob(),
            b"".join(self._compressed),
        ]
        start = _HEADER.size + _INFO.size
        ranges = []
        for section in sections:
            ranges.append((start, start + len(section)))
            start += len(section)
        streams, objects, named, stream = ranges
        header = _HEADER.pack(_MAGIC, 0, 0, self._algorithm.kernel_id, 12, _HEADER.size, _HEADER.size + _INFO.size)
        info = _INFO.pack(*streams, *objects, *stream, *named, self._content_type, self._size)
        return b"".join((header, info, *sections))

    def _check_digest(self, digest: bytes) -> None:
        if len(digest) != self._algorithm.digest_size:
            raise SplitstreamError(f"digest {digest.hex()} is none of {self._algorithm.label}")

    def _hold(self) -> None:
        """Move the waiting inline bytes into the compressed spool."""
        if self._spool is None:
            self._spool = _compressor(1)
        piece = self._spool.compress(b"".join(self._inline))
        self._held.append(piece)
        self._held_compressed += len(piece)
        self._held_size += self._inline_size
        self._inline.clear()
        self._inline_size = 0
        if self._held_size > MAX_CHUNK or self._held_compressed > _MAX_HELD:
            raise SplitstreamError(
                f"more than {self._held_size} bytes without one file of more than 64 bytes among them cannot be kept"
            )

    def _flush_inline(self) -> None:
        total = self._held_size + self._inline_size
        if not total:
            return
        self._size += total
        self._put(_LENGTH.pack(-total))
        if self._spool is not None:
            self._held.append(self._spool.flush())
            with zstandard.ZstdDecompressor().stream_reader(b"".join(self._held)) as held:
                while piece := held.read(_FEED_STEP):
                    self._put(piece)
            self._held.clear()
            self._held_size = self._held_compressed = 0
            self._spool = None
        self._ready += self._inline
        self._ready_size += self._inline_size
        self._inline.clear()
        self._inline_size = 0

    def _put(self, data: bytes) -> None:
        self._ready.append(data)
        self._ready_size += len(data)
        if self._ready_size >= _FEED_STEP:
            self._feed()

    def _feed(self) -> None:
        # libzstd's output does not depend on how its input is cut, as long as the frame's end comes alone.
        if self._ready:
            self._compressed.append(self._compressor.compress(b"".join(self._ready)))
            self._ready.clear()
            self._ready_size = 0

    def _named_refs_blob(self) -> bytes:
        lines = sorted((name.encode(), self._stream_refs[digest]) for name, digest in self._named_refs.items())
        frame = _compressor(0)
        body = b"".join(b"%d:%s\0" % (index, name) for name, index in lines)
        # An empty map is a frame that is ended at once; libzstd then writes the content size, as upstream's files have.
        return (frame.compress(body) if body else b"") + frame.flush()


class Splitstream:
    """A splitstream file. `named_refs` is in the order of its table, which is the order in which refs were added."""

    __slots__ = ("_stream", "algorithm", "content_type", "named_refs", "object_refs", "size", "stream_refs")

    def __init__(
        self, algorithm: Algorithm, content_type: int, size: int, stream_refs: list[bytes], object_refs: list[bytes],
        named_refs: Mapping[str, bytes], stream: memoryview,
    ) -> None:
        self.algorithm = algorithm
        self.content_type = content_type
        self.size = size
        self.stream_refs = stream_refs
        self.object_refs = object_refs
        self.named_refs = dict(named_refs)
        self._stream = stream

    @classmethod
    def parse(
        cls, data: bytes | bytearray | memoryview, algorithm: Algorithm, content_type: int | None = None
    ) -> Splitstream:
        """Read header and tables; `data` must live as long as the result. Raises SplitstreamError."""
        view = memoryview(data).cast("B")
        info_start, info_end = _read_header(view, algorithm)
        if not _HEADER.size <= info_start <= info_end <= len(view) or info_end - info_start < _INFO.size:
            raise SplitstreamError(f"splitstream info block {info_start}..{info_end} is not inside the file")
        values = _INFO.unpack_from(view, info_start)
        ranges = {
            name: (values[2 * i], values[2 * i + 1])
            for i, name in enumerate(("stream_refs", "object_refs", "stream", "named_refs"))
        }
        found_type, size = values[8:]
        _check_ranges({"info block": (info_start, info_end)} | ranges, len(view))
        if content_type is not None and found_type != content_type:
            raise SplitstreamError(
                f"splitstream has content type {_type_name(found_type)}, expected {_type_name(content_type)}"
            )
        parts = {name: view[start:end] for name, (start, end) in ranges.items()}
        stream_refs = _digests(parts["stream_refs"], algorithm, "stream_refs")
        object_refs = _digests(parts["object_refs"], algorithm, "object_refs")
        named_refs = _read_named_refs(parts["named_refs"], stream_refs)
        return cls(algorithm, found_type, size, stream_refs, object_refs, named_refs, parts["stream"])

    def chunks(self) -> Iterator[bytes | External]:
        """The stream in order: inline bytes, in pieces of at most 128 KiB, and external parts.

        Raises SplitstreamError, at the latest at the end, when the stream is not what the tables promise. The sizes of
        external parts are not known here, so `size` bounds the inline bytes and equals them when nothing is external.
        """
        refs = [External(digest) for digest in self.object_refs]
        left, externals = self.size, 0
        try:
            with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
                self._stream, read_across_frames=True
            ) as reader:
                buffer, position = b"", 0
                while True:
                    if len(buffer) - position < 8:
                        buffer, position = buffer[position:] + _read(reader, 8 - (len(buffer) - position)), 0
                        if not buffer:
                            break
                        if len(buffer) < 8:
                            raise SplitstreamError("splitstream ends within the length of a chunk")
                    (length,) = _LENGTH.unpack_from(buffer, position)
                    position += 8
                    if length >= 0:
                        if length >= len(refs):
                            raise SplitstreamError(f"splitstream refers to object {length} of {len(refs)}")
                        externals += 1
                        yield refs[length]
                        continue
                    need = -length
                    if need > left:
                        raise SplitstreamError(f"splitstream holds more than the {self.size} bytes that it promises")
                    left -= need
                    while need:
                        if position == len(buffer):
                            buffer, position = reader.read(_READ_STEP), 0
                            if not buffer:
                                raise SplitstreamError(f"splitstream ends {need} bytes before its chunk does")
                        piece = buffer[position : position + need]
                        position += len(piece)
                        need -= len(piece)
                        yield piece
        except zstandard.ZstdError as error:
            raise SplitstreamError(f"splitstream cannot be decompressed: {error}") from None
        if left and not externals:
            raise SplitstreamError(f"splitstream ends {left} bytes before the {self.size} that it promises")


def _compressor(level: int) -> zstandard.ZstdCompressionObj:
    return zstandard.ZstdCompressor(level=level).compressobj()


def _read(reader: zstandard.ZstdDecompressionReader, least: int) -> bytes:
    """At least `least` bytes unless the stream ends."""
    data = reader.read(_READ_STEP)
    while 0 < len(data) < least and (more := reader.read(_READ_STEP)):
        data += more
    return data


def _read_header(view: memoryview, algorithm: Algorithm) -> tuple[int, int]:
    if len(view) < _HEADER.size:
        raise SplitstreamError(f"splitstream of {len(view)} bytes has no header")
    if view[:11] == _MAGIC:
        _, version, flags, kernel_id, lg_block, start, end = _HEADER.unpack_from(view)
    else:
        start, end, flags, magic, version, kernel_id, lg_block = _OLD_HEADER.unpack_from(view)
        if magic != _MAGIC:
            raise SplitstreamError("not a splitstream: the magic is missing")
    if version != 0 or flags != 0:
        raise SplitstreamError(f"splitstream version {version} with flags {flags:#x} is not supported")
    if (kernel_id, lg_block) != (algorithm.kernel_id, 12):
        raise SplitstreamError(
            f"splitstream uses fs-verity algorithm {kernel_id} with blocks of 2^{lg_block}, not {algorithm.identifier}"
        )
    return start, end


def _check_ranges(ranges: Mapping[str, tuple[int, int]], length: int) -> None:
    for name, (start, end) in ranges.items():
        if not start <= end <= length:
            raise SplitstreamError(f"splitstream {name} {start}..{end} is not inside the file of {length} bytes")
    last_name, last_end = "header", _HEADER.size
    for start, end, name in sorted((start, end, name) for name, (start, end) in ranges.items() if end > start):
        if start < last_end:
            raise SplitstreamError(f"splitstream {name} overlaps {last_name}")
        last_name, last_end = name, end


def _digests(part: memoryview, algorithm: Algorithm, what: str) -> list[bytes]:
    step = algorithm.digest_size
    if len(part) % step:
        raise SplitstreamError(f"splitstream {what} of {len(part)} bytes is no table of {step}-byte digests")
    data = bytes(part)
    return [data[i : i + step] for i in range(0, len(data), step)]


def _read_named_refs(part: memoryview, stream_refs: list[bytes]) -> dict[str, bytes]:
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            part, read_across_frames=True
        ) as reader:
            data = _read_all(reader)
    except zstandard.ZstdError as error:
        raise SplitstreamError(f"splitstream named_refs cannot be decompressed: {error}") from None
    if data and not data.endswith(b"\0"):
        raise SplitstreamError("splitstream named_refs end within a name")
    found: list[tuple[int, str]] = []
    for line in data.split(b"\0")[:-1]:
        match = _NAMED_REF.fullmatch(line)
        if match is None or int(match[1]) >= len(stream_refs):
            raise SplitstreamError(f"splitstream named reference {line[:120]!r} is malformed")
        try:
            found.append((int(match[1]), match[2].decode()))
        except UnicodeDecodeError:
            raise SplitstreamError(f"splitstream named reference {line[:120]!r} is not UTF-8") from None
    result = {name: stream_refs[index] for index, name in sorted(found, key=lambda item: item[0])}
    if len(result) != len(found):
        raise SplitstreamError("splitstream names a reference twice")
    return result


def _read_all(reader: zstandard.ZstdDecompressionReader) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while piece := reader.read(_READ_STEP):
        pieces.append(piece)
        total += len(piece)
        if total > _MAX_NAMED_REFS:
            raise SplitstreamError(f"splitstream named_refs are larger than {_MAX_NAMED_REFS} bytes")
    return b"".join(pieces)


def _type_name(value: int) -> str:
    try:
        return ContentType(value).name
    except ValueError:
        return f"{value:#018x}"
