# SPDX-License-Identifier: Apache-2.0
"""What takes away a finding where that does no harm. Each gets the path that was found, and follows no link."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from ...errors import BootcdError
from ...linux import files
from ..rootfs import Rootfs
from .subject import Found, Subject


def remove(subject: Subject, found: Found) -> None:
    """Remove a file, or a directory with all that is in it."""
    path = _place(subject, found)
    with files.translate(f"cannot remove {path}"):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def make_directory(subject: Subject, found: Found) -> None:
    """Make a directory that does not exist; what is there instead of it stays."""
    path = _place(subject, found)
    if not os.path.lexists(path):
        with files.translate(f"cannot make {path}"):
            path.mkdir()
            path.chmod(0o1777 if path.name == "tmp" else 0o755)  # whatever the umask is


def empty(subject: Subject, found: Found) -> None:
    """Leave an empty file."""
    files.atomic_write(_place(subject, found), b"", stat.S_IMODE(_place(subject, found).lstat().st_mode), durable=False)


def empty_id(subject: Subject, found: Found) -> None:
    """Leave the file of the machine's id empty, so that each machine makes its own; remove a seed. A key is more than
    that: what removes it may need another that makes it."""
    if found.path == b"/etc/machine-id":
        empty(subject, found)
    elif found.path.endswith(b"/random-seed"):
        remove(subject, found)


def link_to_run(subject: Subject, found: Found) -> None:
    """Make an empty directory /var/run the link that it should be; what is in one that is not empty stays."""
    path = _place(subject, found)
    with files.translate(f"cannot replace {path}"):
        if any(path.iterdir()):
            return
        path.rmdir()
        path.symlink_to("../run")


def _place(subject: Subject, found: Found) -> Path:
    """Where that is, with parents that are directories and no links."""
    assert isinstance(subject.root, Rootfs)  # of an image, nothing is mended
    path = subject.root.path / os.fsdecode(found.path[1:])
    node = subject.root.path
    for part in path.relative_to(subject.root.path).parts[:-1]:
        node = node / part
        with files.translate(f"cannot change {path}"):
            if not stat.S_ISDIR(node.lstat().st_mode):
                raise BootcdError(f"cannot change {path}: {node} is no directory")
    return path
