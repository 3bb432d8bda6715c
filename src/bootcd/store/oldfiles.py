# SPDX-License-Identifier: Apache-2.0
"""The files of an image that is in the repository, by their paths: what a delta to another image refers to.

The paths are those of the layers put on each other, without what composefs changes in a tree afterwards: a delta is
made from the layers. The contents come from the objects; who reads them checks a digest of what becomes of them.
"""

from __future__ import annotations

import os
import threading

from ..errors import DeltaUnusable, ObjectMismatch
from ..formats.layers import Budget, apply_layer, new_root
from ..formats.splitstream import ContentType
from ..formats.tar import entries
from ..formats.tree import Directory, RegularFile
from ..linux import files
from .layers import has_layer, layer_name
from .ociimages import CONFIG_PREFIX, OciImages
from .repository import Repository


class OldFiles:
    """The files of one image, whose config is in the repository with all layers (`has_files`). Safe to use from several
    threads."""

    def __init__(self, repo: Repository, config_digest: str) -> None:
        self._repo = repo
        self._config_digest = config_digest
        self._lock = threading.Lock()
        self._root: Directory | None = None

    def open(self, path: bytes) -> OldFile:
        """A regular file. Raises DeltaUnusable when there is none, and what reading the layers raises."""
        node = self._tree().lookup(path)
        if not isinstance(node, RegularFile) or (node.digest is None and node.inline is None):
            raise DeltaUnusable(f"it needs the file {repr(path[:200])[1:]}, which the old image does not have")
        fd = self._repo.objects.open(node.digest) if node.digest is not None else -1
        return OldFile(node.size, node.inline or b"", fd)

    def _tree(self) -> Directory:
        with self._lock:
            if self._root is None:
                root, budget = new_root(), Budget()
                for diff_id in OciImages(self._repo).config(self._config_digest).diff_ids:
                    stream = self._repo.streams.open(layer_name(diff_id), ContentType.OCI_LAYER)
                    apply_layer(root, entries(stream.chunks()), budget)
                self._root = root
            return self._root


class OldFile:
    """An open file: a small one is its content, another one its object."""

    def __init__(self, size: int, content: bytes, fd: int) -> None:
        self.size = size
        self._content = content
        self._fd = fd

    def read(self, size: int, position: int) -> bytes:
        """`size` bytes from `position` on, which are inside. Raises ObjectMismatch when they are not there."""
        if self._fd < 0:
            return self._content[position : position + size]
        parts = []
        while size:
            with files.translate("cannot read an object"):
                data = os.pread(self._fd, size, position)
            if not data:
                raise ObjectMismatch("an object ends early")
            parts.append(data)
            size -= len(data)
            position += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def has_files(repo: Repository, config_digest: str) -> bool:
    """Whether an image is here, all of its layers. Raises when its config cannot be read."""
    if not repo.streams.has(CONFIG_PREFIX + config_digest):
        return False
    return all(has_layer(repo, diff_id) for diff_id in OciImages(repo).config(config_digest).diff_ids)
