# SPDX-License-Identifier: Apache-2.0
"""What a lint looks at, and what it answers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ...boot.discover import Uki, find_boot_resources, find_kernels, find_ukis
from ...errors import BootcdError, NotBootable
from ...formats.initrd import members
from ...formats.pe import Pe
from ...formats.tree import Directory, Inode, RegularFile
from ..imageroot import ImageRoot
from ..rootfs import Rootfs
from ..seal import Seals

_PROGRAMS = {"bootcd": b"/bootcd/bootcd-setup-root", "bootc": b"/bootc/initramfs-setup"}
"""How the paths of the programs end, in any distribution's directory."""


def text(name: bytes) -> str:
    """A path for people; it need not be UTF-8."""
    return name.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Found:
    """What is wrong at a path, which is absolute in the image."""

    path: bytes
    what: str


@dataclass(frozen=True)
class Subject:
    """A root directory or an image, and what it is meant for: `esp_budget` are the bytes that kernels may take, 0 for
    any number, `previous` the tree of the image that comes before this one, `allow_setuid` patterns of further paths
    that may be setuid, `architecture` as uname calls it."""

    root: Rootfs | ImageRoot
    esp_budget: int = 0
    previous: Directory | None = None
    allow_setuid: tuple[str, ...] = ()
    architecture: str = field(default_factory=platform.machine)

    @property
    def tree(self) -> Directory:
        return self.root.tree

    def files(self, directory: bytes, suffix: bytes) -> Iterator[tuple[bytes, RegularFile]]:
        """The regular files of a directory whose names end like that."""
        found = self.tree.directory(directory)
        for name, node in found.sorted_entries() if found is not None else ():
            if name.endswith(suffix) and isinstance(node, RegularFile):
                yield directory + b"/" + name, node

    def lines(self, *directories: bytes) -> Iterator[tuple[bytes, list[str]]]:
        """The words of every line of the *.conf in these directories, of which the first that has a name counts; with
        the path of the file. Comments are left out."""
        seen: set[bytes] = set()
        for directory in directories:
            for path, node in self.files(directory, b".conf"):
                name = path.rpartition(b"/")[2]
                if name in seen:
                    continue
                seen.add(name)
                for line in self.root.read(node).decode("utf-8", "surrogateescape").splitlines():
                    words = line.split()
                    if words and not words[0].startswith("#"):
                        yield path, words

    @property
    def kernels(self) -> list[tuple[bytes, Directory]]:
        return find_kernels(self.tree)

    @property
    def ukis(self) -> list[tuple[bytes, Inode]]:
        return find_ukis(self.tree)

    @cached_property
    def uki(self) -> Uki | None:
        """The UKI that a machine would boot; None also where the lints of kernels have something to say."""
        try:
            return find_boot_resources(self.tree).uki
        except NotBootable:
            return None

    @cached_property
    def pe(self) -> Pe | None:
        """The sections of that UKI. Raises PeError."""
        return Pe.parse(self.root.mapped(self.uki.file), self.uki.name) if self.uki is not None else None

    @cached_property
    def initrd(self) -> tuple[bytes, frozenset[bytes] | str] | None:
        """Where the initrd that would be booted is, and all names in it or why they are not known."""
        try:
            found = find_boot_resources(self.tree)
            if found.uki is not None:
                where, pe = b"/boot/EFI/Linux/" + found.uki.name.encode(), self.pe
                data = pe.section(".initrd") if pe is not None else memoryview(b"")
            elif found.initrd is not None:
                where, data = self.path_of(found.initrd), self.root.mapped(found.initrd)
            else:
                return None
        except BootcdError:  # which another lint tells
            return None
        try:
            return where, frozenset(member.name for member in members(data))
        except BootcdError as error:
            return where, str(error)

    @property
    def initrd_program(self) -> str:
        """Whose program mounts the root file system in the initrd: bootcd, bootc, none, or unknown."""
        if self.initrd is None or isinstance(self.initrd[1], str):
            return "unknown"
        names = self.initrd[1]
        return next((who for who, end in _PROGRAMS.items() if any(name.endswith(end) for name in names)), "none")

    def path_of(self, inode: Inode) -> bytes:
        """The path of an inode in the image."""
        return self.root.path_of(inode)

    @cached_property
    def seals(self) -> Seals:
        """The digests of the tree."""
        return Seals(self.root.path if isinstance(self.root, Rootfs) else self.root)


Check = Callable[[Subject], Iterable[Found]]
Fix = Callable[[Subject, Found], None]


@dataclass(frozen=True, slots=True)
class Lint:
    """One thing to look for: its name on the command line, whether it is fatal, what it finds, why that matters, and
    what takes it away where that does no harm."""

    name: str
    fatal: bool
    what: str
    why: str
    check: Check
    fix: Fix | None = None
    source: str = "bootcd"
    """Whose lint it is; bootc's have the names that they have there."""
