# SPDX-License-Identifier: Apache-2.0
"""`containers-storage:[STORE]NAME`: an image of podman, buildah and CRI-O, read in place.

    ROOT/DRIVER-images/images.json              [{"id", "names", "layer", "metadata", "big-data-names"}, …]
    ROOT/DRIVER-images/ID/KEY                   manifests and config, byte for byte as they were pulled
    ROOT/DRIVER-layers/layers.json              [{"id", "parent"}, …]
    ROOT/DRIVER-layers/ID.tar-split.gz          how the layer was packed (formats/tarsplit.py)
    ROOT/overlay/ID/diff, vfs/dir/ID, btrfs/subvolumes/ID    its files

STORE is `[DRIVER@ROOT+RUN:OPTIONS]`, of which driver and root count; without it storage.conf(5) says
where the store is.

The manifest is the one that the image had where it came from, and so is its digest. It names compressed layers, which
are not there any more: what is handed out in their place are the diff IDs that its config names, and the layers, made
again of the files and tar-split. So the chain from the digest of the manifest to every byte is as long as ever.

The store is read without its locks: an image that is removed meanwhile is an error, and never another image.

Source: github.com/containers/storage (images.go, layers.go, drivers), c/image's storage transport, observed stores.
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import (
    BlobNotFound,
    BootcdError,
    ConfigError,
    ImageNotFound,
    OciError,
    SignatureError,
    SourceUnreachable,
    Unsupported,
    UsageError,
)
from ..formats import tarsplit
from ..formats.documents import JsonObject, parse_object, shown
from ..formats.imagename import ImageName
from ..formats.oci import MAX_DOCUMENT, Config, Descriptor, Manifest
from ..linux.inside import open_inside
from ..model import ImageReference, Platform
from .decompress import decompress
from .made import LAYER_TYPES
from .ocidir import FileStream, open_regular
from .resolve import digest_of, located, resolve, verify
from .sources import BlobStream, FetchedManifest, SourceOptions

CONFIGS = (Path("/etc/containers/storage.conf"), Path("/usr/share/containers/storage.conf"))
"""The first that exists counts."""
DEFAULT_ROOT = "/var/lib/containers/storage"

_FILES = {"overlay": ("overlay", "diff"), "vfs": ("vfs/dir", ""), "btrfs": ("btrfs/subvolumes", "")}
"""Where a driver keeps the files of a layer: what stands before and behind its id."""
_ID = re.compile(r"[0-9a-f]{64}")
_SIMPLE = re.compile(r"[.0-9a-z]+")
_MAX_LIST = 32 << 20
_MAX_CONFIG = 1 << 20
_PIECE = 256 << 10
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Store:
    """A driver with the directory where it keeps things."""

    driver: str
    root: str


@dataclass(frozen=True, slots=True)
class _Image:
    store: Store
    id: str
    names: tuple[ImageName, ...]
    layer: str
    keys: frozenset[str]
    metadata: str


def resolved(reference: ImageReference) -> ImageReference:
    """The same image with the store that is meant and the whole name, as policies write it. Raises what finding the
    store raises."""
    spec, name = _cut(reference.name)
    store = _stores(spec)[0]
    return replace(reference, name=f"[{store.driver}@{store.root}]{_repository(name) if name[0] != '@' else name}")


class StorageImage:
    """One image of a store."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        self.reference = reference
        self.options = options
        self._image: _Image | None = None
        self._config: tuple[str, str] = ("", "")
        self._layers: dict[str, str] = {}

    def manifest(self, platform: Platform) -> FetchedManifest:
        what = str(self.reference)
        try:
            image = self._image = self._found()
            pin = self.reference.digest
            data = self._big_data(image, f"manifest-{pin}" if pin and f"manifest-{pin}" in image.keys else "manifest")
            if pin is not None:
                verify(data, pin, "its manifest")
            fetched = resolve(what, data, None, pin or digest_of(data), platform, self._manifest_of)
            manifest = fetched.manifest
            config = self._big_data(image, manifest.config.digest)
            verify(config, manifest.config.digest, "its config")
            layers = manifest.check_image(Config.parse(config))
            chain = self._chain(image, len(layers))
            self._config = manifest.config.digest, image.id
            self._layers = {diff_id: layer for (_, diff_id), layer in zip(layers, chain, strict=True)}
            sizes = {diff_id: self._size(layer) for diff_id, layer in self._layers.items()}
        except BootcdError as error:
            raise located(error, what) from None
        there = tuple(Descriptor(LAYER_TYPES["none"], diff_id, sizes[diff_id]) for _, diff_id in layers)
        return replace(fetched, manifest=replace(manifest, layers=there))

    def companion(self, tag: str) -> Manifest:
        raise ImageNotFound(f"{self.reference}: a store has no {tag} for an image", advice="")

    def signatures(self, digest: str) -> Iterator[tuple[str, bytes]]:
        """Those that were stored with the image: one behind the other in one file."""
        image = self._image
        key = f"signature-{digest.partition(':')[2]}"
        if image is None or key not in image.keys:
            return
        about = parse_object(image.metadata.encode(), "metadata", MAX_DOCUMENT, OciError)
        sizes = about.optional_object("signatures-sizes").value.get(digest)
        data = self._big_data(image, key)
        for number, size in enumerate(sizes if isinstance(sizes, list) else [], 1):
            if not isinstance(size, int) or not 0 < size <= len(data):
                raise OciError(f"{self.reference}: metadata: the sizes of its signatures do not fit")
            yield f"{key}, signature {number}", data[:size]
            data = data[size:]

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        what = f"{self.reference}: blob {descriptor.digest}"
        if self._image is not None and descriptor.digest == self._config[0]:
            return self._open(self._key_path(self._image, descriptor.digest), what, offset)
        layer = self._layers.get(descriptor.digest)
        if layer is None:
            raise BlobNotFound(f"{what}: not in the store")
        return _LayerStream(what, self._parts(layer), self._files(layer), offset)

    def close(self) -> None:
        pass

    # --- what the lists say ---

    def _found(self) -> _Image:
        """The image that is meant. Raises ImageNotFound."""
        spec, name = _cut(self.reference.name)
        images = [image for store in _stores(spec) for image in self._images(store)]
        for image in images:
            if self._is_meant(image, name):
                return image
        names = ", ".join([shown(str(one)) for image in images for one in image.names][:_SHOWN]) or "none with a name"
        raise ImageNotFound(f"there is no such image, only: {names}", advice="'podman images' lists them; the name is "
                            "to be written out, as in containers-storage:localhost/NAME:TAG.")

    def _is_meant(self, image: _Image, name: str) -> bool:
        if name.startswith("@"):
            return image.id == name[1:]
        repository, digest = _repository(name), self.reference.digest
        if digest is not None:
            return f"manifest-{digest}" in image.keys and any(one.repository == repository for one in image.names)
        return ImageName(repository, self.reference.tag or "latest") in image.names

    def _images(self, store: Store) -> Iterator[_Image]:
        for one in self._list(store, "images"):
            yield _Image(store, _checked(one, "id"), tuple(_names(one)), one.optional_string("layer") or "",
                         frozenset(one.string_list("big-data-names")), one.optional_string("metadata") or "{}")

    def _chain(self, image: _Image, count: int) -> list[str]:
        """The ids of the layers, lowest first. Raises OciError when there are not `count`."""
        parents = {_checked(one, "id"): one.optional_string("parent") or ""
                   for one in self._list(image.store, "layers")}
        found: list[str] = []
        layer = image.layer
        while layer and len(found) <= count:
            if layer not in parents:
                raise BlobNotFound(f"layer {shown(layer)} is not in the store")
            found.append(layer)
            layer = parents[layer]
        if len(found) != count:
            raise OciError(f"the store does not have the {count} layers that its manifest names")
        return found[::-1]

    def _list(self, store: Store, what: str) -> list[JsonObject]:
        data = self._small(f"{store.root}/{store.driver}-{what}/{what}.json", _MAX_LIST)
        return [] if data is None else parse_object(b'{"%b":%b}' % (what.encode(), data), f"{what}.json",
                                                    _MAX_LIST + 16, OciError).objects(what)

    # --- what is in files ---

    def _manifest_of(self, descriptor: Descriptor) -> bytes:
        assert self._image is not None
        data = self._big_data(self._image, f"manifest-{descriptor.digest}")
        verify(data, descriptor.digest, f"{self.reference}: manifest {descriptor.digest}")
        return data

    def _key_path(self, image: _Image, key: str) -> str:
        name = key if _SIMPLE.fullmatch(key) else "=" + base64.b64encode(key.encode()).decode()
        if "/" in name or key in (".", ".."):  # base64 has slashes, and then storage has no such file either
            raise BlobNotFound(f"{shown(key)} is not in the store")
        return f"{image.store.root}/{image.store.driver}-images/{image.id}/{name}"

    def _big_data(self, image: _Image, key: str) -> bytes:
        data = self._small(self._key_path(image, key), MAX_DOCUMENT)
        if data is None:
            raise BlobNotFound(f"{shown(key)} is not in the store")
        return data

    def _small(self, path: str, limit: int) -> bytes | None:
        region = open_regular(self.reference, Path(path))
        if region is None:
            return None
        return b"".join(FileStream(path, region.at_most(limit, path), 0))

    def _open(self, path: str, what: str, offset: int = 0) -> FileStream:
        region = open_regular(self.reference, Path(path))
        if region is None:
            raise BlobNotFound(f"{what}: there is no {path}")
        return FileStream(what, region, offset)

    def _parts(self, layer: str) -> Iterator[bytes | tarsplit.Content]:
        assert self._image is not None
        store = self._image.store
        stream = self._open(f"{store.root}/{store.driver}-layers/{layer}.tar-split.gz",
                            f"{self.reference}: how layer {layer} was packed")
        try:
            yield from tarsplit.parse(decompress(stream, "gzip"))
        finally:
            stream.close()

    def _size(self, layer: str) -> int:
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self._parts(layer))

    def _files(self, layer: str) -> str:
        assert self._image is not None
        store = self._image.store
        before, behind = _FILES[store.driver]
        return os.path.join(store.root, before, layer, behind)


