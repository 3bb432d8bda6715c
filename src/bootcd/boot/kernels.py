# SPDX-License-Identifier: Apache-2.0
"""Kernels, initrds and UKIs on the boot partition, all in `EFI/bootcd`.

    <boot digest>/{vmlinuz,initrd}        shared by every deployment that has the same pair
    <id>.efi                              the UKI of the deployment <id>
    <id>.efi.extra.d/<name>.addon.efi     its addons, where systemd-stub looks for them

The boot digest is the SHA-256, in hex, of vmlinuz followed by initrd (for a UKI: of its sections .linux and .initrd),
as in bootc. It is computed again while copying, so a pair is never found under a digest that is not its own.

A file that has its name is complete (see `esp`), so a pair is there when both files are, in their right sizes. What an
interrupted copy leaves is completed by the next one or removed as unreferenced.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from ..errors import ObjectMismatch
from ..formats.fsverity import Algorithm
from ..formats.pe import Pe
from ..linux.files import translate
from .esp import KERNELS, Esp
from .kargs import ComposefsKarg, choose_karg

VMLINUZ = "vmlinuz"
INITRD = "initrd"
_EXTRA = ".extra.d"
_PAIR = re.compile(r"[0-9a-f]{64}")
_UKI = re.compile(r"([0-9a-f]{64}|[0-9a-f]{128})\.efi")
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """Something to copy: its size in bytes, and how to read it from the start, each time anew."""

    size: int
    chunks: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, data: bytes | memoryview) -> Content:
        view = memoryview(data).cast("B")
        return cls(len(view), lambda: (bytes(view[at : at + _STEP]) for at in range(0, len(view), _STEP)))


@dataclass(frozen=True, slots=True)
class InstalledKernel:
    """One name in `EFI/bootcd`: a boot digest, or `<id>.efi`. `size` counts everything that goes with it."""

    name: str
    size: int
    complete: bool
    is_uki: bool


@dataclass(frozen=True, slots=True)
class KernelListing:
    """What is in `EFI/bootcd`. `stray` are directories of addons whose UKI is not there."""

    kernels: list[InstalledKernel] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)


def boot_digest(vmlinuz: Iterable[bytes], initrd: Iterable[bytes]) -> str:
    """The name that a pair gets."""
    digest = hashlib.sha256()
    for chunk in chain(vmlinuz, initrd):
        digest.update(chunk)
    return digest.hexdigest()


def pair_directory(digest: str) -> str:
    """Where the pair of a boot digest lies, relative to the partition."""
    return f"{KERNELS}/{digest}"


def uki_path(deployment: str) -> str:
    """Where the UKI of a deployment lies, relative to the partition."""
    return f"{KERNELS}/{deployment}.efi"


def needed(esp: Esp, sizes: Iterable[int]) -> int:
    """Bytes of the partition that a set of new files takes, with a directory for them."""
    return esp.occupied(*sizes, 1, 1)


def has_kernel(esp: Esp, digest: str, vmlinuz_size: int, initrd_size: int) -> bool:
    """Whether the pair is there in full."""
    here = pair_directory(digest)
    return esp.size(f"{here}/{VMLINUZ}") == vmlinuz_size and esp.size(f"{here}/{INITRD}") == initrd_size


def replace_kernel(esp: Esp, digest: str, vmlinuz: Content, initrd: Content) -> int:
    """Make a pair that is there, whole or damaged, what its name says; returns the bytes written.

    Only the files that differ are written, each beside the old one, which is there until the new one takes its name:
    what may be the only kernel that boots is never removed first. Raises EspFull when there is no room for that, and
    ObjectMismatch, before anything is written, when the content does not have that digest.
    """
    here = pair_directory(digest)
    found = boot_digest(vmlinuz.chunks(), initrd.chunks())
    if found != digest:
        raise ObjectMismatch(f"kernel and initrd for {esp.join(here)} have the boot digest {found}")
    differing = _differing(esp, {f"{here}/{VMLINUZ}": vmlinuz, f"{here}/{INITRD}": initrd})
    esp.make_directory(here)
    return sum(esp.write(place, content.chunks(), content.size) for place, content in differing.items())


def install_kernel(esp: Esp, digest: str, vmlinuz: Content, initrd: Content) -> int:
    """Copy a pair unless it is there; returns the bytes written.

    Raises EspFull before anything is written when there is no room, and ObjectMismatch when the content does not have
    that digest; a new directory is then removed again.
    """
    if has_kernel(esp, digest, vmlinuz.size, initrd.size):
        return 0
    here = pair_directory(digest)
    new = not esp.names(here)
    if not new and needed(esp, [vmlinuz.size, initrd.size]) > esp.free():
        # Half a pair, which nothing can boot from, must not be what keeps the whole one out.
        esp.remove(here)
        new = True
    esp.require(needed(esp, [vmlinuz.size, initrd.size]), f"kernel {digest[:12]} with its initrd")
    esp.make_directory(here)
    seen = hashlib.sha256()
    try:
        esp.write(f"{here}/{VMLINUZ}", _hashed(vmlinuz, seen), vmlinuz.size)
        esp.write(f"{here}/{INITRD}", _checked(initrd, seen, digest, esp.join(here)), initrd.size)
    except BaseException:
        if new:
            esp.remove(here)
        raise
    return vmlinuz.size + initrd.size


def copy_kernel(source: Esp, target: Esp, name: str) -> int:
    """Copy a kernel, or a UKI with its addons, from one partition to another; returns the bytes written.

    Raises what installing it raises. A UKI whose content differs is replaced.
    """
    path = f"{KERNELS}/{name}"

    def content(place: str) -> Content:
        return Content(source.size(place) or 0, lambda: source.chunks(place))

    if _PAIR.fullmatch(name):
        return install_kernel(target, name, content(f"{path}/{VMLINUZ}"), content(f"{path}/{INITRD}"))
    addons = {addon: content(f"{path}{_EXTRA}/{addon}") for addon in source.names(f"{path}{_EXTRA}")}
    return install_uki(target, name.removesuffix(".efi"), content(path), addons)


def verify_kernel(esp: Esp, digest: str) -> bool:
    """Read a pair back and compare it with its name."""
    here = pair_directory(digest)
    if esp.size(f"{here}/{VMLINUZ}") is None or esp.size(f"{here}/{INITRD}") is None:
        return False
    return boot_digest(esp.chunks(f"{here}/{VMLINUZ}"), esp.chunks(f"{here}/{INITRD}")) == digest


def install_uki(esp: Esp, deployment: str, uki: Content, addons: Mapping[str, Content]) -> int:
    """Copy a UKI and its addons, whatever of them is not there with the same content; returns the bytes written.

    The addons come first: a UKI that is seen has all of them. Sizes do not tell two builds of a UKI apart, hence the
    comparison. Raises EspFull before anything is written.
    """
    path = uki_path(deployment)
    missing = _differing(esp, _places(deployment, uki, addons))
    if not missing:
        return 0
    esp.require(needed(esp, [content.size for content in missing.values()]), f"the UKI of {deployment[:12]}")
    before = set(esp.names(KERNELS))
    esp.make_directory(KERNELS)
    if addons:
        esp.make_directory(path + _EXTRA)
    try:
        for place, content in missing.items():
            esp.write(place, content.chunks(), content.size)
    except BaseException:
        if f"{deployment}.efi" not in before:
            esp.remove(path + _EXTRA)
        raise
    return sum(content.size for content in missing.values())


def verify_uki(esp: Esp, deployment: str, uki: Content, addons: Mapping[str, Content]) -> bool:
    """Read a UKI and its addons back and compare them with what they should be."""
    return not _differing(esp, _places(deployment, uki, addons))


def list_kernels(esp: Esp) -> KernelListing:
    """Everything of ours in `EFI/bootcd`; names that we would not have made are passed over."""
    kernels: list[InstalledKernel] = []
    stray: list[str] = []
    names = esp.names(KERNELS)
    ukis = {name for name in names if _UKI.fullmatch(name) and esp.size(f"{KERNELS}/{name}") is not None}
    for name in names:
        path = f"{KERNELS}/{name}"
        if _PAIR.fullmatch(name):
            vmlinuz, initrd = esp.size(f"{path}/{VMLINUZ}"), esp.size(f"{path}/{INITRD}")
            complete = vmlinuz is not None and initrd is not None
            kernels.append(InstalledKernel(name, (vmlinuz or 0) + (initrd or 0), complete, is_uki=False))
        elif name in ukis:
            extra = f"{path}{_EXTRA}"
            size = (esp.size(path) or 0) + sum(esp.size(f"{extra}/{addon}") or 0 for addon in esp.names(extra))
            kernels.append(InstalledKernel(name, size, complete=True, is_uki=True))
        elif name.endswith(_EXTRA) and _UKI.fullmatch(name[: -len(_EXTRA)]) and name[: -len(_EXTRA)] not in ukis:
            stray.append(name)
    return KernelListing(kernels, stray)


def remove_kernel(esp: Esp, name: str) -> int:
    """Remove a kernel or a UKI with its addons, by its name in `EFI/bootcd`; returns the bytes freed.

    Names that are not ours are left alone.
    """
    if _PAIR.fullmatch(name) or (name.endswith(_EXTRA) and _UKI.fullmatch(name[: -len(_EXTRA)])):
        return esp.remove(f"{KERNELS}/{name}")
    if _UKI.fullmatch(name):
        return esp.remove(f"{KERNELS}/{name}") + esp.remove(f"{KERNELS}/{name}{_EXTRA}")
    return 0


def kernel_of(path: str) -> str | None:
    """The name in `EFI/bootcd` that a path of a boot entry belongs to, None for a path elsewhere.

    FAT and firmware do not know upper from lower case, and accept backslashes.
    """
    parts = [part for part in path.replace("\\", "/").lower().split("/") if part not in ("", ".")]
    if parts[:2] != KERNELS.lower().split("/") or len(parts) < 3:
        return None
    return parts[2].removesuffix(_EXTRA)


def uki_digest(pe: Pe, algorithm: Algorithm) -> ComposefsKarg | None:
    """The image that a UKI (its first profile) boots from a repository of `algorithm`: of several that its command line
    names, the one that the initrd goes by.

    None when it names none. Raises PeError, and BootEntryError for a malformed argument.
    """
    return choose_karg(pe.text(".cmdline"), algorithm) if ".cmdline" in pe.sections else None


def uki_boot_digest(pe: Pe) -> str:
    """The boot digest of the kernel and initrd inside a UKI. Raises PeError when one is missing."""
    return boot_digest(_pieces(pe.section(".linux")), _pieces(pe.section(".initrd")))


def pcr_key(esp: Esp, deployment: str) -> bytes:
    """The public key, in PEM, of the signatures in the UKI of a deployment of what it is measured as; empty when it has
    none, or there is no UKI. Raises PeError."""
    path = uki_path(deployment)
    if not esp.size(path):
        return b""
    with translate(f"cannot read {esp.join(path)}"), open(esp.join(path), "rb") as file:
        pe = Pe.parse(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), path)
    return bytes(pe.section(".pcrpkey")) if ".pcrpkey" in pe.sections else b""


def _pieces(view: memoryview) -> Iterator[bytes]:
    return Content.of(view).chunks()


def _hashed(content: Content, digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in content.chunks():
        digest.update(chunk)
        yield chunk


def _checked(content: Content, digest: hashlib._Hash, expected: str, where: str) -> Iterator[bytes]:
    """The last of the files: its end is reached before it gets its name."""
    yield from _hashed(content, digest)
    if digest.hexdigest() != expected:
        raise ObjectMismatch(f"{where}: kernel and initrd have the boot digest {digest.hexdigest()}")


def _places(deployment: str, uki: Content, addons: Mapping[str, Content]) -> dict[str, Content]:
    path = uki_path(deployment)
    return {**{f"{path}{_EXTRA}/{name}": content for name, content in addons.items()}, path: uki}


def _differing(esp: Esp, wanted: Mapping[str, Content]) -> dict[str, Content]:
    """Those that are not on the partition with the same content."""
    return {place: content for place, content in wanted.items() if not _same(esp, place, content)}


def _same(esp: Esp, path: str, content: Content) -> bool:
    if esp.size(path) != content.size:
        return False
    digests = [hashlib.sha256(), hashlib.sha256()]
    for digest, chunks in zip(digests, (esp.chunks(path), content.chunks()), strict=True):
        for chunk in chunks:
            digest.update(chunk)
    return digests[0].digest() == digests[1].digest()
