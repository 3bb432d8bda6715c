# SPDX-License-Identifier: Apache-2.0
"""OCI images in a repository: manifests, configs, tags, and the EROFS images made of them.

    oci-manifest-<digest>   the JSON as one object; refs `config:<digest>` and each diff ID to their streams
    oci-config-<digest>     the JSON as one object; refs each diff ID to its layer, `composefs.image…` to EROFS images
    refs/oci/<name>         a tag: leads to a manifest and keeps all of the above

In a name, `%` is written %25 and `/` %2F. JSON is kept byte for byte, so its SHA-256 stays the OCI digest, which is
checked at every reading. Streams are rewritten when images are added to a config: its id changes, hence that of every
manifest that refers to it, while names stay. Spec 3.6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import BlobMismatch, ImageNotFound, OciError, RepositoryDamaged, UsageError
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import measure
from ..formats.layers import Budget, apply_layer, new_root
from ..formats.oci import MAX_DOCUMENT, Config, Manifest
from ..formats.splitstream import ContentType, External, Splitstream, Writer
from ..formats.tar import entries
from ..formats.transform import XattrMode, transform_for_boot, transform_for_oci
from ..formats.tree import Directory, RegularFile
from ..model import is_digest
from .layers import has_layer, layer_name
from .repository import Repository

IMAGE_KEY = "composefs.image"
BOOT_KEY = "composefs.image.boot"
TAGS = "oci/"
MANIFEST_PREFIX = "oci-manifest-"
CONFIG_PREFIX = "oci-config-"
_CONFIG_REF = "config:"
_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class ImageIds:
    """The EROFS images of one OCI image in the default format; `boot_image` is the one that a UKI names."""

    image: bytes | None
    boot_image: bytes | None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An OCI image in the repository. `config` is None for artifacts."""

    manifest_digest: str
    tags: tuple[str, ...]
    manifest: Manifest
    config: Config | None
    layer_refs: tuple[str, ...]
    """Diff IDs, each once; of an artifact the digests of its blobs."""
    images: ImageIds

    @property
    def config_digest(self) -> str:
        return self.manifest.config.digest

    @property
    def size(self) -> int:
        """Bytes of the layers as they were served, compressed."""
        return sum(layer.size for layer in self.manifest.layers)


