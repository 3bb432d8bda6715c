# SPDX-License-Identifier: Apache-2.0
"""Opening a file below a directory as if that were the root: no name, no symbolic link leads out. See openat2(2)."""

from __future__ import annotations

import ctypes
import os
import stat

from ..errors import Unsupported

SYS_OPENAT2 = 437
"""Linux 5.6; the same number on every architecture."""
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_inside(root: int, name: bytes) -> int:
    """Open a regular file for reading, by its name in the directory `root`. Raises OSError, or Unsupported when it is
    anything else; never blocks."""
    if b"\0" in name:
        raise FileNotFoundError(2, "malformed name")
    how = _OpenHow(os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW, 0,
                   RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    fd = int(_libc.syscall(ctypes.c_long(SYS_OPENAT2), ctypes.c_int(root), ctypes.c_char_p(name), ctypes.byref(how),
                           ctypes.c_size_t(ctypes.sizeof(how))))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unsupported(f"{os.fsdecode(name)!r} is no regular file")
    return fd
