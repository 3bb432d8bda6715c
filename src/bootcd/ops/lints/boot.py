# SPDX-License-Identifier: Apache-2.0
"""Lints of what a machine boots from: kernel, initrd, UKI with its digest and its signature, room for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from ...boot.discover import MODULES, UKI_DIRECTORY, find_boot_resources
from ...boot.kargs import find_kargs
from ...errors import BootcdError, NotBootable, PolicyError
from ...formats.tree import Directory, RegularFile
from ..chain import signature_in
from .subject import Found, Subject, text

_DRIVERS = (b"erofs", b"overlay")


def kernel(subject: Subject) -> Iterator[Found]:
    if len(subject.ukis) > 1:
        names = ", ".join(text(name) for name, _ in subject.ukis)
        yield Found(UKI_DIRECTORY, f"has {len(subject.ukis)} UKIs: {names}")
    if len(subject.kernels) > 1:
        names = ", ".join(text(name) for name, _ in subject.kernels)
        yield Found(MODULES, f"has {len(subject.kernels)} kernels: {names}")


def kernel_missing(subject: Subject) -> Iterator[Found]:
    if not subject.kernels and not subject.ukis:
        yield Found(MODULES, f"has no kernel, and {text(UKI_DIRECTORY)} has no UKI")
        return
    if subject.ukis:
        try:
            find_boot_resources(subject.tree)
        except NotBootable as error:
            if len(subject.ukis) == 1:
                yield Found(UKI_DIRECTORY, f"cannot be used: {error}")
        return
    for version, directory in subject.kernels:
        if not isinstance(directory.entries[b"vmlinuz"], RegularFile):
            yield Found(MODULES + b"/" + version + b"/vmlinuz", "is no regular file")


def initramfs_missing(subject: Subject) -> Iterator[Found]:
    for version, directory in subject.kernels if not subject.ukis else ():
        node = directory.entries.get(b"initramfs.img")
        if not isinstance(node, RegularFile):
            yield Found(MODULES + b"/" + version + b"/initramfs.img",
                        "does not exist" if node is None else "is no regular file")


def initrd_unreadable(subject: Subject) -> Iterator[Found]:
    if subject.initrd is not None and isinstance(subject.initrd[1], str):
        yield Found(subject.initrd[0], f"cannot be looked into: {subject.initrd[1]}")


def initrd_program(subject: Subject) -> Iterator[Found]:
    if subject.initrd_program == "none":
        yield Found(_initrd_path(subject), "has neither bootcd-setup-root nor the program of bootc")


def initrd_drivers(subject: Subject) -> Iterator[Found]:
    names = _initrd_names(subject)
    if names is None or len(subject.kernels) > 1:
        return
    built_in = _built_in(subject)
    if built_in is None:
        return
    for driver in _DRIVERS:
        there = re.compile(rb"(?:^|/)" + driver + rb"\.ko(?:\.\w+)?$")
        if driver not in built_in and not any(there.search(name) for name in names):
            yield Found(_initrd_path(subject), f"lacks the driver {text(driver)}, which is not part of the kernel")


def _initrd_names(subject: Subject) -> frozenset[bytes] | None:
    return subject.initrd[1] if subject.initrd is not None and not isinstance(subject.initrd[1], str) else None


def _initrd_path(subject: Subject) -> bytes:
    assert subject.initrd is not None
    return subject.initrd[0]


def _built_in(subject: Subject) -> set[bytes] | None:
    """The drivers in the kernel itself; None when the image does not tell."""
    modules = subject.tree.directory(MODULES)
    every = [node for node in modules.entries.values() if isinstance(node, Directory)] if modules is not None else []
    lists = [node.entries.get(b"modules.builtin") for node in ([node for _, node in subject.kernels] or every)]
    if len(lists) != 1 or not isinstance(lists[0], RegularFile):
        return None
    return {line.rpartition(b"/")[2].partition(b".ko")[0] for line in subject.root.read(lists[0]).split()}


def esp_budget(subject: Subject) -> Iterator[Found]:
    if not subject.esp_budget:
        return
    try:
        found = find_boot_resources(subject.tree)
    except NotBootable:
        return
    if found.size > subject.esp_budget:
        if found.uki is not None:
            where, parts = UKI_DIRECTORY, [("the UKI", found.uki.file), *found.uki.addons.items()]
        else:
            assert found.vmlinuz is not None
            assert found.initrd is not None
            where = MODULES + b"/" + (found.kver or "").encode()
            parts = [("the kernel", found.vmlinuz), ("the initrd", found.initrd)]
        sizes = ", ".join(f"{name} {file.size}" for name, file in parts)
        yield Found(where, f"takes {found.size} bytes of the boot partition ({sizes}), the budget is "
                    f"{subject.esp_budget}")


def uki_malformed(subject: Subject) -> Iterator[Found]:
    if subject.uki is None:
        return
    where = _uki_path(subject.uki.name)
    try:
        pe = subject.pe
        assert pe is not None
        for section in (".linux", ".initrd", ".cmdline"):
            if section not in pe.sections:
                yield Found(where, f"has no section {section}")
        if ".cmdline" in pe.sections:
            find_kargs(pe.text(".cmdline"))
    except BootcdError as error:
        yield Found(where, f"cannot be used: {error}")


def uki_unsigned(subject: Subject) -> Iterator[Found]:
    for where, state, _ in _signatures(subject):
        if state == "absent":
            yield Found(where, "has no signature")


def uki_signature(subject: Subject) -> Iterator[Found]:
    for where, state, problem in _signatures(subject):
        if state == "broken":
            yield Found(where, f"has a signature that does not count: {problem}")


def _signatures(subject: Subject) -> Iterator[tuple[bytes, str, str]]:
    """The path of the UKI, and of each addon, with the state of its signature and what is wrong with it."""
    if subject.uki is None:
        return
    path = _uki_path(subject.uki.name)
    for where, file in ((path, subject.uki.file), *((path + b".extra.d/" + name.encode(), addon)
                                                    for name, addon in subject.uki.addons.items())):
        descriptor = subject.root.open(file)
        try:
            found = signature_in(descriptor, file.size, text(where))
        except BootcdError:  # what `uki_malformed` tells
            continue
        finally:
            os.close(descriptor)
        yield where, found.state, found.problem


def uki_digest(subject: Subject) -> Iterator[Found]:
    """Every digest that the command line names must be one of the tree as it is now."""
    if subject.uki is None:
        return
    where = _uki_path(subject.uki.name)
    try:
        pe = subject.pe
        assert pe is not None
        named = find_kargs(pe.text(".cmdline"))
    except BootcdError:
        return
    if not named:
        yield Found(where, "names no composefs digest, so that nothing seals the root file system")
        return
    try:
        for karg, real in subject.seals.stale(named):
            yield Found(where, f"is stale: it names {karg.digest.hex()[:12]}, the tree has {real.hex()[:12]}")
    except (NotBootable, PolicyError):  # which other lints tell
        return


def _uki_path(name: str) -> bytes:
    return UKI_DIRECTORY + b"/" + name.encode()
