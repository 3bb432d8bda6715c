# SPDX-License-Identifier: Apache-2.0
"""Reading blobs so that nothing unverified passes as verified.

A transfer counts and hashes what arrives, goes on where it stopped when a connection breaks or, with a file for what
has come, the process, and ends with an error when size or digest are wrong. `LayerReader` adds decompression and the
diff ID, all in a thread of its own, so that the network, the hashes and whoever reads the layer work at the same time.

What `LayerReader.read` returns is verified only once it has returned b"": until then a reader must not make anything
visible.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from ..errors import BlobMismatch, DiffIdMismatch, LayerTooLarge, OciError
from ..formats.oci import Descriptor
from ..model import ImageReference, Progress, SilentProgress, is_digest
from .decompress import decompress
from .partial import Partial
from .retry import Attempts
from .sources import BlobStream, SourceOptions, TransientFailure

_QUEUE_BYTES = 8 << 20
_JOIN_SECONDS = 5.0


class Blobs(Protocol):
    """What blobs are read from: a `Source`, or a view of one."""

    reference: ImageReference
    options: SourceOptions

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """As `Source.blob`."""


Wait = Callable[[float], object]
"""Sleeps so many seconds, and raises when nobody waits for the result any more."""


class Pieces(Protocol):
    """A layer, uncompressed. One thread iterates and closes it."""

    @property
    def position(self) -> int:
        """Compressed bytes that have come."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def interrupt(self) -> None:
        """As `BlobStream.interrupt`."""

    def close(self) -> None: ...


def read_blob(source: Blobs, descriptor: Descriptor, limit: int) -> bytes:
    """A small blob, verified. Raises OciError when it is larger than `limit` bytes, and what a source raises."""
    what = f"{source.reference}: blob {descriptor.digest}"
    if descriptor.size > limit:
        raise OciError(f"{what}: {descriptor.size} bytes are more than the {limit} that are permitted")
    return b"".join(Transfer(source, descriptor, what, SilentProgress()))


def read_held(source: Blobs, descriptor: Descriptor, limit: int, hold: Hold) -> bytes:
    """As `read_blob`, for who can be told to end while a server takes its time: within `hold`, which may stop it.
    Raises ValueError then."""
    with hold(LayerReader(source, descriptor, descriptor.digest, max_size=limit, unpack=iter)) as reader:
        return b"".join(iter(lambda: reader.read(limit), b""))


class _Closed(Exception):
    """The reader was closed; ends the thread."""


class Transfer:
    """The raw bytes of one blob. Ends normally only when all of them were as the descriptor says.

    `wait` sleeps between attempts, and for the bandwidth limit, and may raise to end it. What has come is kept in
    `partial`, and taken from there first.
    """

    def __init__(
        self, source: Blobs, descriptor: Descriptor, what: str, progress: Progress,
        wait: Wait = time.sleep, partial: Partial | None = None,
    ) -> None:
        self._source = source
        self._descriptor = descriptor
        self._what = what
        self._progress = progress
        self._wait = wait
        self._attempts = Attempts(source.options, wait)
        self._partial = partial
        self._here = partial.pieces() if partial is not None else iter(())
        self._hash = hashlib.new(descriptor.digest.partition(":")[0])
        self._stream: BlobStream | None = None
        self._finished = False
        self.position = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._finished:
            here = next(self._here, None)
            piece = here if here is not None else self._receive()
            if piece is not None:
                self.position += len(piece)
                if self.position > self._descriptor.size:
                    raise BlobMismatch(f"{self._what}: has more than {self._descriptor.size} bytes")
                self._hash.update(piece)
                if here is None and self._partial is not None:
                    self._partial.add(piece)
                self._progress.advance(len(piece))
                return piece
            self._finished = True
            self._finish()
        raise StopIteration

    def _receive(self) -> bytes | None:
        """The next piece from the source; None when there is no more."""
        size = self._descriptor.size
        if self._stream is None and self.position == size and self._partial is not None and self._partial.resumed:
            return None
        while True:
            try:
                if self._stream is None:
                    self._stream = self._source.blob(self._descriptor, self.position)
                    self._wait(0)  # whoever wants to end it may have come too early to interrupt the stream
                piece = next(self._stream, None)
            except TransientFailure as failure:
                self.close()
                if self.position == size:  # all is here, only the end of the message is missing
                    return None
                self._attempts.failed(failure)
                self._progress.note(f"{failure.error}; continuing after {self.position} of {size} bytes")
                continue
            if piece is not None:
                self._attempts.progress(len(piece))
                limit = self._source.options.limit
                if limit is not None:
                    limit.take(len(piece), self._wait)
            return piece

    def interrupt(self) -> None:
        """Wake up `__next__` in another thread."""
        stream = self._stream
        if stream is not None:
            stream.interrupt()

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _finish(self) -> None:
        self.close()
        size, digest = self._descriptor.size, self._descriptor.digest
        if self.position != size:
            raise BlobMismatch(f"{self._what}: has {self.position} bytes, not {size}")
        actual = f"{digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if actual != digest:
            raise BlobMismatch(f"{self._what}: has digest {actual}")
        if self._partial is not None:
            self._partial.complete()


Hold = Callable[["LayerReader"], AbstractContextManager["LayerReader"]]
"""What a reader is used within; closes it, and may stop it before."""


