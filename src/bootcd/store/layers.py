# SPDX-License-Identifier: Apache-2.0
"""A layer's tar becomes a splitstream and objects, in one pass and in bounded memory.

The calling thread cuts the tar apart. Small payloads are gathered into batches, which worker threads measure and write;
a large payload is streamed into its object by the calling thread itself. The splitstream needs the digests in the order
of the tar, so batches are completed in that order, and a new one waits when too many are under way: that is the bound.

        read ─► split ─► batch ─► [worker, worker] ─► objects
                           └────── in order ────────► splitstream ─► sync ─► streams/oci-layer-<diff id>

An error anywhere ends the import: the threads end, no stream appears, and what was written are sound objects without
a name that a later import uses or the next collection removes. Spec 3.2, 3.6.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from ..errors import TarError
from ..formats.fsverity import measure
from ..formats.splitstream import ContentType, Writer
from ..formats.tar import Payload, split
from ..model import Progress, SilentProgress
from .objects import CHUNK, ObjectStore
from .repository import Repository

SMALL = 1 << 20
"""Payloads up to this size, in bytes, are held in memory."""

WORKERS = 2
_BATCH_BYTES = 1 << 20
_BATCH_FILES = 128
_PENDING = 8


@dataclass(slots=True)
class LayerStats:
    """What an import did to the objects: those that are new, and those that were there."""

    objects_written: int = 0
    bytes_written: int = 0
    objects_reused: int = 0
    bytes_reused: int = 0

    def count(self, size: int, written: bool) -> None:
        if written:
            self.objects_written += 1
            self.bytes_written += size
        else:
            self.objects_reused += 1
            self.bytes_reused += size

    def add(self, other: LayerStats) -> None:
        self.objects_written += other.objects_written
        self.bytes_written += other.bytes_written
        self.objects_reused += other.objects_reused
        self.bytes_reused += other.bytes_reused


LAYER_PREFIX = "oci-layer-"


def layer_name(diff_id: str) -> str:
    """The name of a layer's stream."""
    return LAYER_PREFIX + diff_id


def has_layer(repo: Repository, diff_id: str) -> bool:
    """Whether the layer is in the repository, complete."""
    return repo.streams.has(layer_name(diff_id))


def import_layer(
    repo: Repository, diff_id: str | Callable[[], str], read: Callable[[int], bytes],
    progress: Progress | None = None,
) -> LayerStats:
    """Import an uncompressed tar.

    `read` is called for at most n bytes until it returns b""; whether the bytes have the digest `diff_id` is for it
    to check, by raising at the end. `diff_id` may be a function, called after the end. Raises TarError, RootFull and
    whatever `read` raises.
    """
    repo.require_writable()
    writer = Writer(repo.algorithm, ContentType.OCI_LAYER)
    with _Pipeline(repo.objects, writer) as pipeline:
        for part in split(read):
            if isinstance(part, Payload):
                pipeline.payload(part)
            else:
                pipeline.inline(part)
        pipeline.finish()
    name = diff_id if isinstance(diff_id, str) else diff_id()
    repo.streams.put(layer_name(name), writer.finish())
    stats = pipeline.stats
    (progress or SilentProgress()).note(
        f"layer {name}: {stats.objects_written} objects written, {stats.objects_reused} reused")
    return stats


class _Batch:
    """A run of the stream: inline bytes, and None where the next payload belongs. Workers fill `results`."""

    __slots__ = ("done", "error", "parts", "payloads", "results", "size")

    def __init__(self) -> None:
        self.parts: list[bytes | None] = []
        self.payloads: list[bytes] = []
        self.results: list[tuple[bytes, int, bool]] = []
        self.size = 0
        self.done = threading.Event()
        self.error: BaseException | None = None

    def store(self, objects: ObjectStore) -> None:
        algorithm, insert, results = objects.algorithm, objects.insert, self.results
        for payload in self.payloads:
            digest = measure(payload, algorithm)
            results.append((digest, len(payload), insert(digest, payload)))
        self.payloads.clear()


class _Pipeline:
    """Batches on their way through the workers. A context manager: leaving it ends the threads."""

    def __init__(self, objects: ObjectStore, writer: Writer) -> None:
        self.stats = LayerStats()
        self._objects = objects
        self._writer = writer
        self._batch = _Batch()
        self._pending: deque[_Batch] = deque()
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._abort = False
        self._threads: list[threading.Thread] = []

    def inline(self, data: bytes) -> None:
        """Bytes that stay in the stream."""
        batch = self._batch
        batch.parts.append(data)
        batch.size += len(data)
        if batch.size >= _BATCH_BYTES:
            self._send()

    def payload(self, payload: Payload) -> None:
        """The content of a file, read to its end here."""
        size = payload.size
        if size > SMALL:
            self._stream(payload)
            return
        data = payload.read(size)
        if len(data) < size:
            data = _read_rest(payload, data)
        batch = self._batch
        batch.parts.append(None)
        batch.payloads.append(data)
        batch.size += size
        if batch.size >= _BATCH_BYTES or len(batch.payloads) >= _BATCH_FILES:
            self._send()

    def finish(self) -> None:
        """Complete everything; raises what a worker raised."""
        self._send()
        while self._pending:
            self._complete()

    def _stream(self, payload: Payload) -> None:
        self._send()
        with self._objects.writer() as writer:
            while data := payload.read(CHUNK):
                writer.write(data)
            if writer.size != payload.size:
                raise TarError(f"tar ends {payload.size - writer.size} bytes before the end of a file")
            digest = writer.commit()
        batch = _Batch()
        batch.parts.append(None)
        batch.results.append((digest, payload.size, writer.written))
        batch.done.set()
        self._enqueue(batch)

    def _send(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if batch.payloads:
            self._start()
            self._queue.put(batch)
        else:
            batch.done.set()
        self._enqueue(batch)

    def _enqueue(self, batch: _Batch) -> None:
        pending = self._pending
        pending.append(batch)
        while pending and (len(pending) > _PENDING or pending[0].done.is_set()):
            self._complete()

    def _complete(self) -> None:
        """Hand the oldest batch to the splitstream."""
        batch = self._pending.popleft()
        batch.done.wait()
        if batch.error is not None:
            raise batch.error
        results = iter(batch.results)
        writer, count = self._writer, self.stats.count
        for part in batch.parts:
            if part is None:
                digest, size, written = next(results)
                writer.write_external(digest, size)
                count(size, written)
            else:
                writer.write_inline(part)

    def _start(self) -> None:
        if len(self._threads) < WORKERS:
            thread = threading.Thread(target=self._work, name=f"layer-{len(self._threads)}", daemon=True)
            self._threads.append(thread)  # first: start() may be interrupted when the thread runs already
            thread.start()

    def _work(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                if not self._abort:
                    batch.store(self._objects)
            except BaseException as error:
                batch.error = error
                self._abort = True
            finally:
                batch.done.set()
        self._queue.put(None)  # for the next one, however many there are

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._abort = self._abort or kind is not None
        self._queue.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # not started yet, if ever: then it will find nothing to do
                thread.join()


def _read_rest(payload: Payload, data: bytes) -> bytes:
    """What a short first read left over."""
    parts, left = [data], payload.size - len(data)
    while left and (more := payload.read(left)):
        parts.append(more)
        left -= len(more)
    if left:
        raise TarError(f"tar ends {left} bytes before the end of a file")
    return b"".join(parts)
