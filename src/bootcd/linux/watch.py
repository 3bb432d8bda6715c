# SPDX-License-Identifier: Apache-2.0
"""Being told that something changed in a directory: inotify(7).

It says *that*, not *what*: a watcher looks for itself, since events get lost when there are too many.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from pathlib import Path

from .files import error_of

IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
IN_EXCL_UNLINK = 0x04000000
IN_NONBLOCK = os.O_NONBLOCK
IN_CLOEXEC = os.O_CLOEXEC

_MASK = (IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
         | IN_ONLYDIR | IN_EXCL_UNLINK)
_EVENT = struct.Struct("iIII")
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Directories that are watched. `fileno` is readable when something happened; then call `read`, and `add` again for
    what may have appeared or been replaced.

    A context manager. For a directory that is missing, the nearest one above it is watched, so that its appearing is
    told, too. That a file system is mounted over a directory is not: the kernel does not tell it. `add` may be called
    in a thread.
    """

    def __init__(self) -> None:
        fd = _libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
        if fd < 0:
            code = ctypes.get_errno()
            raise error_of("cannot watch directories", OSError(code, os.strerror(code)))
        self._fd: int = fd

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str | os.PathLike[str]) -> bool:
        """Watch a directory from now on; doing so again changes nothing. Returns whether it is there.

        Raises BootcdError when the kernel's limit of watches is reached.
        """
        path = Path(path)
        if self._add(path):
            return True
        for parent in path.parents:
            if self._add(parent):
                # It may have appeared between the two calls, without an event.
                return self._add(path)
        return False

    def read(self) -> bool:
        """Take note of all that happened. Returns whether anything but the end of a watch did: whoever looks at an
        automount because it was unmounted mounts it again."""
        happened = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 65536):
                while data:
                    _, mask, _, length = _EVENT.unpack_from(data)
                    happened = happened or not mask & (IN_UNMOUNT | IN_IGNORED)
                    data = data[_EVENT.size + length:]
        return happened

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, path: Path) -> bool:
        """The kernel knows a directory by its inode: one that is watched already stays as it is."""
        if _libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK) >= 0:
            return True
        code = ctypes.get_errno()
        if code in _MISSING:
            return False
        raise error_of(f"cannot watch {path}", OSError(code, os.strerror(code)))
