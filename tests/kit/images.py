# SPDX-License-Identifier: Apache-2.0
"""Builds small OCI images from a list of what they shall hold.

    base = Layer([Dir("usr/bin"), File("usr/bin/true", b"...", mode=0o755), Symlink("bin", "usr/bin")])
    app = Layer([Whiteout("usr/bin/true"), Opaque("etc/app")], compression="zstd")
    image = ImageBuilder([base, app], labels={"org.opencontainers.image.version": "1.0"})
    image.write_layout(directory, "v1")

Everything is deterministic: no clock, no umask, no user of this machine. Layers are computed once and may be shared by
any number of images. The tar writer is its own (POSIX.1-2001 pax interchange format, xattrs as `SCHILY.xattr.*` records
with raw bytes), because Python's tarfile cannot write such records without `hdrcharset`, and because tests need tars
that a well-behaved library refuses to write (`Raw`).

Formats: OCI image-spec 1.1 (image layout, manifest, config, layer), application/vnd.docker.* with `docker=True`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import zstandard

from bootcd.model import Platform

MTIME = 1_700_000_000
"""Modification time of every entry that says nothing else."""

CREATED = "2023-11-14T22:13:20Z"
"""The same moment, for image configs."""

Compression = Literal["gzip", "zstd"] | None

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def sha256(data: bytes) -> str:
    """The OCI digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


# --- entries of a layer -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Fields that every kind of entry has. Paths and targets are str (UTF-8, surrogateescape) or bytes."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    def tar(self) -> bytes:
        """Header blocks and content blocks."""
        raise NotImplementedError

    def _header(self, path: str | bytes, kind: bytes, *, size: int = 0, target: str | bytes = b"",
                device: tuple[int, int] = (0, 0)) -> bytes:
        return tar_header(_bytes(path), kind, mode=self.mode, uid=self.uid, gid=self.gid, mtime=self.mtime, size=size,
                          target=_bytes(target), device=device, xattrs=self.xattrs)


@dataclass(frozen=True)
class File(Entry):
    path: str | bytes
    content: bytes = b""

    def tar(self) -> bytes:
        return self._header(self.path, b"0", size=len(self.content)) + padded(self.content)


@dataclass(frozen=True)
class Dir(Entry):
    path: str | bytes
    mode: int = field(default=0o755, kw_only=True)

    def tar(self) -> bytes:
        return self._header(_bytes(self.path).rstrip(b"/") + b"/", b"5")


@dataclass(frozen=True)
class Symlink(Entry):
    path: str | bytes
    target: str | bytes
    mode: int = field(default=0o777, kw_only=True)

    def tar(self) -> bytes:
        return self._header(self.path, b"2", target=self.target)


@dataclass(frozen=True)
class Hardlink(Entry):
    """Another name of `target`, a path from the root of the image without leading slash."""

    path: str | bytes
    target: str | bytes

    def tar(self) -> bytes:
        return self._header(self.path, b"1", target=self.target)


@dataclass(frozen=True)
class CharDevice(Entry):
    path: str | bytes
    major: int
    minor: int

    def tar(self) -> bytes:
        return self._header(self.path, b"3", device=(self.major, self.minor))


@dataclass(frozen=True)
class BlockDevice(Entry):
    path: str | bytes
    major: int
    minor: int

    def tar(self) -> bytes:
        return self._header(self.path, b"4", device=(self.major, self.minor))


@dataclass(frozen=True)
class Fifo(Entry):
    path: str | bytes

    def tar(self) -> bytes:
        return self._header(self.path, b"6")


@dataclass(frozen=True)
class Whiteout(Entry):
    """Removes `path` of the layers below."""

    path: str | bytes

    def tar(self) -> bytes:
        parent, slash, name = _bytes(self.path).rpartition(b"/")
        return self._header(parent + slash + b".wh." + name, b"0")


@dataclass(frozen=True)
class Opaque(Entry):
    """Removes everything that the layers below have in the directory `path`."""

    path: str | bytes

    def tar(self) -> bytes:
        return self._header(_bytes(self.path).rstrip(b"/") + b"/.wh..wh..opq", b"0")


@dataclass(frozen=True)
class Raw(Entry):
    """Bytes that go into the tar as they are: what no honest program writes."""

    data: bytes

    def tar(self) -> bytes:
        return self.data


# --- tar --------------------------------------------------------------------------------------------------------------


