# SPDX-License-Identifier: Apache-2.0
"""Layers that are fetched by file: the tar is put together from parts of the blob and from contents that are here.

What comes out is the tar of the layer, byte by byte, so whoever reads it checks the diff ID as ever, and nothing that
the tables say has to be believed (`formats.zstdchunked`):

        manifest (verified) ── digest of the table ──► table of contents ── SHA-256 of each file ──► is it here?
              │                                                                                    yes │    │ no
        config ── diff ID ──► hash of all that comes out ◄── headers (tar-split), contents from here, runs of the blob

Runs come one after the other over a connection that is kept. The bytes of a run are decompressed as a whole, headers
and all; so without tar-split, headers are just more bytes that are missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ..errors import OciError
from ..formats.oci import Descriptor
from ..formats.zstdchunked import (
    MAX_TABLE,
    Content,
    Run,
    Table,
    Tables,
    find_tables,
    parse_contents,
    parse_tar_split,
    plan,
)
from ..model import Progress
from .blob import Hold, Part, Pieces, Transfer, Wait, read_held
from .decompress import decompress, together
from .sources import BlobStream, Ranged

SMALL = 512 << 10
"""Bytes of a layer that is fetched whole without a further look."""
GAP = 64 << 10
"""Bytes between two runs that are rather fetched, too, than another request made."""
MOST_RUNS = 2000
_WORTH = 0.9
"""Share of a layer that may be fetched at most; above, the whole of it comes faster."""


class Local(Protocol):
    """Contents that are here."""

    def find(self, wanted: Mapping[bytes, int], ended: Callable[[], bool]) -> Collection[bytes]:
        """Which of these contents, SHA-256 → size, are here. They were read and hashed; when it has `ended`, not all
        of them were."""

    def read(self, digest: bytes) -> Iterator[bytes]:
        """One that was found, a piece at a time. Raises IntegrityError, RepositoryError."""


def table_size(descriptor: Descriptor) -> int:
    """Bytes that `examine` fetches of a layer; 0 for one that cannot be fetched by file. Raises OciError when its
    annotations make no sense."""
    if descriptor.size <= SMALL or descriptor.compression != "zstd":
        return 0
    tables = find_tables(descriptor.annotations, descriptor.size)
    return tables.contents.size if tables is not None else 0


@dataclass(frozen=True, slots=True)
class ChunkedLayer:
    """What was found out about a layer. `asked` bytes have come for it, and `size` are needed, these among them."""

    source: Ranged
    descriptor: Descriptor
    tables: Tables
    tar_split: Table | None
    contents: tuple[Content, ...]
    runs: tuple[Run, ...]
    asked: int
    size: int

    @property
    def is_worth_it(self) -> bool:
        return self.size <= self.descriptor.size * _WORTH

    def open(self, local: Local, progress: Progress, wait: Wait) -> Pieces:
        """The tar of the layer; `progress` hears of bytes that come."""
        return _Assembly(self, local, progress, wait)


def examine(source: Ranged, descriptor: Descriptor, local: Local, hold: Hold = lambda reader: reader,
            ended: Callable[[], bool] = lambda: False) -> ChunkedLayer:
    """Fetch the table of contents of a layer, and see what is here. It ends early when the reader that is used within
    `hold` is stopped, by ValueError, or when `ended` says so.

    Raises OciError when it cannot be used, BlobMismatch, and what the source raises.
    """
    tables = find_tables(descriptor.annotations, descriptor.size)
    if tables is None:
        raise OciError(f"layer {descriptor.digest} has no table of contents")
    packed = read_held(_View(source, descriptor, tables.contents.offset),
                       _described(tables.contents, tables.contents_digest), MAX_TABLE, hold)
    contents, digest = parse_contents(_unpack(packed, tables.contents), tables.end)
    tar_split = tables.tar_split
    if digest is not None or tables.tar_split_digest is not None:
        tables = replace(tables, tar_split_digest=digest or tables.tar_split_digest)
    else:
        tar_split = None  # an early version: nothing says that it belongs to this manifest
    here = local.find({content.digest: content.size for content in contents}, ended)
    runs = plan(contents, here, tables.end, headers=tar_split is not None, gap=GAP, most=MOST_RUNS)
    size = sum(run.size for run in runs) + tables.contents.size + (tar_split.size if tar_split is not None else 0)
    return ChunkedLayer(source, descriptor, tables, tar_split, tuple(contents), tuple(runs), tables.contents.size, size)


class _Assembly:
    """The tar of a layer, once."""

    def __init__(self, layer: ChunkedLayer, local: Local, progress: Progress, wait: Wait) -> None:
        self._layer = layer
        self._local = local
        self._progress = progress
        self._wait = wait
        self._part: Transfer | None = None
        self._what = f"{layer.source.reference}: layer {layer.descriptor.digest}"
        self._closed = threading.Event()
        self._before = layer.asked
        self._pieces = together(self._assembled())

    @property
    def position(self) -> int:
        part = self._part
        return self._before + (part.position if part is not None else 0)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def interrupt(self) -> None:
        self._closed.set()
        part = self._part
        if part is not None:
            part.interrupt()

    def close(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            self._before += part.position
            part.close()

    def _assembled(self) -> Iterator[bytes]:
        return self._in_blob_order() if self._layer.tar_split is None else self._by_tar_split(self._layer.tar_split)

    def _in_blob_order(self) -> Iterator[bytes]:
        number = 0
        for run in self._layer.runs:
            while number < run.first:
                yield from self._here(number)
                number += 1
            yield from self._run(run)
            number = run.last

    def _by_tar_split(self, table: Table) -> Iterator[bytes]:
        layer = self._layer
        contents, runs = layer.contents, iter(layer.runs)
        view = _View(layer.source, layer.descriptor, table.offset)
        packed = b"".join(self._transferred(Transfer(
            view, _described(table, layer.tables.tar_split_digest or ""), self._what, self._progress, self._wait)))
        run = next(runs, None)
        number = fetched = 0
        for item in parse_tar_split(_unpack(packed, table)):
            if isinstance(item, bytes):
                if number >= fetched:  # else it came with the run
                    yield item
                continue
            if number >= len(contents) or item != contents[number].size:
                raise OciError(f"tar-split and table of contents differ on the size of file {number}")
            if run is not None and run.first == number:
                yield from self._run(run)
                fetched, run = run.last, next(runs, None)
            elif number >= fetched:
                yield from self._here(number)
            number += 1
        if number != len(contents):
            raise OciError(f"tar-split has {number} of the {len(contents)} files of the table of contents")

    def _here(self, number: int) -> Iterator[bytes]:
        for piece in self._local.read(self._layer.contents[number].digest):
            if self._closed.is_set():
                return
            yield piece

    def _run(self, run: Run) -> Iterator[bytes]:
        layer = self._layer
        part = Part(_View(layer.source, layer.descriptor, run.start), replace(layer.descriptor, size=run.size),
                    self._what, self._progress, self._wait)
        return decompress(self._transferred(part), "zstd")

    def _transferred(self, part: Transfer) -> Iterator[bytes]:
        self._part = part
        try:
            yield from part
        finally:
            self.close()


class _View:
    """A blob from some byte on, as if it were one of its own."""

    def __init__(self, source: Ranged, whole: Descriptor, start: int) -> None:
        self.reference = source.reference
        self.options = source.options
        self._source = source
        self._whole = whole
        self._start = start

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        return self._source.part(self._whole, self._start + offset, descriptor.size - offset)


def _described(table: Table, digest: str) -> Descriptor:
    """A table as it is sent, as a blob of its own."""
    return Descriptor("", digest, table.size)


def _unpack(packed: bytes, table: Table) -> Iterable[bytes]:
    size = 0
    for piece in decompress(iter((packed,)), "zstd"):
        size += len(piece)
        if size > table.unpacked:
            raise OciError(f"a table has more than the {table.unpacked} bytes that its annotation names")
        yield piece
