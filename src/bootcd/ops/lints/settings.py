# SPDX-License-Identifier: Apache-2.0
"""Lints of settings in the image: kernel arguments, rules, policies, and what changes for the machines that have it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...boot.discover import resolve
from ...boot.kargs import KARGS_DIRECTORIES, MAX_KARGS, ROOT_KEY, is_composefs, parse_kargs_file, split_cmdline
from ...deploy.etcrules import IMAGE_DIRECTORY, parse_rules
from ...errors import BootcdError, ConfigError, PolicyError
from ...formats.osrelease import OsRelease
from ...formats.selabel import policy_type
from ...formats.tree import Inode, RegularFile, Symlink
from .subject import Found, Subject, text

_REPEATED = re.compile(
    r"(?:console|earlycon|earlyprintk|netconsole|ip|nameserver|ifname|vlan|bond|bridge|video|memmap|hugepages|hugepagesz|"
    r"crashkernel|dyndbg|trace_event|acpi_osi|module_blacklist|modprobe\.blacklist|blacklist|rd\..*|systemd\..*|luks\..*|"
    r"initrd|dm-mod\..*|udev\..*|pci|usbcore\.quirks|isolcpus|.*\.dyndbg|mitigations)")
"""Arguments that one may give several times with different values."""
_OPPOSITES = ({"ro", "rw"}, {"quiet", "debug"}, {"splash", "nosplash"}, {"nosmt", "smt"})


def bootc_kargs(subject: Subject) -> Iterator[Found]:
    for path, node in _kargs_files(subject):
        if not isinstance(node, RegularFile):
            yield Found(path, "is no regular file")
            continue
        try:
            parse_kargs_file(subject.root.read(node), subject.architecture, text(path))
        except ConfigError as error:
            yield Found(path, str(error).removeprefix(f"{text(path)}: "))


def kargs_conflict(subject: Subject) -> Iterator[Found]:
    """Arguments that speak against each other, and those that belong to a machine."""
    first: dict[str, tuple[str, bytes]] = {}
    size = 0
    for path, arguments in _kargs(subject):
        for argument in arguments:
            key = argument.partition("=")[0]
            size += len(argument.encode()) + 1
            if argument.startswith(ROOT_KEY):
                yield Found(path, f"asks for {argument}, but each machine finds its own root file system")
            for other, where in first.values():
                if any(pair == {argument, other} for pair in _OPPOSITES):
                    yield Found(path, f"asks for {argument}, but {text(where)} asks for {other}")
            before = first.get(key)
            if before is not None and before[0] != argument and not _REPEATED.fullmatch(key):
                yield Found(path, f"asks for {argument}, but {text(before[1])} asks for {before[0]}")
            first.setdefault(key, (argument, path))
        if size > MAX_KARGS:
            yield Found(path, f"makes {size} bytes of kernel arguments, a kernel takes {MAX_KARGS}")
            return


def uki_kargs(subject: Subject) -> Iterator[Found]:
    """The command line of a UKI is sealed: what was not put into it has no effect."""
    try:
        pe = subject.pe
        if pe is None or ".cmdline" not in pe.sections:
            return
        sealed = split_cmdline(pe.text(".cmdline"))
    except BootcdError:  # which another lint tells
        return
    for path, arguments in _kargs(subject):
        for argument in arguments:
            if argument not in sealed:
                yield Found(path, f"asks for {argument}, which is not in the UKI")


def _kargs(subject: Subject) -> Iterator[tuple[bytes, list[str]]]:
    """The arguments that each file adds; a file that cannot be understood has none."""
    for path, node in _kargs_files(subject):
        if isinstance(node, RegularFile):
            try:
                arguments = parse_kargs_file(subject.root.read(node), subject.architecture, text(path))
            except ConfigError:
                continue
            yield path, [argument for argument in arguments if not is_composefs(argument)]


def _kargs_files(subject: Subject) -> Iterator[tuple[bytes, Inode]]:
    for directory in KARGS_DIRECTORIES:
        found = subject.tree.directory(directory)
        for name, node in found.sorted_entries() if found is not None else ():
            if name.endswith(b".toml"):
                yield directory + b"/" + name, node


def etc_rules(subject: Subject) -> Iterator[Found]:
    for path, node in subject.files(b"/" + IMAGE_DIRECTORY, b".toml"):
        try:
            _, warnings = parse_rules(subject.root.read(node), text(path), machine=False)
        except ConfigError as error:
            yield Found(path, str(error).removeprefix(f"{text(path)}: "))
            continue
        yield from (Found(path, one.removeprefix(f"{text(path)}: ")) for one in warnings)


def selinux_policy(subject: Subject) -> Iterator[Found]:
    try:
        policy_type(subject.tree, subject.root.read)
    except PolicyError as error:
        yield Found(b"/etc/selinux", str(error))


def os_release(subject: Subject) -> Iterator[Found]:
    for path in (b"/etc/os-release", b"/usr/lib/os-release"):
        node = resolve(subject.tree, path)
        if isinstance(node, RegularFile):
            found = OsRelease.parse(subject.root.read(node))
            if found.first("PRETTY_NAME", "NAME", "ID") is None or found.version is None:
                yield Found(path, "has no name or no version")
            return
    yield Found(b"/usr/lib/os-release", "does not exist")


def etc_types(subject: Subject) -> Iterator[Found]:
    """Where the merge of /etc would have to decide between kinds of files."""
    if subject.previous is None:
        return
    before, after = subject.previous.directory(b"/etc"), subject.tree.directory(b"/etc")
    for path, node in before.walk(b"/etc") if before is not None and after is not None else ():
        now = subject.tree.lookup(path)
        if now is not None and _kind(now) != _kind(node):
            yield Found(path, f"is a {_kind(now)}, in the previous image it is a {_kind(node)}")


def _kind(node: Inode) -> str:
    if isinstance(node, RegularFile):
        return "file"
    return "link" if isinstance(node, Symlink) else type(node).__name__.lower()
