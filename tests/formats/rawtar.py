# SPDX-License-Identifier: Apache-2.0
"""Builds tar archives byte by byte, since the tests need archives that no tar program would write."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.splitstream import ContentType, Writer
from bootcd.formats.tar import split

POSIX, GNU, V7 = b"ustar\x0000", b"ustar  \x00", bytes(8)
END = bytes(1024)
ALGORITHM = Algorithm.SHA256


def header(
    name: bytes = b"f", type: bytes = b"0", size: int | bytes = 0, *, mode: bytes = b"0000644", uid: bytes = b"0000000",
    gid: bytes = b"0000000", mtime: bytes = b"00000000000", link: bytes = b"", magic: bytes = POSIX,
    major: bytes = b"", minor: bytes = b"", prefix: bytes = b"", checksum: bytes | None = None,
) -> bytes:
    fields = [(name, 100), (mode, 8), (uid, 8), (gid, 8), (b"%011o" % size if isinstance(size, int) else size, 12),
              (mtime, 12), (b" " * 8, 8), (type, 1), (link, 100), (magic, 8), (b"", 64), (major, 8), (minor, 8),
              (prefix, 155), (b"", 12)]
    block = b"".join(data.ljust(width, b"\0") for data, width in fields)
    assert len(block) == 512
    return block[:148] + (b"%06o\0 " % sum(block) if checksum is None else checksum) + block[156:]


def member(name: bytes = b"f", data: bytes = b"", type: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, type, len(data), **fields) + data + bytes(-len(data) % 512)


def directory(name: bytes, **fields: bytes) -> bytes:
    return member(name, type=b"5", **({"mode": b"0000755"} | fields))


def symlink(name: bytes, target: bytes) -> bytes:
    return member(name, type=b"2", link=target)


def hardlink(name: bytes, target: bytes) -> bytes:
    return member(name, type=b"1", link=target)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def pax(*records: tuple[bytes, bytes], type: bytes = b"x") -> bytes:
    return member(b"pax", b"".join(record(key, value) for key, value in records), type)


def long_name(text: bytes, type: bytes = b"L") -> bytes:
    return member(b"././@LongLink", text + b"\0", type, magic=GNU)


def reader(data: bytes, step: int = 1 << 30) -> Callable[[int], bytes]:
    """A `read` as sources have it, with at most `step` bytes at a time."""
    position = 0

    def read(n: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(n, step)]
        position += len(piece)
        return piece

    return read


def to_splitstream(archive: bytes, step: int = 1 << 30) -> bytes:
    writer = Writer(ALGORITHM, ContentType.OCI_LAYER)
    for item in split(reader(archive, step)):
        if isinstance(item, bytes):
            writer.write_inline(item)
        else:
            content = b"".join(iter(lambda: item.read(4096), b""))  # noqa: B023 - called at once
            assert len(content) == item.size
            writer.write_external(measure(content, ALGORITHM), item.size)
    return writer.finish()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(where: Path, layers: Iterable[bytes]) -> None:
    """An OCI layout with one image, called `t`."""
    (where / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        (where / "blobs/sha256" / digest(data).partition(":")[2]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    oci = "application/vnd.oci.image."
    blobs = [blob(layer, oci + "layer.v1.tar") for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": [item["digest"] for item in blobs]}}
    manifest = {"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "layers": blobs,
                "config": blob(json.dumps(config).encode(), oci + "config.v1+json")}
    entry = blob(json.dumps(manifest).encode(), oci + "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (where / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def cfsctl(repository: Path, *arguments: str, input: bytes = b"") -> bytes:
    return subprocess.run(
        ["cfsctl", "--repo", str(repository), *arguments], input=input, capture_output=True, check=True
    ).stdout