class LayerReader:
    """A layer's uncompressed tar stream, as a file that can be read once.

    `diff_id` is what the image's config names; `max_size` bounds the uncompressed size in bytes; `progress` hears of
    compressed bytes; `partial` is where they are kept. `pieces` makes the stream, for layers that are not fetched
    whole; `unpack` makes it of the blob, in place of decompression. One thread reads; `close` may be called from any
    thread and at any time, and must be called (or use `with`).
    """

    def __init__(
        self, source: Blobs, descriptor: Descriptor, diff_id: str, *, max_size: int, progress: Progress | None = None,
        partial: Partial | None = None, pieces: Callable[[Wait], Pieces] | None = None,
        unpack: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None,
    ) -> None:
        """Starts to download. Raises OciError when the descriptor is of no layer that can be read."""
        self._what = f"{source.reference}: layer {descriptor.digest}"
        if not is_digest(diff_id):
            raise OciError(f"{self._what}: diff ID {diff_id!r:.100} is no digest")
        if descriptor.urls:
            raise OciError(f"{self._what}: is a foreign layer, which is not fetched from other places")
        if unpack is None:
            unpack = functools.partial(decompress, compression=descriptor.compression)
        self._diff_id = diff_id
        self._max_size = max_size
        self._ready = threading.Condition()
        self._closed = threading.Event()
        self._chunks: deque[bytes] = deque()
        self._queued = 0
        self._done = False
        self._error: BaseException | None = None
        self._current = memoryview(b"")
        self._partial = partial
        self._transfer: Transfer | Pieces
        self._pieces: Iterator[bytes]
        if pieces is not None:
            self._transfer = self._pieces = pieces(self._pause)
        else:
            transfer = Transfer(source, descriptor, self._what, progress or SilentProgress(), self._pause, partial)
            self._transfer, self._pieces = transfer, unpack(transfer)
        # A daemon, because nothing wakes it up while a server takes its time to answer at all.
        self._thread = threading.Thread(target=self._run, name=f"layer {descriptor.digest[:19]}", daemon=True)
        self._thread.start()

    def __enter__(self) -> LayerReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Large sizes get whole chunks without a copy.

        Raises BlobMismatch, DiffIdMismatch, LayerTooLarge, OciError and what the source raises; the wrong digests and a
        wrong diff ID at the end, in place of b"".
        """
        current = self._current
        if not current:
            chunk = self._take()
            if len(chunk) <= size:
                return chunk
            current = memoryview(chunk)
        self._current = current[size:]
        return bytes(current[:size])

    @property
    def received(self) -> int:
        """Compressed bytes so far, those that were kept of an earlier attempt among them."""
        return self._transfer.position

    def stop(self) -> None:
        """End the download, without waiting for its thread."""
        self._closed.set()
        with self._ready:
            self._chunks.clear()
            self._queued = 0
            self._ready.notify_all()
        self._transfer.interrupt()

    def close(self) -> None:
        """End the download and its thread."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)

    def _take(self) -> bytes:
        with self._ready:
            while not self._chunks and not self._done and not self._closed.is_set():
                self._ready.wait()
            if self._closed.is_set():
                raise ValueError("read of a closed layer")
            if self._chunks:
                chunk = self._chunks.popleft()
                self._queued -= len(chunk)
                self._ready.notify_all()
                return chunk
        if self._error is not None:
            raise self._error
        return b""

    def _put(self, chunk: bytes) -> None:
        with self._ready:
            while self._queued >= _QUEUE_BYTES and not self._closed.is_set():
                self._ready.wait()
            if self._closed.is_set():
                raise _Closed
            self._chunks.append(chunk)
            self._queued += len(chunk)
            self._ready.notify_all()

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _Closed

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work()
        except _Closed:
            pass
        except BaseException as failure:  # carried over to whoever reads
            error = failure
        finally:
            if isinstance(self._pieces, Generator):
                self._pieces.close()  # what it holds, such as old files, is not for the garbage collector to find
            self._transfer.close()
            if self._partial is not None:
                self._partial.close()
            with self._ready:
                self._error = error
                self._done = True
                self._ready.notify_all()

    def _work(self) -> None:
        algorithm, _, _ = self._diff_id.partition(":")
        diff = hashlib.new(algorithm)
        size = 0
        try:
            for chunk in self._pieces:
                size += len(chunk)
                if size > self._max_size:
                    raise LayerTooLarge(f"{self._what}: has more than {self._max_size} bytes when decompressed")
                diff.update(chunk)
                self._put(chunk)
        except OciError as error:
            self._blame(error)
        actual = f"{algorithm}:{diff.hexdigest()}"
        if actual != self._diff_id:
            raise DiffIdMismatch(f"{self._what}: has diff ID {actual}, but the config names {self._diff_id}")

    def _blame(self, error: OciError) -> None:
        """Bad compressed data is the image's fault or the source's: the digest of the whole blob tells."""
        for _ in self._transfer:
            if self._closed.is_set():
                raise _Closed
        raise OciError(f"{self._what}: {error}") from None


class Part(Transfer):
    """Bytes from the middle of a blob: their number is checked, nothing else. For who checks what is made of them."""

    def _finish(self) -> None:
        self.close()
        if self.position != self._descriptor.size:
            raise BlobMismatch(f"{self._what}: a part has {self.position} bytes, not {self._descriptor.size}")
