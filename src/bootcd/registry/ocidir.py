# SPDX-License-Identifier: Apache-2.0
"""`oci:DIRECTORY[:NAME]`: an OCI image layout on disk.

    DIRECTORY/oci-layout            {"imageLayoutVersion": "1.0.0"}
    DIRECTORY/index.json            the images, named by an annotation
    DIRECTORY/blobs/ALGORITHM/HEX   everything else

A delta in place of an image (`formats.ocidelta`) is the image that it leads to, with the signatures that it has; of the
layers there is what makes them out of those of another image.

A path is made of nothing but a digest that was checked, so it stays inside. What is opened must be a regular file,
possibly through a symbolic link, since shared blob directories are made that way.

Source: OCI image specification 1.1 (image-layout.md).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BlobMismatch, BlobNotFound, ImageNotFound, OciError, SourceUnreachable
from ..formats.oci import (
    DELTA,
    MAX_DOCUMENT,
    Descriptor,
    Index,
    Manifest,
    parse_layout,
    signature_tag,
)
from ..formats.ocidelta import Delta
from ..model import ImageReference, Platform, is_digest
from .referrers import chosen
from .resolve import located, resolve, verify
from .sources import FetchedManifest, SourceOptions

_PIECE = 256 << 10
_MAX_LAYOUT = 4 << 10


@dataclass(slots=True)
class Region:
    """A file, or a part of one: `size` bytes from `start` of the open `fd`, which belongs to whoever holds this."""

    fd: int
    start: int
    size: int

    def exactly(self, size: int, what: str) -> Region:
        """The same, or closed when it has another size. Raises BlobMismatch."""
        if self.size != size:
            os.close(self.fd)
            raise BlobMismatch(f"{what}: has {self.size} bytes, not {size}")
        return self

    def at_most(self, limit: int, what: str) -> Region:
        """The same, or closed when it is larger. Raises OciError."""
        if self.size > limit:
            os.close(self.fd)
            raise OciError(f"{what} has {self.size} bytes, more than {limit}")
        return self


class FileStream:
    """Pieces of a region. It is never slow enough to need an interruption."""

    def __init__(self, what: str, region: Region, offset: int) -> None:
        self._what = what
        self._fd: int | None = region.fd
        self._position = region.start + offset
        self._end = region.start + region.size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._fd is None or self._position >= self._end:
            self.close()
            raise StopIteration
        try:
            data = os.pread(self._fd, min(_PIECE, self._end - self._position), self._position)
        except OSError as error:
            self.close()
            raise SourceUnreachable(f"{self._what}: {error.strerror}") from None
        if not data:  # cut short while we read it
            self.close()
            raise StopIteration
        self._position += len(data)
        return data

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class LayoutSource:
    """One image of a layout, wherever the layout's files are."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        self.reference = reference
        self.options = options

    def _open(self, name: str) -> Region | None:
        """Open a file of the layout by its path inside; None when there is none."""
        raise NotImplementedError

    def close(self) -> None:
        pass

    def manifest(self, platform: Platform) -> FetchedManifest:
        what = str(self.reference)
        try:
            top = self._selected(self._index())
            data = self._document(top)
            delta = _delta(data)
            if delta is not None:
                top = delta.manifest
                data = self._document(top)
        except (OciError, ImageNotFound) as error:
            raise located(error, what) from None
        found = resolve(what, data, top.media_type, top.digest, platform, self._document)
        return replace(found, delta=delta)

    def companion(self, tag: str) -> Manifest:
        try:
            index = self._index()
            try:
                return Manifest.parse(self._document(index.named(tag)))
            except ImageNotFound:
                carried = self._signatures(index, tag)
                if carried is None:
                    raise
                return carried
        except (OciError, ImageNotFound) as error:
            raise located(error, f"{self.reference}: {tag}") from None

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        index = self._index()
        # Nothing that tells no type: that may be every image of a large layout.
        listed = (item for item in chosen(index, artifact_type) if item.artifact_type is not None)
        carried = (item for item, manifest in self._embedded(self._delta(index))
                   if (manifest.artifact_type or manifest.config.media_type) == artifact_type)
        return (*listed, *carried)

    def artifact(self, descriptor: Descriptor) -> Manifest:
        what = f"{self.reference}: artifact {descriptor.digest}"
        try:
            return Manifest.parse(self._document(descriptor))
        except OciError as error:
            raise located(error, what) from None

    def blob(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        what = f"{self.reference}: blob {descriptor.digest}"
        region = self._blob_region(what, descriptor)
        return FileStream(what, region, offset)

    def _index(self) -> Index:
        parse_layout(self._small("oci-layout", _MAX_LAYOUT))
        return Index.parse(self._small("index.json", MAX_DOCUMENT))

    def _selected(self, index: Index) -> Descriptor:
        digest = self.reference.digest
        if digest is None:
            return index.named(self.reference.tag)
        for item in index.manifests:
            if item.digest == digest:
                return item
        for item in index.manifests[:1]:
            delta = _delta(self._document(item))
            if delta is not None and delta.target == digest:
                return item
        raise ImageNotFound(f"the layout has no image {digest}")

    def _delta(self, index: Index) -> Delta | None:
        """What is there in place of an image, if it is a delta."""
        try:
            return _delta(self._document(self._selected(index)))
        except (OciError, ImageNotFound):
            return None

    def _embedded(self, delta: Delta | None) -> Iterator[tuple[Descriptor, Manifest]]:
        """The signatures that a delta has, each a manifest. One that is broken shall not hide the others."""
        for item in delta.signatures if delta is not None else ():
            try:
                yield item, Manifest.parse(self._document(item))
            except (OciError, BlobMismatch, BlobNotFound):
                continue

    def _signatures(self, index: Index, tag: str) -> Manifest | None:
        """What would be under a tag for signatures if those that a delta has were there, all together."""
        delta = self._delta(index)
        if delta is None or tag != signature_tag(delta.target):
            return None
        found = [manifest for _, manifest in self._embedded(delta)]
        layers = (layer for manifest in found for layer in manifest.layers)
        return replace(found[0], layers=tuple(layers)) if found else None

    def _document(self, descriptor: Descriptor) -> bytes:
        what = f"{self.reference}: manifest {descriptor.digest}"
        if descriptor.size > MAX_DOCUMENT:
            raise OciError(f"{what}: {descriptor.size} bytes are more than {MAX_DOCUMENT}")
        stream = FileStream(what, self._blob_region(what, descriptor), 0)
        data = b"".join(stream)
        verify(data, descriptor.digest, what)
        return data

    def _blob_region(self, what: str, descriptor: Descriptor) -> Region:
        if not is_digest(descriptor.digest):
            raise OciError(f"{what}: malformed digest")
        region = self._open("blobs/" + descriptor.digest.replace(":", "/"))
        if region is None:
            raise BlobNotFound(f"{what}: not in the layout")
        return region.exactly(descriptor.size, what)

    def _small(self, name: str, limit: int) -> bytes:
        region = self._open(name)
        if region is None:
            raise OciError(f"no image layout: there is no {name}")
        return b"".join(FileStream(f"{self.reference}: {name}", region.at_most(limit, name), 0))


def _delta(data: bytes) -> Delta | None:
    """The delta that a manifest is of, if any. Raises OciError when that is malformed."""
    try:
        manifest = Manifest.parse(data)
    except OciError:
        return None  # an index, or what gets its error elsewhere
    return Delta.of(manifest) if manifest.artifact_type == DELTA else None


class OciDirectory(LayoutSource):
    """One image of a layout in a directory."""

    def manifest(self, platform: Platform) -> FetchedManifest:
        directory = self.reference.name
        if not os.path.isdir(directory):
            raise SourceUnreachable(f"{self.reference}: there is no directory {directory}", advice="Check the path.")
        return super().manifest(platform)

    def _open(self, name: str) -> Region | None:
        return open_regular(self.reference, Path(self.reference.name) / name)


def open_regular(reference: ImageReference, path: Path) -> Region | None:
    """Open a regular file, None when there is none. Raises SourceUnreachable for anything else."""
    try:
        # Without O_NONBLOCK a FIFO would keep us here until somebody writes to it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "malformed path"
        raise SourceUnreachable(f"{reference}: {path}: {reason}", advice="Check the path.") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise SourceUnreachable(f"{reference}: {path}: not a regular file", advice="Check the path.")
    return Region(fd, 0, status.st_size)
