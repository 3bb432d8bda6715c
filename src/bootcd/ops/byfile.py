# SPDX-License-Identifier: Apache-2.0
"""Import a layer by fetching only those of its files that are not here.

It saves bytes or it does nothing: whatever is in the way, from a registry that gives no parts to tables that lie, ends
with a note and the whole layer. The layer is verified by its diff ID as the whole one is, so the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..config import Config
from ..errors import BootcdError
from ..formats.oci import Descriptor
from ..linux.room import Guard
from ..model import Progress
from ..registry.blob import Hold, LayerReader
from ..registry.chunked import ChunkedLayer, examine, table_size
from ..registry.sources import Ranged, Source
from ..store.contents import Contents
from ..store.layers import LayerStats, import_layer
from ..store.repository import Repository
from .savings import FINAL, Savings


class ByFile:
    """For the layers of one pull, several at a time."""

    def __init__(
        self, repository: Repository, source: Source, config: Config, guard: Guard, progress: Progress,
        hold: Hold, ended: Callable[[], bool], savings: Savings,
    ) -> None:
        """`ended` tells whether the pull has."""
        self._repository = repository
        self._source = source
        self._max_size = config.pull_max_layer_size
        self._guard = guard
        self._progress = progress
        self._hold = hold
        self._ended = ended
        self._savings = savings
        self._contents = Contents(repository)
        self._off = not config.pull_by_file or not self._contents

    def import_layer(self, descriptor: Descriptor, diff_id: str) -> LayerStats | None:
        """None when the layer has to be fetched whole. Raises RootFull."""
        source = self._source
        table = 0
        try:
            if self._off or not isinstance(source, Ranged):
                return None
            table = table_size(descriptor)
            if not table or not self._savings.risk(table):
                return None
            layer = examine(source, descriptor, self._contents, self._hold, self._ended)
        except FINAL:
            raise
        except BootcdError as error:
            self._note(descriptor, f"is fetched whole: {error}")
            return None
        if not layer.is_worth_it or not self._savings.risk(layer.size - table):
            self._savings.count(wasted=layer.asked, risked=table)
            self._note(descriptor, "is fetched whole: most of it is new" if not layer.is_worth_it else
                       "is fetched whole: if that went wrong, it would be more than max-download")
            return None
        self._note(descriptor, f"is fetched by file: {layer.size} of its {descriptor.size} bytes")
        return self._import(source, layer, diff_id)

    def _import(self, source: Ranged, layer: ChunkedLayer, diff_id: str) -> LayerStats | None:
        descriptor = layer.descriptor
        ahead = descriptor.size - layer.size + layer.asked
        self._progress.advance(ahead)
        with self._hold(LayerReader(
            source, descriptor, diff_id, max_size=self._max_size, progress=self._progress,
            pieces=partial(layer.open, self._contents, self._progress),
        )) as reader:
            try:
                stats = import_layer(self._repository, diff_id, self._guard.counting(reader.read))
            except BootcdError as error:
                reader.close()
                self._savings.count(wasted=reader.received, risked=layer.size)
                if isinstance(error, FINAL):
                    raise
                self._progress.advance(layer.asked - ahead - reader.received)  # all of it comes again
                self._note(descriptor, f"is fetched whole after all: {error}")
                return None
        self._savings.count(saved=descriptor.size - reader.received, risked=layer.size)
        return stats

    def _note(self, descriptor: Descriptor, what: str) -> None:
        self._progress.note(f"Layer {descriptor.digest} {what}")
