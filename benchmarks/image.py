# SPDX-License-Identifier: Apache-2.0
"""A large synthetic image: files of the sizes that a real system has, half of their bytes compressible."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard
from isal import igzip

MTIME = 1_700_000_000
_PATTERN = b"".join(b"line %06d of a text that compresses well\n" % number for number in range(2000))
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Shape:
    """How large: number of files, and bytes of content in all of them."""

    files: int
    size: int


FULL = Shape(50_000, 1 << 30)
QUICK = Shape(5_000, 100 << 20)


def sizes(shape: Shape, seed: int) -> list[int]:
    """File sizes whose sum is `shape.size`: log-normal, as in /usr, with some files of tens of megabytes."""
    rng = random.Random(seed)
    drawn = [rng.lognormvariate(8.0, 1.9) for _ in range(shape.files)]
    factor = shape.size / sum(drawn)
    return [int(size * factor) + 1 for size in drawn]


def write_tar(target: Path, shape: Shape, seed: int, changed: int = 0, *, partly: bool = False) -> None:
    """One layer as a tar file. With `changed`, every so manieth file has another content than without; with `partly` as
    well, other bytes here and there, as a program that was built again."""
    rng, other = random.Random(seed), random.Random(-seed)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for directory in ("boot", "etc", "run", "sysroot", "var", "usr", "usr/lib", "usr/lib/modules",
                          "usr/lib/modules/6.12", f"usr/{seed}"):
            archive.addfile(_info(directory, tarfile.DIRTYPE, 0o755))
        for name in ("vmlinuz", "initramfs.img"):
            _add(archive, f"usr/lib/modules/6.12/{name}", rng.randbytes(1 << 20))
        for number, size in enumerate(sizes(shape, seed)):
            if number % 100 == 0:
                archive.addfile(_info(f"usr/{seed}/{number // 100:04}", tarfile.DIRTYPE, 0o755))
            content = _content(rng, size)
            if changed and number % changed == changed // 2:
                content = _touched(other, content) if partly else _content(other, size)
            _add(archive, f"usr/{seed}/{number // 100:04}/{number:06}", content)


def _content(rng: random.Random, size: int) -> bytes:
    noise = rng.randbytes(size // 2 + 1)
    start = rng.randrange(len(_PATTERN) // 2)
    text = _PATTERN[start:] * (size // len(_PATTERN) + 2)
    return (noise + text)[:size]


def _touched(rng: random.Random, content: bytes) -> bytes:
    found = bytearray(content)
    for start in range(0, len(content) - 4, 4096):
        found[start : start + 4] = rng.randbytes(4)
    return bytes(found)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = _info(name, tarfile.REGTYPE, 0o644)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, MTIME
    return info


def read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            yield data


def write_layout(directory: Path, tag: str, layers: list[tuple[Path, str]]) -> None:
    """An OCI layout with one image; `layers` are tar files with gzip or zstd."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    diff_ids, descriptors = [], []
    for tar, compression in layers:
        diff_id = hashlib.sha256()
        for data in read(tar):
            diff_id.update(data)
        diff_ids.append(f"sha256:{diff_id.hexdigest()}")
        packed = tar.with_suffix(f".{compression}")
        if not packed.exists():
            _compress(tar, packed, compression)
        digest = hashlib.sha256()
        for data in read(packed):
            digest.update(data)
        target = blobs / digest.hexdigest()
        if not target.exists():
            target.hardlink_to(packed)
        descriptors.append({"mediaType": f"application/vnd.oci.image.layer.v1.tar+{compression}",
                            "digest": f"sha256:{digest.hexdigest()}", "size": packed.stat().st_size})
    config = _put(blobs, {"architecture": "amd64", "os": "linux", "config": {},
                          "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    manifest = _put(blobs, {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
                            "layers": descriptors})
    index = directory / "index.json"
    old = json.loads(index.read_text())["manifests"] if index.exists() else []
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest,
             "annotations": {"org.opencontainers.image.ref.name": tag}}
    kept = [one for one in old if one["annotations"]["org.opencontainers.image.ref.name"] != tag]
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*kept, entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def _compress(source: Path, target: Path, compression: str) -> None:
    with target.open("wb") as out:
        if compression == "zstd":
            with zstandard.ZstdCompressor(level=3, threads=2).stream_writer(out) as writer:
                for data in read(source):
                    writer.write(data)
        else:
            with igzip.IGzipFile(fileobj=out, mode="wb", compresslevel=2, mtime=0) as writer:
                for data in read(source):
                    writer.write(data)


def _put(blobs: Path, document: object) -> dict[str, object]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}
