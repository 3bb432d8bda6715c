# SPDX-License-Identifier: Apache-2.0
"""Remove a tree that may hold what chattr(1) has made immutable, which stops even root."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
IMMUTABLE, APPEND_ONLY = 0x10, 0x20
_LENGTH = 8  # the number of the call speaks of a long, the kernel uses an int of it


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, or a file; it is no error when there is nothing. Raises OSError."""
    # rmtree does not follow symlinks and works by descriptors, so that content cannot lead it astray.
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        try:
            shutil.rmtree(path)
        except PermissionError:
            clear(path)
            shutil.rmtree(path)


def clear(path: Path) -> None:
    """Take `immutable` and `append only` off a directory and all below it, without following links. What does not have
    attributes, or cannot be changed, is passed over."""
    for _, _, names, descriptor in os.fwalk(path, topdown=True, follow_symlinks=False):
        _clear(descriptor)
        for name in names:
            with suppress(OSError):
                if not stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    continue  # to open a device may do something
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = os.open(name, flags, dir_fd=descriptor)
                try:
                    _clear(file)
                finally:
                    os.close(file)


def _clear(descriptor: int) -> None:
    with suppress(OSError):
        value = bytearray(_LENGTH)
        fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, value, True)
        flags = int.from_bytes(value[:4], sys.byteorder)
        if flags & (IMMUTABLE | APPEND_ONLY):
            value[:4] = (flags & ~(IMMUTABLE | APPEND_ONLY)).to_bytes(4, sys.byteorder)
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, value)
