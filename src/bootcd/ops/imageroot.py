# SPDX-License-Identifier: Apache-2.0
"""The root directory of an image that is not unpacked anywhere: what `Rootfs` is for a directory.

Only the contents that a lint or a machine would look at are kept in memory, kernels and initrds among them; nothing is
written, and no owner or xattr is lost to the user who looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property

from ..errors import BootcdError
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, measure
from ..formats.tree import Inode, RegularFile
from .rootfs import MAX_READ
from .trees import Pile, canonical

_KEPT = (
    b"boot/", b"etc/", b"usr/lib/modules/", b"usr/lib/bootc/", b"usr/lib/bootcd/", b"usr/lib/ostree/",
    b"usr/lib/os-release", b"usr/lib/systemd/", b"usr/lib/sysusers.d/", b"usr/lib/tmpfiles.d/",
    b"usr/local/lib/sysusers.d/", b"usr/local/lib/tmpfiles.d/",
)
"""Where what is looked at may be."""
_DRIVERS = (b".ko", b".ko.xz", b".ko.zst", b".ko.gz")
"""Of the kernel, which nobody looks into."""
_MAX_KEPT = 2 << 30


class ImageRoot:
    """An image as `trees.canonical` takes it, but for an EROFS image or a dump, which hold no contents."""

    running = False
    mounted: frozenset[bytes] = frozenset()

    def __init__(self, name: str) -> None:
        """Read it. Raises UsageError, and what reading an image raises."""
        self.name = name
        self._pile = Pile(Algorithm.SHA512, _is_kept, _MAX_KEPT)
        self._pile.add_image(name)
        self.tree = self._pile.root

    def path_of(self, inode: Inode) -> bytes:
        """The path of an inode of the tree in the image; of several names one."""
        return self._paths[id(inode)]

    def shown(self, inode: Inode) -> str:
        """The same for messages."""
        return f"{self.name}: {self.path_of(inode).decode(errors='backslashreplace')}"

    def read(self, file: RegularFile) -> bytes:
        """The content of a file of the tree. Raises BootcdError, also when it is larger than any that one would
        read."""
        if file.size > MAX_READ:
            raise BootcdError(f"{self.shown(file)} has {file.size} bytes, more than {MAX_READ}")
        return bytes(self.mapped(file))

    def mapped(self, file: RegularFile) -> memoryview:
        """The content of a file of any size. Raises BootcdError."""
        content = self._pile.content(file)
        if content is None:
            raise BootcdError(f"{self.shown(file)} is not among the contents that are kept",
                              advice="Unpack the image, and name the directory.")
        return memoryview(content)

    def open(self, file: RegularFile) -> int:
        """A descriptor for reading a file of the tree. Raises BootcdError."""
        content = self.mapped(file)
        descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as stream:
                stream.write(content)
            os.lseek(descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def digests(self, algorithm: Algorithm, versions: Iterable[Version]) -> dict[Version, bytes]:
        """As `tools.digests`. Reads the image again: the tree here is that before anything of it is left out."""
        root = canonical(self.name, algorithm)
        return {version: measure(write_image(root, version, algorithm), algorithm) for version in versions}

    @cached_property
    def _paths(self) -> dict[int, bytes]:
        return {id(node): path for path, node in self.tree.walk()}


def _is_kept(path: bytes) -> bool:
    return path.startswith(_KEPT) and not path.endswith(_DRIVERS)
