# SPDX-License-Identifier: Apache-2.0
"""An OCI image of one layer, made of a root directory or of its tar, in an image layout.

Blobs come first and get their names when they are complete; `index.json`, which makes them an image, comes last. What
an error leaves are at most whole blobs that nothing refers to. A layout that exists keeps its other images.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from ..boot.discover import os_release
from ..config import Config
from ..errors import BootcdError, UsageError
from ..formats import oci, tarwriter
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, Hasher, measure
from ..formats.sealing import Role
from ..formats.transform import XattrMode, transform_for_boot, transform_for_oci
from ..formats.tree import Directory, Inode, RegularFile
from ..linux import files
from ..model import ImageReference, Platform
from .adddigests import annotate, put_artifact
from .imagelayout import Descriptor, document, put_blob, read_index, with_image, write_index
from .last import now
from .rootfs import Rootfs
from .trees import Pile
from .uncompressed import Uncompressed

COMPRESSIONS = ("zstd", "gzip", "none")
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_VERSION = "org.opencontainers.image.version"
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image that was made; `digest` is what a machine will compute for it, `layer_size` in bytes as stored,
    `artifact_digest` that of the artifact with its digests, if they are in one."""

    image: str
    manifest_digest: str
    layer_digest: str
    layer_size: int
    digest: str
    artifact_digest: str = ""