class _LayerStream:
    """A layer, made again from the files in a directory. It is never slow enough to need an interruption."""

    def __init__(self, what: str, parts: Iterator[bytes | tarsplit.Content], directory: str, offset: int) -> None:
        self._what = what
        self._pieces = self._packed(parts, directory)
        self._skip = offset

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while True:
            piece = next(self._pieces)
            if len(piece) > self._skip:
                piece, self._skip = piece[self._skip :], 0
                return piece
            self._skip -= len(piece)

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self._pieces.close()

    def _packed(self, parts: Iterator[bytes | tarsplit.Content], directory: str) -> Generator[bytes, None, None]:
        try:
            root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceUnreachable(f"{self._what}: {directory}: {error.strerror}", advice=_COPY) from None
        try:
            for part in parts:
                if isinstance(part, bytes):
                    yield part
                else:
                    yield from self._content(root, part)
        finally:
            os.close(root)

    def _content(self, root: int, part: tarsplit.Content) -> Iterator[bytes]:
        name = part.name[:200].decode(errors="backslashreplace")
        try:
            file = open_inside(root, part.name.lstrip(b"/"))
        except (OSError, Unsupported) as error:
            reason = error.strerror if isinstance(error, OSError) else "no regular file"
            raise BlobNotFound(f"{self._what}: {shown(name)}: {reason}", advice=_COPY) from None
        try:
            left = part.size
            while left and (data := os.read(file, min(left, _PIECE))):
                left -= len(data)
                yield data
            if left:
                raise BlobNotFound(f"{self._what}: {shown(name)} is {left} bytes too short")
        except OSError as error:
            raise SourceUnreachable(f"{self._what}: {shown(name)}: {error.strerror}") from None
        finally:
            os.close(file)


