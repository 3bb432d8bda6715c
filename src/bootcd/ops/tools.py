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
from ..formats.tree import Directory, Leaf, RegularFile
from ..linux import files
from ..store.scan import scan_directory

_CHUNK = 1 << 20


def compute_digest(directory: Path, version: Version, algorithm: Algorithm, xattrs: XattrMode, *, boot: bool) -> bytes:
    """The digest that a machine computes for an image with this root directory (`cfsctl compute-id [--bootable]`)."""
    root = scan_directory(directory, None, algorithm)
    paths = _paths(root, directory)

    def read_file(file: RegularFile) -> bytes:
        if file.inline is not None:
            return file.inline
        with files.translate(f"cannot read {paths[id(file)]}"):
            return paths[id(file)].read_bytes()

    transform_for_oci(root, xattrs)
    if boot:
        transform_for_boot(root, read_file)
    return measure(write_image(root, version, algorithm), algorithm)


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
    with files.translate(f"cannot read {path}"):
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


def _paths(root: Directory, directory: Path) -> dict[int, Path]:
    """Where the files of the SELinux configuration lie: the transform asks for some of them by inode."""
    start = root.directory(b"etc/selinux")
    return {id(node): directory / os.fsdecode(path[1:])
            for path, node in (start.walk(b"/etc/selinux") if start is not None else ())}