def tar_header(path: bytes, kind: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = MTIME,
               size: int = 0, target: bytes = b"", device: tuple[int, int] = (0, 0),
               xattrs: Mapping[str, bytes] | None = None) -> bytes:
    """One ustar header, with a pax extended header before it where ustar cannot say it."""
    pax: dict[bytes, bytes] = {}
    name, prefix = _split_path(path)
    if name is None:
        pax[b"path"] = path
        name, prefix = path[:100], b""
    if len(target) > 100 or not target.isascii():
        pax[b"linkpath"] = target
    numbers = {}
    for key, value, limit in ((b"uid", uid, 8**7), (b"gid", gid, 8**7), (b"size", size, 8**11)):
        numbers[key] = value if 0 <= value < limit else 0
        if numbers[key] != value:
            pax[key] = b"%d" % value
    if not (mtime == int(mtime) and 0 <= mtime < 8**11):
        pax[b"mtime"] = repr(mtime).encode()
    for attribute, content in sorted((xattrs or {}).items()):
        pax[b"SCHILY.xattr." + attribute.encode()] = content
    header = _ustar(name, prefix, kind, mode, numbers[b"uid"], numbers[b"gid"], numbers[b"size"],
                    int(mtime) if 0 <= mtime < 8**11 else 0, target[:100], device)
    return pax_header(pax) + header if pax else header


