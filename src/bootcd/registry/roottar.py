# SPDX-License-Identifier: Apache-2.0
"""`tar:FILE`: a tar of a root file system, plain or compressed by gzip or zstd, as an image of one layer.

The file itself is the layer. It is read once to learn its digests and what the system in it calls itself, and once more
when it is pulled. The config is made of that: version and title from os-release(5), the architecture from there too, or
else that of this machine. Config and manifest (made.py) are the same whenever the file is, so the digest can be pinned.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import BlobNotFound, BootcdError, ImageNotFound, LayerTooLarge, OciError, SourceUnreachable
from ..formats import tar
from ..formats.oci import Descriptor, Manifest
from ..formats.osrelease import MAX_SIZE, OsRelease
from ..formats.splitstream import External
from ..model import ImageReference, Platform
from .decompress import decompress
from .made import LAYER_TYPES, check_pin, compression_of, make_manifest
from .ociarchive import COMPRESSED
from .ocidir import FileStream, Region, open_regular
from .resolve import digest_of, located
from .sources import BlobStream, FetchedManifest, SourceOptions

_OS_RELEASE = (b"usr/lib/os-release", b"etc/os-release")
_ARCHITECTURES = {"x86-64": "amd64", "x86": "386", "arm64": "arm64", "arm": "arm", "riscv64": "riscv64",
                  "ppc64-le": "ppc64le", "s390x": "s390x", "loongarch64": "loong64"}
"""Those that systemd names in os-release, in Go's words."""
_PIECE = 1 << 20


class RootTar:
    """The image that a file is."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        self.reference = reference
        self.options = options
        self._config = b""
        self._layer: Descriptor | None = None

    def manifest(self, platform: Platform) -> FetchedManifest:
        try:
            self._config, self._layer = self._read(platform)
            return check_pin(self.reference, make_manifest(self._config, [self._layer]))
        except BootcdError as error:
            raise located(error, str(self.reference)) from None

    def companion(self, tag: str) -> Manifest:
        raise ImageNotFound(f"{self.reference}: a tar file holds no {tag}", advice="")

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        what = f"{self.reference}: blob {descriptor.digest}"
        if self._layer is not None and descriptor.digest == self._layer.digest:
            return FileStream(what, self._open(), offset)
        if descriptor.digest == digest_of(self._config):
            return _Bytes(self._config[offset:])
        raise BlobNotFound(f"{what}: there is only one layer")

    def close(self) -> None:
        pass

    def _open(self) -> Region:
        file = open_regular(self.reference, Path(self.reference.name))
        if file is None:
            raise SourceUnreachable(f"{self.reference}: there is no file {self.reference.name}",
                                    advice="Check the path.")
        return file

    def _read(self, platform: Platform) -> tuple[bytes, Descriptor]:
        """Config and layer, by all that is in the file."""
        file = self._open()
        stream = FileStream(str(self.reference), file, 0)
        try:
            start = os.pread(file.fd, 8, 0)
            kind = compression_of(start)
            for magic, tool in COMPRESSED.items():
                if kind == "none" and start.startswith(magic):
                    raise OciError("no layer of an image can be compressed in this way",
                                   advice=f"Decompress it first: {tool} -c FILE > FILE.tar")
            raw, plain = hashlib.sha256(), hashlib.sha256()
            counted = _counted(decompress(_hashed(stream, raw), kind), plain, self.options.max_layer_size)
            found = _os_release(_Reader(counted))
            for _ in counted:  # what follows the end of the archive belongs to the layer
                pass
        finally:
            stream.close()
        layer = Descriptor(LAYER_TYPES[kind], f"sha256:{raw.hexdigest()}", file.size)
        return _config(found, f"sha256:{plain.hexdigest()}", platform), layer


class _Bytes:
    """A blob that is in memory."""

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data] if data else [])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Reader:
    """`read` of pieces, a whole one at most."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def __call__(self, size: int) -> bytes:
        rest = self._rest or memoryview(next(self._pieces, b""))
        self._rest = rest[size:]
        return bytes(rest[:size])


def _hashed(pieces: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _counted(pieces: Iterator[bytes], digest: hashlib._Hash, limit: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise LayerTooLarge(f"it has more than {limit} bytes when decompressed")
        digest.update(piece)
        yield piece


def _os_release(read: _Reader) -> OsRelease:
    """What the system calls itself; the last member of each name counts, as when it is unpacked. Raises TarError."""
    content = b""

    def parts() -> Iterator[bytes | External]:
        nonlocal content
        for part in tar.split(read):
            if isinstance(part, bytes):
                yield part
                continue
            content = b""
            while piece := part.read(_PIECE):
                content += piece[: MAX_SIZE - len(content)]
            yield External(b"")

    found: dict[bytes, bytes] = {}
    for entry, data in tar.entries(parts()):
        if entry.path in _OS_RELEASE:
            found.pop(entry.path, None)
            if data is not None:
                found[entry.path] = content if isinstance(data, External) else data
    return OsRelease.parse(next((found[path] for path in _OS_RELEASE if path in found), b""))


def _config(system: OsRelease, diff_id: str, platform: Platform) -> bytes:
    labels = {"org.opencontainers.image.version": system.version,
              "org.opencontainers.image.title": system.first("PRETTY_NAME", "NAME", "ID")}
    return json.dumps({
        "architecture": _ARCHITECTURES.get(system.values.get("ARCHITECTURE", ""), platform.architecture),
        "os": "linux", "config": {"Labels": {name: value for name, value in labels.items() if value}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }, separators=(",", ":"), sort_keys=True).encode()
