# SPDX-License-Identifier: Apache-2.0
"""A tar file without its compression, counted and hashed while it is read."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import BinaryIO

from ..errors import LayerTooLarge
from ..registry.decompress import decompress

_PIECE = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class Uncompressed:
    """A tar file without its compression; counts and hashes what is read through it."""

    def __init__(self, stream: BinaryIO, what: str, limit: int) -> None:
        first = stream.read(_PIECE)
        kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "none")
        self._pieces = decompress(chain((first,) if first else (), iter(lambda: stream.read(_PIECE), b"")), kind)
        self._what = what
        self._limit = limit
        self._hash = hashlib.sha256()
        self._rest = memoryview(b"")
        self.size = 0

    def read(self, count: int) -> bytes:
        if not self._rest:
            piece = next(self._pieces, b"")
            self._hash.update(piece)
            self.size += len(piece)
            if self.size > self._limit:
                raise LayerTooLarge(f"{self._what}: more than {self._limit} bytes when decompressed")
            self._rest = memoryview(piece)
        data, self._rest = bytes(self._rest[:count]), self._rest[count:]
        return data

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
