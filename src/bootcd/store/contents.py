# SPDX-License-Identifier: Apache-2.0
"""Which contents of files, named by SHA-256, the layers of a repository have.

Objects are named by another digest, and no table leads from one to the other: it would have to be kept, checked and
collected. Instead, objects that have the size of a wanted content are read and hashed. The sizes, and contents that are
too small to be objects, come from the streams of the layers, which are read once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from ..errors import BootcdError
from ..formats.splitstream import ContentType, External
from ..formats.tar import entries
from ..formats.tarheader import EntryType
from .layers import LAYER_PREFIX
from .repository import Repository

WORKERS = 2
_BATCH = 256


class Contents:
    """Contents of files in one repository, which stays open. Safe to use from several threads."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._lock = threading.Lock()
        self._sizes: dict[int, set[bytes]] | None = None
        """Objects by size that were not hashed yet."""
        self._small: dict[bytes, bytes] = {}
        self._objects: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        """Whether there is a layer at all."""
        return any(name.startswith(LAYER_PREFIX) for name in self._repo.streams.names())

    def find(self, wanted: Mapping[bytes, int], ended: Callable[[], bool] = lambda: False) -> set[bytes]:
        """Which of the contents, SHA-256 → size, are here: hashed now or by an earlier call. What cannot be read is
        not here. The sizes may be those of all objects, so `ended`, which may say at any time that nobody waits any
        more, is asked for each piece."""
        with self._lock:
            if self._sizes is None:
                self._sizes = self._scan()
            sizes = set(wanted.values())
            todo = [digest for size in sizes for digest in self._sizes.pop(size, ())]
            batches = [todo[start : start + _BATCH] for start in range(0, len(todo), _BATCH)]
            interrupted = threading.Event()
            with ThreadPoolExecutor(WORKERS, "contents") as pool:
                try:
                    for found in pool.map(partial(self._hash_all, lambda: interrupted.is_set() or ended()), batches):
                        self._objects.update(found)
                except BaseException:
                    interrupted.set()
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
            if ended():
                self._sizes = None
            return {digest for digest in wanted if digest in self._objects or digest in self._small}

    def read(self, digest: bytes) -> Iterator[bytes]:
        """A content that was found, a piece at a time; nobody has looked whether it is still the same. Raises
        RepositoryDamaged, ObjectMismatch."""
        small = self._small.get(digest)
        if small is not None:
            yield small
        else:
            yield from self._repo.objects.chunks(self._objects[digest], check=False)

    def _scan(self) -> dict[int, set[bytes]]:
        sizes: dict[int, set[bytes]] = {}
        for name in self._repo.streams.names():
            if not name.startswith(LAYER_PREFIX):
                continue
            try:
                for size, content in self._files(name):
                    if isinstance(content, External):
                        sizes.setdefault(size, set()).add(content.digest)
                    else:
                        self._small[hashlib.sha256(content).digest()] = content
            except BootcdError:
                continue  # a damaged layer is fsck's business
        return sizes

    def _files(self, name: str) -> Iterable[tuple[int, bytes | External]]:
        for entry, content in entries(self._repo.streams.open(name, ContentType.OCI_LAYER).chunks()):
            if entry.type is EntryType.FILE and content:
                yield entry.size, content

    def _hash_all(self, ended: Callable[[], bool], digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """The objects by their SHA-256; one that cannot be read is left out."""
        found: dict[bytes, bytes] = {}
        for digest in digests:
            hasher = hashlib.sha256()
            with suppress(BootcdError):
                for piece in self._repo.objects.chunks(digest, check=False):
                    if ended():
                        return found
                    hasher.update(piece)
                found[hasher.digest()] = digest
        return found
