# SPDX-License-Identifier: Apache-2.0
"""The canonical tree of whatever an image may be while it is built: what its digest is of.

    DIR                         a root directory
    FILE                        its tar, plain or compressed; an EROFS image; a composefs dump
    oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], dir:DIR, containers-storage:NAME, tar:FILE

Nothing is stored: contents are measured while they pass, and only the SELinux policy and os-release are kept meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..config import Config
from ..errors import BootcdError, UsageError
from ..formats import tar
from ..formats.dump import parse_dump
from ..formats.erofs.reader import Image
from ..formats.fsverity import Algorithm, Hasher
from ..formats.layers import Budget, apply_layer, new_root
from ..formats.oci import MAX_DOCUMENT
from ..formats.oci import Config as ImageConfig
from ..formats.splitstream import External
from ..formats.transform import XattrMode, transform_for_boot, transform_for_oci
from ..formats.tree import Directory, RegularFile
from ..linux import files
from ..model import ImageReference, Platform, SilentProgress
from ..registry.blob import LayerReader, read_blob
from ..registry.opening import open_source
from .tools import canonical_tree
from .uncompressed import Uncompressed

_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:", "tar:")
_ELSEWHERE = ("docker://", "registry:")
_KEPT = (b"etc/selinux/", b"etc/os-release", b"usr/lib/os-release")
_MAX_KEPT = 64 << 20
"""Bytes that are kept; a policy has some megabytes."""
_MAX_FILE = 1 << 30
"""Bytes of an EROFS image or a dump."""
_EROFS_MAGIC = b"\xe2\xe1\xf5\xe0"
_EROFS_OFFSET = 1024
_DUMP = b"/ "
"""How a dump begins."""
_STEP = 1 << 20


def canonical(text: str, algorithm: Algorithm, xattrs: XattrMode = XattrMode.ALLOWLIST_ONLY, *, boot: bool = True,
              whole_seconds: bool = False) -> Directory:
    """The tree of what `text` names, measured by `algorithm`. A dump and an EROFS image are taken as they are. With
    `whole_seconds`, times in a directory are without their fractions.

    Raises UsageError for another transport, NotBootable, PolicyError, LayerConflict, what reading an image layout
    raises, and BootcdError for what cannot be read.
    """
    if not is_image(text) and os.path.isdir(text):
        return canonical_tree(Path(text), algorithm, xattrs, boot=boot, whole_seconds=whole_seconds)
    if not is_image(text) and (data := _ready_made(text)) is not None:
        return parse_dump(data.splitlines(keepends=True)) if data.startswith(_DUMP) else Image(data).root()
    pile = Pile(algorithm)
    pile.add_image(text)
    return pile.canonical(xattrs, boot=boot)


def is_image(text: str) -> bool:
    """Whether that names an image by its transport, and no file or directory. Raises UsageError for an image that is
    not on this machine."""
    if text.startswith(_ELSEWHERE):
        raise UsageError(f"{text} cannot be read here", advice="Copy it to an oci: directory, for example with skopeo.")
    return text.startswith(_TRANSPORTS)


def _ready_made(text: str) -> bytes | None:
    """What a file holds that is a tree already; None for anything else."""
    with (files.translate(f"cannot read {text}", named=True),
          open(files.open_regular(text, follow=True), "rb") as stream):
        head = stream.read(_EROFS_OFFSET + len(_EROFS_MAGIC))
        if head[_EROFS_OFFSET:] != _EROFS_MAGIC and not head.startswith(_DUMP):
            return None
        stream.seek(0)
        data = stream.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise BootcdError(f"{text} has more than {_MAX_FILE} bytes")
    return data


def _read_image(reference: ImageReference, pile: Pile) -> None:
    source = open_source(reference)
    try:
        fetched = source.manifest(Platform.current())
        fetched.require_whole(str(reference))
        manifest = fetched.manifest
        config = ImageConfig.parse(read_blob(source, manifest.config, MAX_DOCUMENT))
        for descriptor, diff_id in manifest.check_image(config):
            with LayerReader(source, descriptor, diff_id, max_size=Config().pull_max_layer_size,
                             progress=SilentProgress()) as layer:
                pile.add(layer.read)
                while layer.read(_STEP):
                    pass  # its end says whether it was what its digest promises
    finally:
        source.close()


class Pile:
    """Layers on top of each other. Of the contents, those are kept whose path is `kept`, up to so many bytes in all."""

    def __init__(self, algorithm: Algorithm, kept: Callable[[bytes], bool] = lambda path: path.startswith(_KEPT),
                 limit: int = _MAX_KEPT) -> None:
        self._algorithm = algorithm
        self._is_kept = kept
        self.root = new_root()
        self._budget = Budget()
        self._kept: dict[bytes, bytes] = {}
        self._left = limit

    def add_image(self, text: str) -> None:
        """Put all layers of an image, or a tar file, on top. Raises UsageError for an image that is not on this
        machine, and what reading one raises."""
        if is_image(text):
            _read_image(ImageReference.parse(text), self)
            return
        with (files.translate(f"cannot read {text}", named=True),
              open(files.open_regular(text, follow=True), "rb") as stream):
            self.add(Uncompressed(stream, text, Config().pull_max_layer_size).read)

    def add(self, read: Callable[[int], bytes]) -> None:
        """Put an uncompressed tar on top. Raises TarError, LayerConflict."""
        apply_layer(self.root, self._entries(tar.members(read)), self._budget)

    def canonical(self, xattrs: XattrMode, *, boot: bool) -> Directory:
        transform_for_oci(self.root, xattrs)
        if boot:
            transform_for_boot(self.root, self.read)
        return self.root

    def _entries(self, members: Iterable[tuple[tar.Entry, bytes | tar.Payload | None]]
                 ) -> Iterator[tuple[tar.Entry, bytes | External | None]]:
        for entry, content in members:
            if isinstance(content, tar.Payload):
                yield entry, External(self._measure(entry, content))
            else:
                yield entry, content

    def _measure(self, entry: tar.Entry, content: tar.Payload) -> bytes:
        hasher = Hasher(self._algorithm)
        keep = self._is_kept(entry.path) and content.size <= self._left
        parts = []
        while piece := content.read(_STEP):
            hasher.update(piece)
            if keep:
                parts.append(piece)
        digest = hasher.digest()
        if keep:
            self._kept[digest] = b"".join(parts)
            self._left -= content.size
        return digest

    def read(self, file: RegularFile) -> bytes:
        """The content of a file that is kept: the policy, or os-release. Raises BootcdError."""
        found = self.content(file)
        if found is None:
            raise BootcdError("the SELinux policy or os-release of the image is too large, or a link to other places")
        return found

    def content(self, file: RegularFile) -> bytes | None:
        """The content of a file if it is known."""
        return file.inline if file.inline is not None else self._kept.get(file.digest or b"")
