# SPDX-License-Identifier: Apache-2.0
"""What can be done without an installation: digests of root directories, images of directories and dumps."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from pathlib import Path

from ..formats.dump import format_dump, parse_dump
from ..formats.erofs.layout import Version
from ..formats.erofs.reader import Image
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, Hasher, measure
from ..formats.transform import XattrMode, transform_for_boot, transform_for_oci
from ..formats.tree import Directory, Leaf
from ..linux import files
from ..store.scan import scan_directory
from .rootfs import Rootfs

_CHUNK = 1 << 20


def digests(
    directory: Path, algorithm: Algorithm, versions: Iterable[Version], xattrs: XattrMode = XattrMode.ALLOWLIST_ONLY, *,
    boot: bool = True,
) -> dict[Version, bytes]:
    """The digests that a machine computes for an image with this root directory, in several formats (`cfsctl compute-id
    [--bootable]`). Raises NotBootable, PolicyError, and BootcdError for what cannot be read or changes meanwhile."""
    root = canonical_tree(directory, algorithm, xattrs, boot=boot)
    return {version: measure(write_image(root, version, algorithm), algorithm) for version in versions}


def canonical_tree(directory: Path, algorithm: Algorithm, xattrs: XattrMode = XattrMode.ALLOWLIST_ONLY, *,
                   boot: bool = True, whole_seconds: bool = False) -> Directory:
    """The tree of a root directory without what differs between the tools that build and unpack images.

    With `whole_seconds`, times are without their fractions, as in the layer that a tool makes of that directory.
    """
    rootfs = Rootfs(directory, algorithm)
    if whole_seconds:
        for _, inode in rootfs.tree.walk():
            inode.mtime_nsec = 0
    transform_for_oci(rootfs.tree, xattrs)
    if boot:
        transform_for_boot(rootfs.tree, rootfs.read)
    return rootfs.tree


def image_of_directory(directory: Path, version: Version, algorithm: Algorithm, *, hardlinks: bool = True) -> bytes:
    """The EROFS image of a directory as it is, nothing left out (`cfsctl create-image --no-propagate-usr-to-root`).

    Without `hardlinks` each name gets an inode of its own (`mkcomposefs DIR`).
    """
    root = scan_directory(directory, None, algorithm)
    if not hardlinks:
        _break_hard_links(root)
    return bytes(write_image(root, version, algorithm))


def image_of_dump(lines: Iterable[bytes], version: Version, algorithm: Algorithm) -> bytes:
    """The EROFS image of a composefs dump (`mkcomposefs --from-file`)."""
    return bytes(write_image(parse_dump(lines), version, algorithm))


def dump_of_image(data: bytes) -> Iterable[bytes]:
    """The lines of the dump of an EROFS image."""
    return format_dump(Image(data).root())


def measure_file(path: Path, algorithm: Algorithm) -> bytes:
    """The fs-verity digest of a file's content, computed here. Raises BootcdError."""
    hasher = Hasher(algorithm)
    with files.translate(f"cannot read {path}", named=True):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            while data := file.read(_CHUNK):
                hasher.update(data)
    return hasher.digest()


def _break_hard_links(root: Directory) -> None:
    seen: set[int] = set()
    for _, node in root.walk():
        if isinstance(node, Directory):
            for name, child in node.entries.items():
                if id(child) in seen:
                    node.entries[name] = copy.copy(child)
                elif isinstance(child, Leaf):
                    seen.add(id(child))
