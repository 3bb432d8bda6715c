# SPDX-License-Identifier: Apache-2.0
"""What the root directory of an image would make a machine boot."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..boot import kargs
from ..boot.discover import Uki, find_boot_resources, os_release
from ..errors import NotBootable
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm
from ..formats.selabel import policy_type
from ..formats.tree import RegularFile
from .chain import signature_in
from .lints.subject import Subject, text
from .results import SignatureInfo


@dataclass(frozen=True, slots=True)
class ImageKernel:
    """A kernel beside its modules; sizes in bytes, 0 for an initrd that is not there."""

    version: str
    size: int
    initrd_size: int


@dataclass(frozen=True, slots=True)
class ImageUki:
    """A UKI; `size` in bytes, `digests` are those that its command line names, `addons` their names."""

    name: str
    size: int
    kernel_version: str
    cmdline: str
    digests: tuple[str, ...]
    signature: SignatureInfo
    addons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RootfsReport:
    """What an image is. `boots` is split, uki, or empty when there is nothing or too much to boot, which `problem`
    tells. `initrd_program` is bootcd, bootc, none, or unknown; `kargs` are those of kargs.d for this architecture;
    `selinux` is the type of the policy. `digest` is what a machine will compute, `karg` the kernel argument for it;
    `sealed` says whether the UKI names it, None without UKI. `boot_size` are the bytes that go to the boot
    partition."""

    title: str
    os_id: str
    version: str
    boots: str
    problem: str
    kernels: tuple[ImageKernel, ...]
    uki: ImageUki | None
    initrd_program: str
    kargs: tuple[str, ...]
    boot_size: int
    selinux: str
    digest: str
    karg: str
    sealed: bool | None


def inspect(subject: Subject) -> RootfsReport:
    """Raises ConfigError for kernel arguments and PolicyError for a policy that cannot be understood, PeError and
    BootEntryError for a UKI, NotBootable when the tree has no digest, and BootcdError for what cannot be read."""
    root, tree = subject.root, subject.tree
    problem, size = "", 0
    boots = ""
    try:
        found = find_boot_resources(tree)
        boots, size = "uki" if found.uki is not None else "split", found.size
    except NotBootable as error:
        problem = str(error)
    release = os_release(tree, root.read)
    seals = subject.seals
    digest = seals.digest(Version.V1, Algorithm.SHA512)
    uki, sealed = None, None
    if subject.uki is not None:
        uki = _uki(subject, subject.uki)
        named = kargs.find_kargs(uki.cmdline)
        sealed = bool(named) and not any(seals.stale(named))
    return RootfsReport(
        title=release.title, os_id=release.first("ID") or "", version=release.version or "", boots=boots,
        problem=problem, kernels=tuple(_kernels(subject)), uki=uki, initrd_program=subject.initrd_program,
        kargs=tuple(kargs.image_kargs(tree, root.read, subject.architecture)), boot_size=size,
        selinux=policy_type(tree, root.read) or "", digest=digest.hex(),
        karg=kargs.karg_for(digest, Version.V1, Algorithm.SHA512, secure=True),
        sealed=sealed)


def _kernels(subject: Subject) -> list[ImageKernel]:
    found = []
    for name, directory in subject.kernels:
        sizes = [node.size if isinstance(node, RegularFile) else 0
                 for node in (directory.entries.get(b"vmlinuz"), directory.entries.get(b"initramfs.img"))]
        found.append(ImageKernel(text(name), *sizes))
    return found


def _uki(subject: Subject, uki: Uki) -> ImageUki:
    pe = subject.pe
    assert pe is not None
    texts = {name: pe.text(name).strip() if name in pe.sections else "" for name in (".cmdline", ".uname")}
    descriptor = subject.root.open(uki.file)
    try:
        signature = signature_in(descriptor, uki.file.size, uki.name)
    finally:
        os.close(descriptor)
    return ImageUki(uki.name, uki.file.size, texts[".uname"], texts[".cmdline"],
                    tuple(karg.digest.hex() for karg in kargs.find_kargs(texts[".cmdline"])), signature,
                    tuple(uki.addons))
