# SPDX-License-Identifier: Apache-2.0
"""`docker-archive:FILE[:NAME|:@N]`: what `docker save`, `podman save` and `skopeo copy` write, read in place.

    FILE/manifest.json    [{"Config": PATH, "RepoTags": [NAME:TAG, …], "Layers": [PATH, …]}, …]
    FILE/PATH             the config as it is at a registry; layers, lowest first, as a rule not compressed

Several images share layers by links inside the archive, so links are followed, but only to other members. The archive
has no digests of the layers: the diff IDs in the config are those of layers that are not compressed, and those that are
compressed are hashed. Nor has it a manifest; the one that is made (made.py) is not the registry's, and neither is its
digest.

Source: Docker's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace

from ..errors import BlobNotFound, BootcdError, ImageNotFound, OciError, SignatureError
from ..formats.documents import JsonObject, parse_object, shown
from ..formats.imagename import ImageName
from ..formats.oci import MAX_DOCUMENT, Config, Descriptor, Manifest
from ..model import ImageReference, Platform
from .made import LAYER_TYPES, check_pin, compression_of, make_manifest
from .ociarchive import Archive
from .ocidir import FileStream, Region
from .resolve import digest_of, located
from .sources import FetchedManifest, SourceOptions

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Image:
    """One entry of manifest.json."""

    config: str
    names: tuple[str, ...]
    layers: tuple[str, ...]


class DockerArchive:
    """One image of an archive. The file stays open until `close`."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        self.reference = reference
        self.options = options
        self._archive = Archive(reference)
        self._blobs: dict[str, str] = {}

    def manifest(self, platform: Platform) -> FetchedManifest:
        try:
            image = _select(self._images(), self.reference.tag)
            config = self._small(image.config)
            diff_ids = Config.parse(config).diff_ids
            if len(diff_ids) != len(image.layers):
                raise OciError(f"manifest.json: {len(image.layers)} layers, but the config has {len(diff_ids)}")
            files = {name: self._layer(name) for name in dict.fromkeys(image.layers)}
            layers = [replace(files[name], digest=files[name].digest or diff_id)
                      for name, diff_id in zip(image.layers, diff_ids, strict=True)]
            made = make_manifest(config, layers)
            blobs = {digest_of(config): image.config}
            for name, layer in zip(image.layers, layers, strict=True):
                blobs.setdefault(layer.digest, name)
        except BootcdError as error:
            raise located(error, str(self.reference)) from None
        self._blobs = blobs
        return check_pin(self.reference, made)

    def companion(self, tag: str) -> Manifest:
        raise ImageNotFound(f"{self.reference}: archives of this kind hold no {tag}", advice="")

    def blob(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        what = f"{self.reference}: blob {descriptor.digest}"
        name = self._blobs.get(descriptor.digest)
        if name is None:
            raise BlobNotFound(f"{what}: not in the archive")
        return FileStream(what, self._region(name).exactly(descriptor.size, what), offset)

    def close(self) -> None:
        self._archive.close()

    def _images(self) -> list[_Image]:
        region = self._archive.open("manifest.json", follow=True)
        if region is None:
            raise OciError("there is no manifest.json, so this is nothing that 'docker save' wrote",
                           advice="A tar of a root file system is tar:FILE, an OCI layout in one oci-archive:FILE.")
        # The document is a list, and ours are objects.
        data = b'{"images":' + self._read(region, "manifest.json") + b"}"
        return [_entry(one) for one in parse_object(data, "manifest.json", MAX_DOCUMENT + 16, OciError
                                                    ).objects("images")]

    def _layer(self, name: str) -> Descriptor:
        """What a file is; without a digest when it is not compressed, since its diff ID is that."""
        region = self._region(name)
        kind = compression_of(os.pread(region.fd, min(region.size, 4), region.start))
        size, stream = region.size, FileStream(f"{self.reference}: {shown(name)}", region, 0)
        try:
            if kind == "none":
                return Descriptor(LAYER_TYPES[kind], "", size)
            sha256 = hashlib.sha256()
            for piece in stream:
                sha256.update(piece)
            return Descriptor(LAYER_TYPES[kind], f"sha256:{sha256.hexdigest()}", size)
        finally:
            stream.close()

    def _small(self, name: str) -> bytes:
        return self._read(self._region(name), shown(name))

    def _read(self, region: Region, what: str) -> bytes:
        return b"".join(FileStream(f"{self.reference}: {what}", region.at_most(MAX_DOCUMENT, what), 0))

    def _region(self, name: str) -> Region:
        region = self._archive.open(name, follow=True)
        if region is None:
            raise BlobNotFound(f"{self.reference}: manifest.json names {shown(name)}, which is not in the archive")
        return region


def _entry(one: JsonObject) -> _Image:
    return _Image(one.string("Config"), one.string_list("RepoTags"), one.string_list("Layers", required=True))


def _select(images: list[_Image], tag: str | None) -> _Image:
    """The image that is asked for: by place, by a name of it, by the tag alone, or as the only one. Raises
    ImageNotFound."""
    if tag is None:
        found = images
    elif tag.startswith("@"):
        number = tag[1:]
        found = images[int(number):][:1] if number.isdecimal() and len(number) < 9 else []
    else:
        wanted = _normal(tag)
        found = [one for one in images if any(_normal(name) == wanted for name in one.names)] or [
            one for one in images if any(name.endswith(f":{tag}") for name in one.names)]
    if len(found) == 1:
        return found[0]
    names = ", ".join([shown(name) for one in images for name in one.names][:_SHOWN]) or "none with a name"
    if not images:
        raise ImageNotFound("the archive is empty", advice="")
    if tag is None:
        raise ImageNotFound(f"the archive holds {len(images)} images: {names}",
                            advice="Name one, as in docker-archive:FILE:NAME, or count, as in docker-archive:FILE:@0.")
    what = "several images" if found else "no image"
    raise ImageNotFound(f"the archive has {what} named '{tag:.100}', only: {names}", advice="")


def _normal(name: str) -> ImageName | str:
    """A name as Docker understands it, or as it is when it is none."""
    try:
        read = ImageName.parse(name)
    except SignatureError:
        return name
    return read if read.tag or read.digest else replace(read, tag="latest")
