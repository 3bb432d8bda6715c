# SPDX-License-Identifier: Apache-2.0
"""fs-verity digests, computed in user space.

The content is cut into blocks of 4096 bytes, the last one padded with zeros, and each is hashed. While more than one
hash remains, the hashes are packed into blocks and hashed in the same way. The one that is left is the root hash;
that of an empty file is all zeros. The digest is the hash of a descriptor of 256 bytes:

    0    version, 1            8    size of the content, u64
    1    kernel id of the hash 16   root hash, padded with zeros to 64 bytes
    2    log2(4096) = 12       80   salt, here always absent, and zeros
    3    size of the salt, 0

It is what FS_IOC_MEASURE_VERITY reports, and the name of an object in a repository.
Source: Documentation/filesystems/fsverity.rst of the Linux kernel.

The blocks are hashed by the C module `_bootcd_fsverity` if it is there, else by hashlib, which costs more for each
block and makes threads wait for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum
from struct import Struct
from typing import TYPE_CHECKING, Final

from bootcd.errors import MetadataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    import _bootcd_fsverity as _native
except ImportError:  # built without the extension
    _native = None

BLOCK_SIZE: Final = 4096

_DESCRIPTOR: Final = Struct("<BBBB4xQ64s176x")
# How much is hashed at once, so that the list of hashes stays small however much the caller passes in.
_STEP: Final = 16 << 20


class Algorithm(Enum):
    """A hash that fs-verity can use; the block size is always 4096."""

    SHA256 = ("sha256", 1, 32)
    SHA512 = ("sha512", 2, 64)

    def __init__(self, label: str, kernel_id: int, digest_size: int) -> None:
        self.label = label
        self.kernel_id = kernel_id
        self.digest_size = digest_size
        self.suffix = f"{label}-12"
        self.identifier = f"fsverity-{label}-12"

    @classmethod
    def parse(cls, identifier_or_label: str) -> Algorithm:
        """The algorithm that `fsverity-sha512-12` or `sha512` names. Raises MetadataError."""
        for algorithm in cls:
            if identifier_or_label in (algorithm.identifier, algorithm.label):
                return algorithm
        known = ", ".join(algorithm.identifier for algorithm in cls)
        raise MetadataError(f"unknown fs-verity algorithm {identifier_or_label!r}; known are {known}")

    @classmethod
    def of_digest(cls, digest: bytes) -> Algorithm:
        """The algorithm whose digests are as long as `digest`. Raises MetadataError."""
        for algorithm in cls:
            if len(digest) == algorithm.digest_size:
                return algorithm
        raise MetadataError(f"an fs-verity digest has 32 or 64 bytes, not {len(digest)}")


def measure(data: Buffer, algorithm: Algorithm) -> bytes:
    """The digest of a file with the content `data`."""
    if _native is not None:
        digest: bytes = _native.measure(data, algorithm.kernel_id)
        return digest
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


class Hasher:
    """The digest of content that arrives in pieces; keeps less than one block per level of the hash tree.

    The native module lets other threads run while it hashes, but one hasher belongs to one thread.
    """

    __slots__ = ("_algorithm", "_hash_blocks", "_levels", "_tail", "size")

    def __init__(self, algorithm: Algorithm) -> None:
        self.size = 0
        """Bytes seen so far."""
        self._algorithm = algorithm
        self._hash_blocks = _block_hasher(algorithm)
        self._tail = bytearray()
        self._levels = [bytearray()]

    def update(self, data: Buffer) -> None:
        """Append `data` to the content."""
        with memoryview(data).cast("B") as view:
            size = len(view)
            self.size += size
            start = 0
            if self._tail:
                start = min(BLOCK_SIZE - len(self._tail), size)
                self._tail += view[:start]
                if len(self._tail) < BLOCK_SIZE:
                    return
                self._push(self._hash_blocks(self._tail))
                self._tail.clear()
            end = size - (size - start) % BLOCK_SIZE
            for offset in range(start, end, _STEP):
                self._push(self._hash_blocks(view[offset:min(offset + _STEP, end)]))
            self._tail += view[end:]

    def digest(self) -> bytes:
        """The digest of the content so far; more may follow."""
        hashes = self._hash_blocks(self._tail)
        for level in self._levels[:-1]:
            hashes = self._hash_blocks(level + hashes)
        hashes = bytes(self._levels[-1]) + hashes
        while len(hashes) > self._algorithm.digest_size:
            hashes = self._hash_blocks(hashes)
        descriptor = _DESCRIPTOR.pack(1, self._algorithm.kernel_id, 12, 0, self.size, hashes)
        return hashlib.new(self._algorithm.label, descriptor).digest()

    def _push(self, hashes: bytes) -> None:
        """Add hashes to the lowest level and fold what fills a block into the level above."""
        for level in self._levels:
            level += hashes
            whole = len(level) - len(level) % BLOCK_SIZE
            if not whole:
                return
            hashes = self._hash_blocks(level[:whole])
            del level[:whole]
        self._levels.append(bytearray())
        self._levels[-1] += hashes


def _block_hasher(algorithm: Algorithm) -> Callable[[Buffer], bytes]:
    if _native is not None:
        native: Callable[[Buffer, int], bytes] = _native.hash_blocks
        kernel_id = algorithm.kernel_id
        return lambda data: native(data, kernel_id)
    new = hashlib.sha256 if algorithm is Algorithm.SHA256 else hashlib.sha512

    def hash_blocks(data: Buffer) -> bytes:
        view = memoryview(data)
        whole = len(view) - len(view) % BLOCK_SIZE
        digests = [new(view[offset:offset + BLOCK_SIZE]).digest() for offset in range(0, whole, BLOCK_SIZE)]
        if whole < len(view):
            digests.append(new(bytes(view[whole:]).ljust(BLOCK_SIZE, b"\0")).digest())
        return b"".join(digests)

    return hash_blocks