def from_rootfs(
    source: str, target: str, *, labels: Mapping[str, str], compression: str = "zstd", created: str = "",
    architecture: str = "", way: str = "",
) -> MadeImage:
    """Make an image, whose labels are those given, containers.bootc, and the version that os-release has. `way` is one
    of `adddigests.WAYS`, to state its digests.

    Raises UsageError for a target that is no oci: directory, NotBootable for what no machine could boot or compose,
    TarError for what no layer can hold, and BootcdError for what cannot be read, changes meanwhile or cannot be
    written.
    """
    reference = ImageReference.parse(target)
    if reference.transport != "oci" or reference.digest is not None:
        raise UsageError(f"{target} is no place for an image", advice="Write oci:DIR[:TAG].")
    layout = Path(reference.name)
    descriptors = read_index(layout)
    blobs = layout / "blobs/sha256"
    with _made(blobs), _Layer.written(blobs, compression) as layer:
        if os.path.isdir(source):
            rootfs = Rootfs(Path(source))
            _write_tree(rootfs, layer)
            tree, read = rootfs.tree, rootfs.read
        else:
            with (files.translate(f"cannot read {source}", named=True),
                  open(files.open_regular(source, follow=True), "rb") as tar):
                pile = Pile(Algorithm.SHA512)
                raw = Uncompressed(tar, source, Config().pull_max_layer_size)
                pile.add(lambda size: layer.write(raw.read(size)))
            tree, read = pile.root, pile.read
        version = os_release(tree, read).version
        transform_for_oci(tree, XattrMode.ALLOWLIST_ONLY)
        merged = _digest(tree) if way else b""
        transform_for_boot(tree, read)
        digest = _digest(tree)
    said = {"containers.bootc": "1", **({_VERSION: version} if version else {}), **labels}
    when = created or now()
    config = document({
        "architecture": architecture or Platform.current().architecture, "os": "linux", "created": when,
        "config": {"Labels": said}, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": when, "created_by": "bootcctl container from-rootfs"}]})
    suffix = "" if compression == "none" else f"+{compression}"
    top: Descriptor = {
        "schemaVersion": 2, "mediaType": oci.MANIFEST, "annotations": said,
        "config": {"mediaType": oci.CONFIG, "digest": put_blob(layout, config), "size": len(config)},
        "layers": [{"mediaType": _LAYER + suffix, "digest": layer.digest, "size": layer.size}]}
    digests = {Role.MERGED: merged, Role.BOOTABLE: digest}
    if way == "annotations":
        annotate(top, config, digests, Algorithm.SHA512)
    manifest = document(top)
    image = {"mediaType": oci.MANIFEST, "digest": put_blob(layout, manifest), "size": len(manifest)}
    images, added = with_image(descriptors, image, reference.tag), ""
    if way == "artifact":
        artifact = put_artifact(layout, image, manifest, config, digests, Algorithm.SHA512)
        added = artifact["digest"]
        images = [*(one for one in images if one["digest"] != added), artifact]
    write_index(layout, images)
    return MadeImage(str(reference), str(image["digest"]), layer.digest, layer.size, digest.hex(), added)


def _digest(tree: Directory) -> bytes:
    return measure(write_image(tree, Version.V1, Algorithm.SHA512), Algorithm.SHA512)


@contextmanager
def _made(blobs: Path) -> Iterator[None]:
    """A directory for blobs, which is there while the block runs; when that ends badly, only if there is anything."""
    new = [path for path in (blobs, *blobs.parents) if not path.exists()]
    with files.translate(f"cannot make {blobs}"):
        blobs.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what another has put there meanwhile
            for path in new:
                path.rmdir()
        raise


def _write_tree(rootfs: Rootfs, layer: _Layer) -> None:
    """Write every inode, parents first, and give the files of the tree their digests."""
    known: dict[int, bytes] = {}
    for path, inode in _members(rootfs.tree):
        first = known.get(id(inode))
        if not isinstance(inode, Directory) and first is not None:
            layer.write(tarwriter.header(path, inode, first))
            continue
        known[id(inode)] = path
        layer.write(tarwriter.header(path, inode))
        if isinstance(inode, RegularFile):
            _write_content(rootfs, inode, layer)
    layer.write(tarwriter.END)


def _members(root: Directory) -> Iterator[tuple[bytes, Inode]]:
    for path, inode in root.walk():
        if not path.startswith(b"/run/"):  # which no digest counts
            yield path[1:] or b".", inode


def _write_content(rootfs: Rootfs, file: RegularFile, layer: _Layer) -> None:
    if file.inline is not None:
        layer.write(tarwriter.padded(file.inline))
        return
    hasher, left = Hasher(Algorithm.SHA512), file.size
    descriptor = rootfs.open(file)
    with open(descriptor, "rb", buffering=0) as stream:
        while left and (piece := stream.read(min(left, _STEP))):
            hasher.update(piece)
            layer.write(piece)
            left -= len(piece)
        now_there = os.fstat(descriptor)
    if left or (now_there.st_size, now_there.st_mtime_ns) != (file.size, file.mtime * 10**9 + file.mtime_nsec):
        raise BootcdError(f"{rootfs.where(file)} changed while it was read",
                          advice="Stop what writes there, then try again.")
    layer.write(bytes(-file.size % tarwriter.BLOCK))
    file.digest = hasher.digest()


class _Layer:
    """A blob that is being written: compressed, counted and hashed on both sides."""

    def __init__(self, stream: BinaryIO, compression: str) -> None:
        self._stream = stream
        self._packer: Any = {
            "zstd": lambda: zstandard.ZstdCompressor().compressobj(), "gzip": lambda: zlib.compressobj(6, wbits=31),
            "none": _Plain}[compression]()
        self._raw, self._packed = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    @classmethod
    @contextmanager
    def written(cls, blobs: Path, compression: str) -> Iterator[_Layer]:
        """A layer that gets its name when the block ends well, and is gone otherwise."""
        hidden = blobs / f".layer.{secrets.token_hex(6)}"
        try:
            with files.translate(f"cannot write {hidden}"), open(hidden, "xb") as stream:
                layer = cls(stream, compression)
                yield layer
                layer._finish()
            hidden.rename(blobs / layer.digest.partition(":")[2])
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def write(self, data: bytes) -> bytes:
        """Take more of the tar, which is returned."""
        self._raw.update(data)
        self._store(self._packer.compress(data))
        return data

    def _finish(self) -> None:
        self._store(self._packer.flush())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _store(self, data: bytes) -> None:
        self._packed.update(data)
        self.size += len(data)
        self._stream.write(data)

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._raw.hexdigest()}"

    @property
    def digest(self) -> str:
        return f"sha256:{self._packed.hexdigest()}"


class _Plain:
    """No compression."""

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE`, several times. Raises UsageError."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{text!r} is no label", advice="Write KEY=VALUE.")
        labels[key] = value
    return labels
