# SPDX-License-Identifier: Apache-2.0
"""What an image brings to boot from, found in its tree before `/boot` is emptied. Nothing is read here.

    /boot/EFI/Linux/<name>.efi                                a unified kernel image (UKI); preferred
    /boot/EFI/Linux/<name>.efi.extra.d/<addon>.addon.efi      its addons
    /boot/<name>.dump                                         the tree that its digest is of, for comparison
    /usr/lib/modules/<kver>/{vmlinuz,initramfs.img}           a kernel and its initrd (type 1)

There must be exactly one UKI, or exactly one kernel with its initrd. UKIs beside the modules are left alone: what
distributions put there has a command line of its own, which knows nothing of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import NotBootable
from ..formats.osrelease import OsRelease
from ..formats.tree import Directory, Inode, RegularFile, Symlink

MODULES = b"/usr/lib/modules"
UKI_DIRECTORY = b"/boot/EFI/Linux"
BOOTC_PROGRAM = b"/usr/lib/bootc/initramfs-setup"
OUR_PROGRAM = b"/usr/lib/bootcd/bootcd-setup-root"
"""What mounts the root file system, in the initrd and, for the tools that make one, in the image."""
_EFI = b".efi"
_ADDON = b".addon.efi"
_DUMP = b".dump"
_EXTRA = b".extra.d"
_LINKS = 40
"""How many symbolic links the kernel follows in one path."""
_OS_RELEASE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Uki:
    """A UKI of the image: `name` is its file name, `addons` maps file names to files, in order. `dump` is the tree that
    its digest was computed from, where the builder left that (bootc: container ukify --write-dumpfile-to)."""

    name: str
    file: RegularFile
    addons: dict[str, RegularFile]
    dump: RegularFile | None = None


@dataclass(frozen=True, slots=True)
class BootResources:
    """Either `uki` is set, or `vmlinuz` and `initrd` are. `kver` is the kernel's version where the tree tells it."""

    kver: str | None = None
    vmlinuz: RegularFile | None = None
    initrd: RegularFile | None = None
    uki: Uki | None = None

    @property
    def size(self) -> int:
        """Bytes that go to the boot partition."""
        if self.uki is not None:
            return self.uki.file.size + sum(addon.size for addon in self.uki.addons.values())
        return sum(file.size for file in (self.vmlinuz, self.initrd) if file is not None)


def find_boot_resources(root: Directory) -> BootResources:
    """Raises NotBootable, naming all candidates, when there is nothing or more than one thing to boot."""
    uki = _find_uki(root)
    kernels = find_kernels(root)
    if uki is not None:
        return BootResources(_text(kernels[0][0]) if len(kernels) == 1 else None, uki=uki)
    if not kernels:
        raise NotBootable(f"the image has neither a kernel in {_text(MODULES)} nor a UKI in {_text(UKI_DIRECTORY)}")
    if len(kernels) > 1:
        names = ", ".join(_text(name) for name, _ in kernels)
        raise NotBootable(f"the image has {len(kernels)} kernels in {_text(MODULES)}: {names}",
                          advice="Build the image with exactly one kernel.")
    name, directory = kernels[0]
    kver = _text(name)
    here = f"{_text(MODULES)}/{kver}"
    vmlinuz = _regular(directory.entries[b"vmlinuz"], f"{here}/vmlinuz")
    initramfs = directory.entries.get(b"initramfs.img")
    if initramfs is None:
        raise NotBootable(f"kernel {kver} of the image has no {here}/initramfs.img",
                          advice="Build the initramfs into the image, for example with 'dracut --no-hostonly'.")
    return BootResources(kver, vmlinuz, _regular(initramfs, f"{here}/initramfs.img"))


def initrd_of_bootc(root: Directory) -> bool:
    """Whether the initrd of an image has bootc's program and not ours, told by what the image itself has of the two: it
    is from there that dracut takes them."""
    return root.lookup(BOOTC_PROGRAM) is not None and root.lookup(OUR_PROGRAM) is None


def os_release(root: Directory, read_file: Callable[[RegularFile], bytes]) -> OsRelease:
    """What the image says of itself in `/etc/os-release` or, failing that, `/usr/lib/os-release`; empty when nothing.

    Links are followed inside the tree.
    """
    for path in (b"/etc/os-release", b"/usr/lib/os-release"):
        node = resolve(root, path)
        if isinstance(node, RegularFile) and node.size <= _OS_RELEASE_MAX:
            return OsRelease.parse(read_file(node))
    return OsRelease()


def resolve(root: Directory, path: bytes) -> Inode | None:
    """The inode at `path`, symbolic links followed as in a chroot; None where it leads nowhere or in circles."""
    trail: list[Directory] = []
    here: Inode = root
    rest = path.split(b"/")[::-1]
    links = 0
    while rest:
        part = rest.pop()
        if not part or part == b".":
            continue
        if not isinstance(here, Directory):
            return None
        if part == b"..":
            here = trail.pop() if trail else root
            continue
        child = here.entries.get(part)
        if child is None:
            return None
        if isinstance(child, Symlink):
            links += 1
            if links > _LINKS:
                return None
            if child.target.startswith(b"/"):
                trail, here = [], root
            rest.extend(child.target.split(b"/")[::-1])
            continue
        trail.append(here)
        here = child
    return here


def find_ukis(root: Directory) -> list[tuple[bytes, Inode]]:
    """What is called like a UKI where UKIs are."""
    directory = root.directory(UKI_DIRECTORY)
    return [(name, node) for name, node in directory.sorted_entries()
            if name.lower().endswith(_EFI) and not name.lower().endswith(_ADDON)] if directory else []


def _find_uki(root: Directory) -> Uki | None:
    directory = root.directory(UKI_DIRECTORY)
    found = find_ukis(root)
    if directory is None or not found:
        return None
    if len(found) > 1:
        names = ", ".join(_text(name) for name, _ in found)
        raise NotBootable(f"the image has {len(found)} UKIs in {_text(UKI_DIRECTORY)}: {names}",
                          advice="Build the image with exactly one UKI.")
    name, node = found[0]
    here = f"{_text(UKI_DIRECTORY)}/{_text(name)}"
    addons: dict[str, RegularFile] = {}
    extra = directory.entries.get(name + _EXTRA)
    for addon, file in extra.sorted_entries() if isinstance(extra, Directory) else ():
        if addon.lower().endswith(_ADDON):
            addons[_file_name(addon, f"{here}.extra.d")] = _regular(file, f"{here}.extra.d/{_text(addon)}")
    dump = root.lookup(b"/boot/" + name[: -len(_EFI)] + _DUMP)
    return Uki(_file_name(name, _text(UKI_DIRECTORY)), _regular(node, here), addons,
               dump if isinstance(dump, RegularFile) else None)


def find_kernels(root: Directory) -> list[tuple[bytes, Directory]]:
    """The directories of modules that have a kernel, with their versions."""
    modules = root.directory(MODULES)
    return [(name, node) for name, node in modules.sorted_entries()
            if isinstance(node, Directory) and b"vmlinuz" in node.entries] if modules else []


def _regular(node: Inode, path: str) -> RegularFile:
    if not isinstance(node, RegularFile):
        raise NotBootable(f"{path} of the image is no regular file")
    return node


def _file_name(name: bytes, where: str) -> str:
    """`name`, if a FAT file system can hold it."""
    text = _text(name)
    if not text.isascii() or any(char in '"*/:<>?\\|' or not char.isprintable() for char in text):
        raise NotBootable(f"{where}/{text} of the image has a name that the boot partition cannot hold")
    return text


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")

