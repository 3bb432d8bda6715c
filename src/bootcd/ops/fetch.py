# SPDX-License-Identifier: Apache-2.0
"""The layers that an image lacks, several at a time, on their way into the repository.

Each layer has a thread that imports it and one that downloads it (`LayerReader`), with bounded queues between them. The
first error ends them all. A layer is in the repository when it is complete and durable, and what has come of the others
is kept (`registry.partial`), so whatever breaks off here costs little.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..config import Config
from ..errors import FormatError, IntegrityError, Interrupted, LayerTooLarge
from ..formats.oci import Descriptor
from ..linux.room import Guard
from ..model import Progress
from ..registry.blob import LayerReader
from ..registry.carried import is_remote
from ..registry.partial import Partial, Partials
from ..registry.sources import FetchedManifest, Source
from ..store.layers import LayerStats, import_layer
from ..store.repository import Repository
from .bydelta import ByDelta
from .byfile import ByFile
from .savings import Savings

_PIECE = 1 << 20
_WRONG = (FormatError, IntegrityError, LayerTooLarge)
"""What wrong bytes may lead to."""


class Layers:
    """Layers with their diff IDs. `left` are those that are not in the repository yet; `stats` and `savings` tell of
    the others."""

    def __init__(
        self, repository: Repository, source: Source, fetched: FetchedManifest,
        missing: Iterable[tuple[Descriptor, str]], *, config: Config, progress: Progress, partials: Partials,
    ) -> None:
        """Raises DeltaUnusable."""
        self.left = list(missing)
        self.stats = LayerStats()
        self._repository = repository
        self._source = source
        self._max_layer_size = config.pull_max_layer_size
        self._progress = progress
        # Bytes from this machine itself come again as fast as from a file, and two streams from its disk no faster.
        self._is_remote = is_remote(source)
        self._partials = partials
        self._guard = Guard(repository.path)
        self._lock = threading.Lock()
        self._readers: set[LayerReader] = set()
        self._stopped = False
        limit = config.pull_max_download
        spare = limit - partials.to_come(descriptor for descriptor, _ in self.left)
        self.savings = Savings(spare if limit and self._is_remote else None)
        self._by_file = ByFile(repository, source, config, self._guard, progress, self._held, lambda: self._stopped,
                               self.savings)
        self._by_delta = ByDelta(repository, source, fetched, self.left, config, self._guard, progress, self._held,
                                 partials, self.savings)

    @property
    def size(self) -> int:
        """Compressed bytes of what is left."""
        return sum(descriptor.size for descriptor, _ in self.left)

    def fetch(self, parallel: int) -> None:
        """Import what is left, up to `parallel` layers at a time from another machine. May be called again after an
        error. Raises RootFull, and what reading the source raises."""
        self._stopped = False
        self._by_delta.look()
        todo = deque(self.left)
        count = min(parallel, len(todo)) if self._is_remote else 1
        if count > 1:
            self._together(todo, count)
            return
        for layer in todo:
            self._one(*layer)

    def drop_delta(self) -> bool:
        """As `ByDelta.drop`."""
        return self._by_delta.drop()

    def _together(self, todo: deque[tuple[Descriptor, str]], count: int) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while (layer := self._next(todo)) is not None:
                    self._one(*layer)
            except BaseException as error:  # carried over to the caller
                errors.append(error)
                self._stop()

        threads = [threading.Thread(target=work, name=f"fetch-{number}", daemon=True) for number in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:  # by Ctrl-C, as a rule; else they have ended
            self._stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if errors:
            raise errors[0]

    def _next(self, todo: deque[tuple[Descriptor, str]]) -> tuple[Descriptor, str] | None:
        with self._lock:
            return todo.popleft() if todo and not self._stopped else None

    def _stop(self) -> None:
        """Let all readers end soon."""
        with self._lock:
            self._stopped = True
            readers = list(self._readers)
        for reader in readers:
            reader.stop()

    def _one(self, descriptor: Descriptor, diff_id: str) -> None:
        if not self._import_in_part(descriptor, diff_id):
            self._import_whole(descriptor, diff_id)
        self._partials.remove(descriptor.digest)
        with self._lock:
            self.left.remove((descriptor, diff_id))

    def _import_in_part(self, descriptor: Descriptor, diff_id: str) -> bool:
        if self._is_remote and descriptor.digest in self._partials.sizes():  # the rest of it costs less than a look
            return False
        stats = self._by_delta.import_layer(descriptor, diff_id)
        if stats is None:
            stats = self._by_file.import_layer(descriptor, diff_id)
        if stats is not None:
            with self._lock:
                self.stats.add(stats)
        return stats is not None

    def _import_whole(self, descriptor: Descriptor, diff_id: str) -> None:
        while True:
            partial = self._partials.of(descriptor) if self._is_remote else None
            try:
                self._import(descriptor, diff_id, partial)
            except _WRONG as error:
                self._partials.remove(descriptor.digest)
                if partial is None or not partial.resumed:
                    raise
                self._progress.note(f"What was kept of layer {descriptor.digest} is wrong; it is fetched anew: {error}")
            else:
                return

    def _import(self, descriptor: Descriptor, diff_id: str, partial: Partial | None) -> None:
        with self._reader(descriptor, diff_id, partial) as reader:
            try:
                stats = import_layer(self._repository, diff_id, self._guard.counting(reader.read))
            except FormatError:
                # What came down the line wrong rarely makes sense as a tar either. The end of the blob tells which it
                # is.
                while reader.read(_PIECE):
                    pass
                raise
        with self._lock:
            self.stats.add(stats)
        self.savings.count(resumed=partial.resumed if partial is not None else 0)

    @contextmanager
    def _reader(self, descriptor: Descriptor, diff_id: str, partial: Partial | None) -> Iterator[LayerReader]:
        reader = LayerReader(self._source, descriptor, diff_id, max_size=self._max_layer_size,
                             progress=self._progress, partial=partial)
        with self._held(reader):
            try:
                yield reader
            except _WRONG:
                reader.close()
                self._progress.advance(-reader.received)  # comes again, if at all
                raise

    @contextmanager
    def _held(self, reader: LayerReader) -> Iterator[LayerReader]:
        """One that ends with the block, or when everything ends."""
        try:
            with self._lock:
                self._readers.add(reader)
                if self._stopped:
                    raise Interrupted("interrupted; what was finished is kept")
            yield reader
        finally:
            reader.close()
            with self._lock:
                self._readers.discard(reader)