_COPY = "'skopeo copy containers-storage:NAME oci:DIR' may do what is not possible here; then take oci:DIR."


def _cut(name: str) -> tuple[str, str]:
    """The store and the name in it."""
    if not name.startswith("["):
        return "", name
    spec, _, rest = name[1:].partition("]")
    return spec, rest


def _repository(name: str) -> str:
    return ImageName.parse(name).repository


def _stores(spec: str) -> list[Store]:
    """The store that is meant, and further ones that it is to be completed from. Raises UsageError, ConfigError,
    SourceUnreachable."""
    driver, at, rest = spec.partition("@")
    if not at:
        driver, rest = ("", spec) if spec.startswith("/") else (spec, "")
    root = rest.partition(":")[0].partition("+")[0]
    if root and not root.startswith("/"):
        raise UsageError(f"containers-storage: the store '{spec}' has no absolute path")
    more: list[str] = []
    if not root:
        settings = _settings()
        root, more = settings.string("graphroot") if settings.value.get("graphroot") else DEFAULT_ROOT, list(
            settings.optional_object("options").string_list("additionalimagestores"))
        driver = driver or settings.optional_string("driver") or ""
    first = _store(driver, os.path.normpath(root))
    return [first, *(_store("", os.path.normpath(one)) for one in more if os.path.isdir(one))]


def _store(driver: str, root: str) -> Store:
    if not driver:
        there = [name for name in _FILES if os.path.exists(f"{root}/{name}-images/images.json")]
        if not there:
            raise SourceUnreachable(f"containers-storage: there is no store with images in {root}",
                                    advice="Name it, as in containers-storage:[overlay@ROOT]NAME.")
        driver = there[0]
    if driver == "overlay2":
        driver = "overlay"
    if driver not in _FILES:
        raise UsageError(f"containers-storage: the driver '{driver}' is not read here", advice=_COPY)
    return Store(driver, root)


def _settings() -> JsonObject:
    """The table [storage] of storage.conf."""
    named = os.environ.get("CONTAINERS_STORAGE_CONF")
    path = Path(named) if named else next((one for one in CONFIGS if one.exists()), None)
    if path is None:
        return JsonObject("storage", {}, OciError)
    try:
        with path.open("rb") as file:
            found = tomllib.loads(file.read(_MAX_CONFIG).decode())
        return JsonObject(str(path), found, OciError).optional_object("storage")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _checked(one: JsonObject, key: str) -> str:
    text = one.string(key)
    if not _ID.fullmatch(text):
        raise one.error(key, f"{shown(text)} is no id")
    return text


def _names(one: JsonObject) -> Iterator[ImageName]:
    for text in one.string_list("names"):
        try:
            yield ImageName.parse(text)
        except SignatureError:
            continue