def pax_header(records: Mapping[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax extended (`x`) or global (`g`) header with these records."""
    body = b"".join(_pax_record(key, value) for key, value in records.items())
    return _ustar(b"PaxHeaders.0/x", b"", kind, 0o644, 0, 0, len(body), 0, b"", (0, 0)) + padded(body)


def padded(content: bytes) -> bytes:
    """`content` filled up to whole tar blocks."""
    return content + bytes(-len(content) % 512)


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def _split_path(path: bytes) -> tuple[bytes | None, bytes]:
    if not path.isascii():
        return None, b""
    if len(path) <= 100:
        return path, b""
    cut = path.rfind(b"/", 0, 156)
    if cut <= 0 or not 0 < len(path) - cut - 1 <= 100:
        return None, b""
    return path[cut + 1 :], path[:cut]


def _ustar(name: bytes, prefix: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int,
           target: bytes, device: tuple[int, int]) -> bytes:
    header = b"".join((
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid, b"%011o\0" % size,
        b"%011o\0" % mtime, b" " * 8, kind, target.ljust(100, b"\0"), b"ustar\00000", bytes(64),
        b"%07o\0" % device[0], b"%07o\0" % device[1], prefix.ljust(155, b"\0"), bytes(12),
    ))
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _bytes(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


# --- layers and images ------------------------------------------------------------------------------------------------


class Layer:
    """One layer: a tar, its diff ID and the blob it is shipped as."""

    def __init__(self, entries: Iterable[Entry] = (), compression: Compression = "gzip", *,
                 tar: bytes | None = None) -> None:
        self.entries = list(entries)
        self.compression = compression
        self._given = tar

    @cached_property
    def tar(self) -> bytes:
        """The uncompressed layer."""
        if self._given is not None:
            return self._given
        return b"".join(entry.tar() for entry in self.entries) + bytes(1024)

    @cached_property
    def diff_id(self) -> str:
        return sha256(self.tar)

    @cached_property
    def blob(self) -> bytes:
        """The layer as it is shipped."""
        if self.compression == "gzip":
            return gzip.compress(self.tar, 6, mtime=0)
        if self.compression == "zstd":
            return zstandard.ZstdCompressor(level=3).compress(self.tar)
        return self.tar

    @cached_property
    def digest(self) -> str:
        return sha256(self.blob)

    def descriptor(self, *, docker: bool = False) -> dict[str, Any]:
        """What a manifest says about this layer."""
        if docker:
            media_type = DOCKER_LAYER + {"gzip": ".gzip", "zstd": ".zstd", None: ""}[self.compression]
        else:
            media_type = OCI_LAYER + {"gzip": "+gzip", "zstd": "+zstd", None: ""}[self.compression]
        return {"mediaType": media_type, "digest": self.digest, "size": len(self.blob)}


class ImageBuilder:
    """An image of these layers. Its JSON documents are the attributes `config` and `manifest` (dicts), which a test may
    change before it asks for the bytes."""

    def __init__(self, layers: Sequence[Layer], labels: Mapping[str, str] | None = None, *,
                 platform: Platform | None = None, annotations: Mapping[str, str] | None = None,
                 created: str = CREATED, docker: bool = False) -> None:
        self.layers = list(layers)
        self.platform = platform or Platform.current()
        self.docker = docker
        self.config: dict[str, Any] = {
            "created": created,
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": {"Labels": dict(labels or {})},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [{"created": created, "created_by": "test kit"} for _ in self.layers],
        }
        if self.platform.variant:
            self.config["variant"] = self.platform.variant
        self.annotations = dict(annotations or {})

    @property
    def config_bytes(self) -> bytes:
        return to_json(self.config)

    @property
    def config_digest(self) -> str:
        return sha256(self.config_bytes)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": {"mediaType": DOCKER_CONFIG if self.docker else OCI_CONFIG, "digest": self.config_digest,
                       "size": len(self.config_bytes)},
            "layers": [layer.descriptor(docker=self.docker) for layer in self.layers],
        }
        if self.annotations:
            manifest["annotations"] = self.annotations
        return manifest

    @property
    def media_type(self) -> str:
        return DOCKER_MANIFEST if self.docker else OCI_MANIFEST

    @property
    def manifest_bytes(self) -> bytes:
        return to_json(self.manifest)

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    def descriptor(self) -> dict[str, Any]:
        """What an index says about this image."""
        platform = {"architecture": self.platform.architecture, "os": self.platform.os}
        if self.platform.variant:
            platform["variant"] = self.platform.variant
        return {"mediaType": self.media_type, "digest": self.manifest_digest, "size": len(self.manifest_bytes),
                "platform": platform}

    def blobs(self) -> dict[str, bytes]:
        """Config and layers by digest, without the manifest."""
        return {self.config_digest: self.config_bytes} | {layer.digest: layer.blob for layer in self.layers}

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        """Digest → media type and bytes of every manifest, the one to tag last."""
        return {self.manifest_digest: (self.media_type, self.manifest_bytes)}

    def write_layout(self, directory: Path, tag: str | None = None) -> Path:
        """Add the image to an OCI image layout, which is created if missing. Returns `directory`."""
        return _write_layout(self, directory, tag)

    def write_archive(self, file: Path, tag: str | None = None) -> Path:
        """Write an `oci-archive:` file with this image alone. Returns `file`."""
        return _write_archive(self, file, tag)


class IndexBuilder:
    """An image index over images of several platforms."""

    def __init__(self, images: Sequence[ImageBuilder], *, docker: bool = False) -> None:
        self.images = list(images)
        self.media_type = DOCKER_INDEX if docker else OCI_INDEX
        self.index: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type,
                                      "manifests": [image.descriptor() for image in self.images]}

    @property
    def manifest_bytes(self) -> bytes:
        return to_json(self.index)

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.manifest_digest, "size": len(self.manifest_bytes)}

    def blobs(self) -> dict[str, bytes]:
        return {digest: blob for image in self.images for digest, blob in image.blobs().items()}

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        found = {digest: item for image in self.images for digest, item in image.manifests().items()}
        found[self.manifest_digest] = (self.media_type, self.manifest_bytes)
        return found

    def write_layout(self, directory: Path, tag: str | None = None) -> Path:
        return _write_layout(self, directory, tag)

    def write_archive(self, file: Path, tag: str | None = None) -> Path:
        return _write_archive(self, file, tag)


Image = ImageBuilder | IndexBuilder


def to_json(document: object) -> bytes:
    """Compact JSON, keys in the order given."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _layout_files(image: Image) -> dict[str, bytes]:
    documents = {digest: data for digest, (_, data) in image.manifests().items()}
    return {"blobs/" + digest.replace(":", "/"): data for digest, data in (image.blobs() | documents).items()}


def _index_with(old: list[dict[str, Any]], image: Image, tag: str | None) -> bytes:
    """The layout's index.json with `image` under `tag`, which is taken from whatever had it before."""
    descriptor = image.descriptor()
    if tag is not None:
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    kept = [other for other in old
            if (other.get("annotations") or {}).get("org.opencontainers.image.ref.name") != tag]
    return to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, descriptor]})


def _write_layout(image: Image, directory: Path, tag: str | None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in _layout_files(image).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    index = directory / "index.json"
    old = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    index.write_bytes(_index_with(old, image, tag))
    (directory / "oci-layout").write_bytes(to_json({"imageLayoutVersion": "1.0.0"}))
    return directory


def _write_archive(image: Image, file: Path, tag: str | None) -> Path:
    files = {"oci-layout": to_json({"imageLayoutVersion": "1.0.0"}), "index.json": _index_with([], image, tag)}
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (files | _layout_files(image)).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file
