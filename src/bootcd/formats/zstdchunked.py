# SPDX-License-Identifier: Apache-2.0
"""zstd:chunked, a layer whose files can be fetched one by one.

To whom it is all the same, it is tar+zstd. The content of each file of the tar stands in frames of its own, and behind
the tar there are skippable frames, whose places are in the annotations of the layer's descriptor:

    … frame: headers and padding | frames: content of a file | frame: headers and padding | frames: content | …
    skippable frame: table of contents | skippable frame: tar-split | skippable frame: footer

The table of contents is a zstd frame of JSON: for each file the compressed bytes that hold its content, its size and
its SHA-256. tar-split is a zstd frame of JSON lines: all bytes of the tar that are no contents, in order, and between
them the sizes of the contents. The first versions of the format have none, and other names for their annotations.

Nothing here is taken at its word: whoever puts a tar together by these tables checks its digest.

Source: containers/storage, docs/containers-storage-zstd-chunked.md and package pkg/chunked; vbatts/tar-split.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..errors import OciError
from ..model import is_digest
from .documents import DECODER, JsonObject

MAX_TABLE = 32 << 20
"""Largest table of contents or tar-split, in bytes, as it is sent. A table takes about 100 for each file."""
MAX_UNPACKED = 512 << 20
"""The same, decompressed. It is read as a stream."""
MAX_CONTENTS = 400_000
"""Most files in one layer; each takes about 250 bytes of memory."""
MAX_ENTRIES = 2_000_000
"""Most entries of a table. What is no content, such as a directory, takes no memory, but as much time as any other."""

_PREFIXES = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")
_POSITION = re.compile(r"([0-9]{1,15}):([0-9]{1,10}):([0-9]{1,10})(?::([0-9]{1,3}))?")
_CRFS = "1"
_FRAME_HEADER = 8
_AHEAD = 1 << 20  # characters of one value: an entry with its xattrs, or a header of tar in base64
_SPACE = re.compile(r"[ \t\n\r]*")
_MAX_KEYS = 100
"""Beside the entries; whatever they hold is read and left."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table is in the blob: `size` bytes from `offset` on, which decompress to `unpacked` bytes."""

    offset: int
    size: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a layer. The frames of its tar end at `end`."""

    contents: Table
    contents_digest: str
    tar_split: Table | None
    tar_split_digest: str | None
    end: int


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file, not empty: `size` bytes with this SHA-256, in the bytes from `start` to `end` of the
    blob."""

    start: int
    end: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a blob that are fetched in one go. They hold the contents `first` to `last` - 1, counted from 0, and the
    headers between these."""

    start: int
    end: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.end - self.start


def find_tables(annotations: Mapping[str, str], size: int) -> Tables | None:
    """What the annotations of a layer of `size` bytes say; None when it is none of this format.

    Raises OciError when they make no sense, or name tables that are too large.
    """
    prefix = next((one for one in _PREFIXES if one + "manifest-position" in annotations), None)
    if prefix is None:
        return None
    contents = _table(annotations, prefix + "manifest-position", size)
    digest = annotations.get(prefix + "manifest-checksum", "")
    if not is_digest(digest):
        raise OciError(f"annotation {prefix}manifest-checksum is no digest")
    tar_split, tar_split_digest = None, None
    if prefix + "tarsplit-position" in annotations:
        tar_split = _table(annotations, prefix + "tarsplit-position", size)
        tar_split_digest = annotations.get(prefix + "tarsplit-checksum")  # later versions have it in the contents
    end = min(table.offset for table in (contents, tar_split) if table is not None) - _FRAME_HEADER
    return Tables(contents, digest, tar_split, tar_split_digest, end)


def _table(annotations: Mapping[str, str], key: str, size: int) -> Table:
    match = _POSITION.fullmatch(annotations[key])
    if match is None or (match[4] or _CRFS) != _CRFS:
        raise OciError(f"annotation {key} makes no sense, or is of a version that is not known")
    table = Table(int(match[1]), int(match[2]), int(match[3]))
    if table.offset <= _FRAME_HEADER or not table.size or table.offset + table.size > size:
        raise OciError(f"annotation {key} is outside of the {size} bytes of the layer")
    if table.size > MAX_TABLE or table.unpacked > MAX_UNPACKED:
        raise OciError(f"annotation {key} names a table of {table.size} bytes, {table.unpacked} decompressed")
    return table


def parse_contents(pieces: Iterable[bytes], end: int) -> tuple[list[Content], str | None]:
    """The contents of all files of a table of contents, in the order of the blob, and the digest of tar-split if the
    table has it. All of them must lie before `end`.

    Raises OciError, also when two overlap.
    """
    text = _Text(pieces, "table of contents")
    found: list[Content] = []
    keys: set[str] = set()
    wanted: dict[str, Any] = {"version": None, "tarSplitDigest": None}
    text.expect("{")
    more = text.peek() != "}"
    while more:
        key = text.value()
        text.expect(":")
        if not isinstance(key, str) or key in keys:
            raise text.error("a key is no string, or appears twice")
        if len(keys) == _MAX_KEYS:
            raise text.error(f"more than {_MAX_KEYS} keys")
        keys.add(key)
        if key == "entries" and text.peek() == "[":
            _parse_entries(text, found, end)
        else:
            value = text.value()
            if key in wanted:
                wanted[key] = value
        more = text.expect(",}") == ","
    if not keys:
        text.expect("}")
    text.expect("")
    top = JsonObject("table of contents", wanted, OciError)
    if top.integer("version") != 1:
        raise top.error("version", "expected 1")
    found.sort(key=lambda content: content.start)
    for before, after in pairwise(found):
        if after.start < before.end:
            raise text.error(f"two contents overlap at byte {after.start}")
    return found, top.digest("tarSplitDigest") if top.optional_string("tarSplitDigest") else None


def _parse_entries(text: _Text, found: list[Content], end: int) -> None:
    text.expect("[")
    number = 0
    more = text.peek() != "]"
    while more:
        value = text.value()
        entry = JsonObject(f"table of contents.entries[{number}]", value, OciError)
        if not isinstance(value, dict):
            raise text.error(f"entries[{number}] is no object")
        content = _content(entry, end)
        if content is not None:
            found.append(content)
            if len(found) > MAX_CONTENTS:
                raise text.error(f"more than {MAX_CONTENTS} files")
        number = text.count(number)
        more = text.expect(",]") == ","
    if not number:
        text.expect("]")


def _content(entry: JsonObject, end: int) -> Content | None:
    """Further chunks of a file, and what is no file or empty, has none of its own."""
    if entry.string("type") != "reg" or not entry.value.get("size"):
        return None
    digest = entry.digest("digest")
    algorithm, _, text = digest.partition(":")
    if algorithm != "sha256":
        raise entry.error("digest", "is no SHA-256")
    content = Content(entry.integer("offset"), entry.integer("endOffset"), entry.integer("size"), bytes.fromhex(text))
    if not 0 < content.start < content.end <= end:
        raise entry.error("offset", f"bytes {content.start} to {content.end} are not among the {end} of the tar")
    return content


def parse_tar_split(pieces: Iterable[bytes]) -> Iterator[bytes | int]:
    """What stands in the tar between the contents, and in place of each content that is not empty its size.

    Raises OciError.
    """
    text = _Text(pieces, "tar-split")
    number = 0
    while text.peek():
        value = text.value()
        entry = JsonObject(f"tar-split[{number}]", value, OciError)
        if not isinstance(value, dict):
            raise text.error("expected an object")
        kind = entry.integer("type")
        if kind == 2:
            try:
                yield binascii.a2b_base64(entry.optional_string("payload") or "", strict_mode=True)
            except ValueError:
                raise entry.error("payload", "is no base64") from None
        elif kind != 1:
            raise entry.error("type", f"{kind} is not known")
        elif entry.value.get("size"):
            yield entry.integer("size")
        number = text.count(number)


def plan(
    contents: Sequence[Content], here: Collection[bytes], end: int, *, headers: bool, gap: int, most: int,
) -> list[Run]:
    """What to fetch of a layer whose frames end at `end`, when contents with the digests `here` need not come, nor,
    with `headers`, what stands between contents.

    Runs with at most `gap` bytes between them become one, and so do more when there would be over `most` of them.
    """
    needed: list[Run] = []
    position = 0
    for number, content in enumerate(contents):
        if not headers and content.start > position:
            needed.append(Run(position, content.start, number, number))
        if content.digest not in here:
            needed.append(Run(content.start, content.end, number, number + 1))
        position = content.end
    if not headers and end > position:
        needed.append(Run(position, end, len(contents), len(contents)))
    runs = _merge(needed, gap)
    while len(runs) > most:
        gap = 2 * gap + 1
        runs = _merge(runs, gap)
    return runs


def _merge(runs: Sequence[Run], gap: int) -> list[Run]:
    merged: list[Run] = []
    for run in runs:
        if merged and run.start - merged[-1].end <= gap:
            last = merged.pop()
            run = Run(last.start, run.end, last.first, run.last)
        merged.append(run)
    return merged


class _Text:
    """JSON in pieces, one value after the other, of which only one is held."""

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self._pieces = iter(pieces)
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._buffer = ""
        self._position = 0
        self._passed = 0
        self._ended = False

    def error(self, what: str) -> OciError:
        return OciError(f"{self._name}, near character {self._passed + self._position}: {what}")

    def count(self, number: int) -> int:
        """One entry more."""
        if number == MAX_ENTRIES:
            raise self.error(f"more than {MAX_ENTRIES} entries")
        return number + 1

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            match = _SPACE.match(self._buffer, self._position)
            self._position = match.end() if match is not None else self._position
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if self._ended:
                return ""
            self._fill()

    def expect(self, characters: str) -> str:
        """Take the next character, which must be one of these; "" stands for the end."""
        found = self.peek()
        if found not in characters or bool(found) != bool(characters):
            raise self.error(f"expected {' or '.join(characters) or 'the end'}")
        self._position += len(found)
        return found

    def value(self) -> Any:
        self.peek()
        if len(self._buffer) - self._position < _AHEAD and not self._ended:
            self._fill()
        try:
            value, self._position = DECODER.raw_decode(self._buffer, self._position)
        except RecursionError:
            raise self.error("nested too deeply") from None
        except ValueError as error:  # JSONDecodeError quotes nothing, and the hooks what they do not like
            raise self.error(f"not JSON: {str(error).partition(': line ')[0]}") from None
        return value

    def _fill(self) -> None:
        parts = [self._buffer[self._position :]]
        self._passed += self._position
        have = len(parts[0])
        try:
            while have < _AHEAD + _AHEAD // 2 and not self._ended:
                piece = next(self._pieces, None)
                self._ended = piece is None
                parts.append(self._decode(piece or b"", final=piece is None))
                have += len(parts[-1])
        except UnicodeDecodeError:
            raise self.error("not UTF-8") from None
        self._buffer, self._position = "".join(parts), 0