class OciImages:
    """The OCI side of a repository."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo

    # --- reading ---

    def has(self, manifest_digest: str) -> bool:
        return self._repo.streams.has(MANIFEST_PREFIX + manifest_digest)

    def manifest_data(self, manifest_digest: str) -> bytes:
        """The manifest as it was served. Raises ImageNotFound, BlobMismatch."""
        return self._document(MANIFEST_PREFIX, manifest_digest)[1]

    def manifest(self, manifest_digest: str) -> Manifest:
        """Raises ImageNotFound, BlobMismatch, OciError."""
        return Manifest.parse(self.manifest_data(manifest_digest))

    def config_data(self, config_digest: str) -> bytes:
        """The config as it was served. Raises ImageNotFound, BlobMismatch."""
        return self._document(CONFIG_PREFIX, config_digest)[1]

    def config(self, config_digest: str) -> Config:
        """Raises ImageNotFound, BlobMismatch, OciError."""
        return Config.parse(self.config_data(config_digest))

    def missing(self, manifest_digest: str) -> list[str]:
        """What of an image must be pulled (again): the digests of manifest, config and layers that are not there."""
        if not self.has(manifest_digest):
            return [manifest_digest]
        manifest = self.manifest(manifest_digest)
        if not manifest.is_image:
            refs = self._repo.streams.open(MANIFEST_PREFIX + manifest_digest, ContentType.OCI_MANIFEST).named_refs
            return [name for name in refs if not self._repo.streams.has(stream_of_ref(name))]
        if not self._repo.streams.has(CONFIG_PREFIX + manifest.config.digest):
            return [manifest.config.digest]
        diff_ids = self.config(manifest.config.digest).diff_ids
        return [diff_id for diff_id in dict.fromkeys(diff_ids) if not has_layer(self._repo, diff_id)]

    def manifests(self) -> list[str]:
        """The digests of all manifests, tagged or not."""
        names = self._repo.streams.names()
        return [name.removeprefix(MANIFEST_PREFIX) for name in names if name.startswith(MANIFEST_PREFIX)]

    def tags(self) -> dict[str, str]:
        """Every tag with its manifest digest."""
        return {
            decode_tag(ref.removeprefix(TAGS)): name.removeprefix(MANIFEST_PREFIX)
            for ref, name in self._repo.streams.refs().items()
            if ref.startswith(TAGS) and name.startswith(MANIFEST_PREFIX)
        }

    def resolve(self, name: str) -> str:
        """The manifest digest of a tag, a digest (`sha256:…`, `@sha256:…`) or an unambiguous beginning of its hex.

        Raises ImageNotFound.
        """
        tagged = self.tags().get(name)
        if tagged is not None:
            return tagged
        digest = name.removeprefix("@")
        if is_digest(digest):
            if self.has(digest):
                return digest
        elif len(digest) >= 4:
            found = [one for one in self.manifests() if one.partition(":")[2].startswith(digest)]
            if len(found) == 1:
                return found[0]
            if found:
                raise ImageNotFound(f"'{name}' could be any of {len(found)} images")
        raise ImageNotFound(f"the repository has no image '{name}'")

    def list(self) -> list[StoredImage]:
        """Every tagged image, in the order of its first tag. Raises when one cannot be read."""
        by_digest: dict[str, list[str]] = {}
        for tag, digest in sorted(self.tags().items()):
            by_digest.setdefault(digest, []).append(tag)
        return [self._stored(digest, tags) for digest, tags in by_digest.items()]

    def inspect(self, name: str) -> StoredImage:
        """One image, by anything that `resolve` understands."""
        digest = self.resolve(name)
        return self._stored(digest, sorted(tag for tag, target in self.tags().items() if target == digest))

    def images(self, config_digest: str) -> ImageIds:
        """The EROFS images that a config names, whether or not they are still there."""
        refs = self._repo.streams.open(CONFIG_PREFIX + config_digest, ContentType.OCI_CONFIG).named_refs
        version = self._repo.version
        return ImageIds(refs.get(_key(IMAGE_KEY, version)), refs.get(_key(BOOT_KEY, version)))

    # --- storing ---

    def put_config(self, data: bytes) -> str:
        """Store a config whose layers are all there, and return its digest. Images that it names already are kept.

        Raises OciError, RepositoryDamaged when a layer is missing.
        """
        digest = _sha256(data)
        images: dict[str, bytes] = {}
        if self._repo.streams.has(CONFIG_PREFIX + digest):
            refs = self._repo.streams.open(CONFIG_PREFIX + digest, ContentType.OCI_CONFIG).named_refs
            images = {key: image for key, image in refs.items()
                      if key.startswith(IMAGE_KEY) and self._repo.images.has(image)}
        # Written again even if it is there: a layer that had to be imported again may have got another id.
        self._write_config(digest, data, images)
        return digest

    def put_manifest(self, data: bytes, tag: str | None = None) -> str:
        """Store a manifest whose config and layers are all there, tag it, and return its digest.

        Raises OciError, RepositoryDamaged when something is missing.
        """
        manifest = Manifest.parse(data)
        if not manifest.is_image:
            raise OciError(f"manifest.config.mediaType: '{manifest.config.media_type}' is no image configuration")
        if tag is not None:
            check_tag(tag)
        digest = _sha256(data)
        diff_ids = self.config(manifest.config.digest).diff_ids
        self._write_manifest(digest, data, manifest.config.digest, diff_ids)
        if tag is not None:
            self.tag(digest, tag)
        return digest

    def tag(self, manifest_digest: str, tag: str) -> bool:
        """Give an image a name, which keeps it. Returns whether anything changed. Raises UsageError, ImageNotFound."""
        check_tag(tag)
        return self._repo.streams.tag(TAGS + encode_tag(tag), MANIFEST_PREFIX + manifest_digest)

    def untag(self, tag: str) -> bool:
        """Take a name away; False when there is none."""
        return self._repo.streams.untag(TAGS + encode_tag(tag))

    # --- trees and EROFS images ---

    def tree(self, config_digest: str, xattrs: XattrMode = XattrMode.ALLOWLIST_ONLY) -> Directory:
        """The file tree of an image: layers merged, then brought into the form that composefs gives OCI images.

        /boot has its content. Raises LayerConflict, LayerTooLarge, RepositoryDamaged, ObjectMismatch and errors of
        formats.
        """
        root, budget = new_root(), Budget()
        for diff_id in self.config(config_digest).diff_ids:
            stream = self._repo.streams.open(layer_name(diff_id), ContentType.OCI_LAYER)
            try:
                apply_layer(root, entries(stream.chunks()), budget)
            except Exception as error:
                error.add_note(f"in layer {diff_id}")
                raise
        transform_for_oci(root, xattrs)
        return root

    def read_file(self, file: RegularFile) -> bytes:
        """The content of a file of a tree. Raises RepositoryDamaged, ObjectMismatch."""
        if file.digest is None:
            return file.inline if file.inline is not None else bytes(file.size)
        return self._repo.objects.read(file.digest)

    def commit_images(self, manifest_digest: str, boot: bool = True, tree: Directory | None = None) -> ImageIds:
        """Make the EROFS images of an OCI image, in every format of the repository, and note them in its streams.

        `tree` is what `tree` returned, when the caller has it; with `boot` it is changed (its /boot is emptied).
        Nothing is made that is there. Raises as `tree` does, and RootFull.
        """
        self._repo.require_writable()
        config_digest = self.manifest(manifest_digest).config.digest
        stream, data = self._document(CONFIG_PREFIX, config_digest)
        versions = self._repo.metadata.versions
        keys = [(_key(base, version), base, version)
                for base in ((IMAGE_KEY, BOOT_KEY) if boot else (IMAGE_KEY,)) for version in versions]
        refs = {name: digest for name, digest in stream.named_refs.items() if name.startswith(IMAGE_KEY)}
        wanted = [key for key in keys if key[0] not in refs or not self._repo.images.has(refs[key[0]])]
        if wanted:
            root = self.tree(config_digest) if tree is None else tree
            bases = {base for _, base, _ in wanted}
            for base in (IMAGE_KEY, BOOT_KEY):
                if base == BOOT_KEY and base in bases:
                    transform_for_boot(root, self.read_file)
                for key, other, version in wanted:
                    if other == base:
                        refs[key] = self._repo.images.commit(write_image(root, version, self._repo.algorithm))
            self._write_config(config_digest, data, refs)
        default = self._repo.version
        return ImageIds(refs.get(_key(IMAGE_KEY, default)), refs.get(_key(BOOT_KEY, default)))

    def commit_boot_image(
        self, manifest_digest: str, versions: Iterable[Version], expected: bytes | None = None
    ) -> bytes | None:
        """Make the boot image in a format that need not be one of the repository, and note it as `commit_images` does:
        the first of `versions` or, with `expected`, the digest that a UKI names, the first one that has it, with each
        treatment of xattrs.

        None when none has it. Raises as `tree` does, and RootFull.
        """
        self._repo.require_writable()
        config_digest = self.manifest(manifest_digest).config.digest
        stream, data = self._document(CONFIG_PREFIX, config_digest)
        refs = {name: digest for name, digest in stream.named_refs.items() if name.startswith(IMAGE_KEY)}
        for mode in XattrMode if expected is not None else (XattrMode.ALLOWLIST_ONLY,):
            root = self.tree(config_digest, mode)
            transform_for_boot(root, self.read_file)
            for candidate in versions:
                image = write_image(root, candidate, self._repo.algorithm)
                if expected is not None and measure(image, self._repo.algorithm) != expected:
                    continue
                key = _key(BOOT_KEY, candidate) + ("" if mode is XattrMode.ALLOWLIST_ONLY else f".xattrs={mode.value}")
                refs[key] = self._repo.images.commit(image)
                self._write_config(config_digest, data, refs)
                return refs[key]
        return None

    # --- inside ---

    def _document(self, prefix: str, digest: str) -> tuple[Splitstream, bytes]:
        """A stream that holds one JSON document, and the document, its digest checked."""
        kind = ContentType.OCI_MANIFEST if prefix == MANIFEST_PREFIX else ContentType.OCI_CONFIG
        stream = self._repo.streams.open(prefix + digest, kind)
        parts = []
        for chunk in stream.chunks():
            parts.append(self._repo.objects.read(chunk.digest, MAX_DOCUMENT) if isinstance(chunk, External) else chunk)
            if sum(map(len, parts)) > MAX_DOCUMENT:
                raise OciError(f"stream {prefix}{digest} holds more than {MAX_DOCUMENT} bytes")
        data = b"".join(parts)
        algorithm, _, expected = digest.partition(":")
        if not is_digest(digest) or hashlib.new(algorithm, data).hexdigest() != expected:
            raise BlobMismatch(f"stream {prefix}{digest} holds another document than its name says",
                               advice="'bootcctl fsck --repair' removes it and names what to pull again.")
        return stream, data

    def _stored(self, digest: str, tags: Iterable[str]) -> StoredImage:
        stream, data = self._document(MANIFEST_PREFIX, digest)
        manifest = Manifest.parse(data)
        if not manifest.is_image:
            layers = tuple(name for name in stream.named_refs if not name.startswith(_CONFIG_REF))
            return StoredImage(digest, tuple(tags), manifest, None, layers, ImageIds(None, None))
        config = self.config(manifest.config.digest)
        layers = tuple(dict.fromkeys(config.diff_ids))
        return StoredImage(digest, tuple(tags), manifest, config, layers, self.images(manifest.config.digest))

    def _layer_id(self, diff_id: str) -> bytes:
        if not has_layer(self._repo, diff_id):
            raise RepositoryDamaged(f"layer {diff_id} is missing", advice="Pull the image again.")
        return self._repo.streams.id(layer_name(diff_id))

    def _write_config(self, digest: str, data: bytes, images: Mapping[str, bytes]) -> None:
        """Write a config stream, and again every manifest that refers to it by its old id."""
        writer = Writer(self._repo.algorithm, ContentType.OCI_CONFIG)
        diff_ids = Config.parse(data).diff_ids
        for diff_id in diff_ids:
            writer.add_named_ref(diff_id, self._layer_id(diff_id))
        for key in sorted(images, key=lambda key: (key.startswith(BOOT_KEY), key)):
            writer.add_named_ref(key, images[key])
        writer.write_external(self._repo.objects.put(data), len(data))
        new = self._repo.streams.put(CONFIG_PREFIX + digest, writer.finish())
        for manifest_digest in self.manifests():
            stream = self._repo.streams.open(MANIFEST_PREFIX + manifest_digest, ContentType.OCI_MANIFEST)
            if stream.named_refs.get(_CONFIG_REF + digest, new) != new:
                self._write_manifest(manifest_digest, self.manifest_data(manifest_digest), digest, diff_ids)

    def _write_manifest(self, digest: str, data: bytes, config_digest: str, diff_ids: Iterable[str]) -> None:
        writer = Writer(self._repo.algorithm, ContentType.OCI_MANIFEST)
        writer.add_named_ref(_CONFIG_REF + config_digest, self._repo.streams.id(CONFIG_PREFIX + config_digest))
        for diff_id in diff_ids:
            writer.add_named_ref(diff_id, self._layer_id(diff_id))
        writer.write_external(self._repo.objects.put(data), len(data))
        self._repo.streams.put(MANIFEST_PREFIX + digest, writer.finish())


def encode_tag(tag: str) -> str:
    return tag.replace("%", "%25").replace("/", "%2F")


def decode_tag(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


def check_tag(tag: str) -> None:
    """Raises UsageError for a tag that cannot be stored or would be mistaken for something else."""
    if tag in ("", ".", "..") or tag.startswith("@") or not tag.isprintable():
        raise UsageError(f"'{tag}' cannot be the name of an image")
    if len(encode_tag(tag).encode()) > _NAME_MAX:
        raise UsageError(f"the image name '{tag[:40]}…' is too long")


def _key(base: str, version: Version) -> str:
    return base if version == Version.V2 else f"{base}.v1"


def stream_of_ref(name: str) -> str:
    """The stream that a named ref of a manifest stands for."""
    if name.startswith(_CONFIG_REF):
        return CONFIG_PREFIX + name.removeprefix(_CONFIG_REF)
    return layer_name(name)


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
