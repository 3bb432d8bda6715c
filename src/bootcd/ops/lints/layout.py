# SPDX-License-Identifier: Apache-2.0
"""Lints of directories: what must be there, and what must not lie in them."""

from __future__ import annotations

import configparser
from collections.abc import Iterator

from ...formats.tree import BlockDevice, CharDevice, Device, Directory, Fifo, Inode, RegularFile, Socket, Symlink
from .subject import Found, Subject

API = (b"dev", b"proc", b"run", b"sys", b"tmp", b"var")
"""Directories on which every machine mounts something."""
_BY_TOOLS = {b"/run/.containerenv", b"/run/secrets"}
"""What containers tools put there while an image is built, and take away again; or leave empty."""
_PREPARE_ROOT = b"/usr/lib/ostree/prepare-root.conf"
_ENABLED = {"yes", "true", "1", "maybe", "signed", "verity"}


def usr(subject: Subject) -> Iterator[Found]:
    if not isinstance(subject.tree.entries.get(b"usr"), Directory):
        yield Found(b"/usr", "is no directory" if b"usr" in subject.tree.entries else "does not exist")


def api_base_directories(subject: Subject) -> Iterator[Found]:
    for name in API:
        yield from _directory(subject, name)


def baseimage_root(subject: Subject) -> Iterator[Found]:
    for name in (b"boot", b"sysroot"):
        yield from _directory(subject, name)
    ostree = subject.tree.entries.get(b"ostree")
    if ostree is not None and not (isinstance(ostree, Symlink) and ostree.target.strip(b"/") == b"sysroot/ostree"):
        yield Found(b"/ostree", "is no link to sysroot/ostree")


def _directory(subject: Subject, name: bytes) -> Iterator[Found]:
    node = subject.tree.entries.get(name)
    if not isinstance(node, Directory):
        yield Found(b"/" + name, "does not exist" if node is None else "is no directory")


def baseimage_composefs(subject: Subject) -> Iterator[Found]:
    node = subject.tree.lookup(_PREPARE_ROOT)
    if not isinstance(node, RegularFile):
        return
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(subject.root.read(node).decode("utf-8", "replace"))
    except configparser.Error as error:
        yield Found(_PREPARE_ROOT, f"cannot be understood: {str(error).splitlines()[0]}")
        return
    if parser.get("composefs", "enabled", fallback="no").strip().lower() not in _ENABLED:
        yield Found(_PREPARE_ROOT, "does not say enabled = yes in [composefs]")


def var_run(subject: Subject) -> Iterator[Found]:
    if isinstance(subject.tree.lookup(b"/var/run"), Directory):
        yield Found(b"/var/run", "is a directory instead of a link to ../run")


def etc_usretc(subject: Subject) -> Iterator[Found]:
    if subject.tree.lookup(b"/etc") is not None and subject.tree.lookup(b"/usr/etc") is not None:
        yield Found(b"/usr/etc", "is there beside /etc")


def utf8(subject: Subject) -> Iterator[Found]:
    for path, node in subject.tree.walk():
        if not _is_text(path.rpartition(b"/")[2]):
            yield Found(path, "has a name that is not UTF-8")
        if isinstance(node, Symlink) and not _is_text(node.target):
            yield Found(path, "leads to a name that is not UTF-8")


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def device_nodes(subject: Subject) -> Iterator[Found]:
    for path, node in subject.tree.walk():
        kind = _special(node)
        if kind and not path.startswith((b"/dev/", b"/run/", b"/proc/", b"/sys/")):  # where it is hidden
            yield Found(path, f"is a {kind}")


def _special(node: Inode) -> str:
    if isinstance(node, CharDevice) and node.is_whiteout:
        return "whiteout of overlayfs"
    if isinstance(node, Device):
        return "block device" if isinstance(node, BlockDevice) else "character device"
    return "socket" if isinstance(node, Socket) else "named pipe" if isinstance(node, Fifo) else ""


def nonempty_boot(subject: Subject) -> Iterator[Found]:
    """A UKI, its addons and the dump of its tree belong there."""
    boot = subject.tree.directory(b"/boot")
    names = {name.lower() for name, _ in subject.ukis}
    dumps = {name[: -len(b".efi")] + b".dump" for name in names}
    for name, node in boot.sorted_entries() if boot is not None else ():
        if name.lower() == b"efi" and isinstance(node, Directory):
            for below, child in node.sorted_entries():
                if below.lower() == b"linux" and isinstance(child, Directory):
                    for file, _ in child.sorted_entries():
                        if not file.lower().endswith((b".efi", b".extra.d")):
                            yield Found(b"/boot/" + name + b"/" + below + b"/" + file, "is no UKI")
                else:
                    yield Found(b"/boot/" + name + b"/" + below, "is not copied to any machine")
        elif name.lower() not in dumps:
            yield Found(b"/boot/" + name, "is not copied to any machine")


def nonempty_run_tmp(subject: Subject) -> Iterator[Found]:
    for parent in (b"/run", b"/tmp"):
        directory = subject.tree.directory(parent)
        for name, node in directory.sorted_entries() if directory is not None else ():
            path = parent + b"/" + name
            if any(point == path or point.startswith(path + b"/") for point in subject.root.mounted):
                continue  # which goes with the container
            if path in _BY_TOOLS and (subject.root.running or _is_empty(node)):
                continue
            yield Found(path, "is hidden on every machine")


def _is_empty(node: Inode) -> bool:
    if isinstance(node, Directory):
        return all(_is_empty(child) for child in node.entries.values())
    return isinstance(node, RegularFile) and not node.size


def var_log(subject: Subject) -> Iterator[Found]:
    log = subject.tree.directory(b"/var/log")
    for path, node in log.walk(b"/var/log") if log is not None else ():
        if isinstance(node, RegularFile) and node.size:
            yield Found(path, f"has {node.size} bytes that were logged while the image was built")


def buildah_injected(subject: Subject) -> Iterator[Found]:
    if subject.root.running:
        return  # buildah has mounted them, and takes them away again
    for path in (b"/etc/hostname", b"/etc/resolv.conf"):
        node = subject.tree.lookup(path)
        if isinstance(node, RegularFile) and not node.size:
            yield Found(path, "is empty, as containers tools leave it")
