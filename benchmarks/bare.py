# SPDX-License-Identifier: Apache-2.0
"""The bare pipeline: what an import cannot do without, each once, one after the other, and nothing else.

    decompress → SHA-256 of blob and tar → fs-verity hash of each file → write each file

No tar parsing (the places of the payloads are known beforehand), no splitstream, no look whether a file is there, no
sync. Run as a program of its own, so that its memory can be compared, too.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import zstandard
from isal import isal_zlib

from bootcd.formats.fsverity import Algorithm, Hasher, measure

_CHUNK = 1 << 20
_SMALL = 64


def payloads(tar: Path) -> list[tuple[int, int]]:
    """Where the contents of more than 64 bytes are: offset and size."""
    with tarfile.open(tar) as archive:
        return [(member.offset_data, member.size) for member in archive if member.isfile() and member.size > _SMALL]


def plain(blob: Path, compression: str) -> Iterator[bytes]:
    """The tar inside a blob, both hashed."""
    packed, whole = hashlib.sha256(), hashlib.sha256()
    decoder = zstandard.ZstdDecompressor().decompressobj() if compression == "zstd" else isal_zlib.decompressobj(31)
    with blob.open("rb") as file:
        while data := file.read(_CHUNK):
            packed.update(data)
            piece = decoder.decompress(data)
            whole.update(piece)
            yield piece


def run(blob: Path, compression: str, places: list[tuple[int, int]], target: Path) -> None:
    """Put every payload into a file below `target`, named by its digest."""
    for number in range(256):
        (target / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    stream = plain(blob, compression)
    buffer, start = b"", 0
    for offset, size in places:
        while start + len(buffer) < offset:
            start += len(buffer)
            buffer = next(stream)
        buffer, start = buffer[offset - start :], offset
        if size <= 8 * _CHUNK:
            while len(buffer) < size:
                buffer += next(stream)
            _write(target, measure(buffer[:size], Algorithm.SHA512), buffer[:size])
            buffer, start = buffer[size:], start + size
            continue
        hasher, left = Hasher(Algorithm.SHA512), size
        temporary = target / "large"
        with temporary.open("wb") as file:
            while left:
                buffer = buffer or next(stream)
                part, buffer = buffer[:left], buffer[left:]
                hasher.update(part)
                file.write(part)
                left -= len(part)
        start += size
        temporary.rename(target / _name(hasher.digest()))
    for _ in stream:
        pass


def _write(target: Path, digest: bytes, data: bytes) -> None:
    descriptor = os.open(target / _name(digest), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def _name(digest: bytes) -> str:
    text = digest.hex()
    return f"{text[:2]}/{text[2:]}"


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2],
        [(int(a), int(b)) for a, b in (line.split() for line in sys.stdin)], Path(sys.argv[3]))
