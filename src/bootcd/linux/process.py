# SPDX-License-Identifier: Apache-2.0
"""What a process may ask of the kernel for itself, or for a child: to end with its parent, to be nobody's first
concern, and to see mounts of its own. See prctl(2), ioprio_set(2), unshare(2), mount_setattr(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterable

from .files import error_of

PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
SYS_MOUNT_SETATTR = 442
"""Linux 5.12; the same number on every architecture."""
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x01
MS_SLAVE = 1 << 19

IOPRIO_WHO_PROCESS = 1
IOPRIO_IDLE = 3 << 13
"""The class "idle": the disk only when nobody else wants it."""
LOWEST_NICE = 19
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "armv7l": 314, "i686": 289,
                   "i386": 289, "ppc64le": 273, "s390x": 282}
"""By what uname(2) calls the machine. glibc has no function for it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = (("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
                ("userns_fd", ctypes.c_uint64))


def _check(result: int, what: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def die_with_parent(signal: int, parent: int) -> bool:
    """Get `signal` when the thread that started this process ends. False when `parent` has ended already."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal), zero, zero, zero), "prctl")
    return os.getppid() == parent  # asked after the request was made: before, the end could fall in between


def lower_priority(pid: int) -> None:
    """Let a process, with all its threads, have CPU and disk only when nobody else wants them.

    Needs no privilege for processes of the same user. It cannot be taken back without one. A process that has ended is
    no error. Raises BootcdError.
    """
    # A thread is born with the priority of the one that starts it. So until no new one is found, some may be too eager.
    done: set[int] = set()
    while new := _threads(pid) - done:
        for thread in new:
            with contextlib.suppress(ProcessLookupError):
                _lower_thread(thread)
        done |= new


def _threads(pid: int) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _lower_thread(thread: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, LOWEST_NICE)
        number = _SYS_IOPRIO_SET.get(platform.machine()) if sys.maxsize > 1 << 32 else None
        if number is not None:  # without it the I/O priority follows from the nice value, as far as it does
            _check(_libc.syscall(ctypes.c_long(number), ctypes.c_long(IOPRIO_WHO_PROCESS), ctypes.c_long(thread),
                                 ctypes.c_long(IOPRIO_IDLE)), "ioprio_set")
    except ProcessLookupError:
        raise
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without block devices
            raise error_of(f"cannot lower the priority of process {thread}", error) from error


def private_mounts() -> bool:
    """Give this process a mount namespace of its own: what others mount still comes in, what it mounts stays inside.

    False without the privilege; nothing has changed then. Call it before any thread is started. Raises BootcdError.
    """
    try:
        _check(_libc.unshare(CLONE_NEWNS), "unshare")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EINVAL):  # by seccomp, and without namespaces
            return False
        raise error_of("cannot make a mount namespace", error) from error
    try:
        _mount_setattr("/", AT_RECURSIVE, _MountAttr(propagation=MS_SLAVE))
    except OSError as error:
        # To go on would let our mounts out, and a caller could not tell.
        raise error_of("cannot make mounts private", error) from error
    return True


def make_writable(path: str | os.PathLike[str]) -> bool:
    """Make the mount at `path` writable for this mount namespace. False when `path` is no mount point, or without the
    privilege, or when the kernel or the file system does not let it: the first write then tells why.

    Only for a process that called `private_mounts`. The file system itself must be writable: what is mounted read-only
    twice stays so for everybody.
    """
    try:
        _mount_setattr(path, 0, _MountAttr(attr_clr=MOUNT_ATTR_RDONLY))
    except OSError:
        return False
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def make_all_writable(paths: Iterable[str | os.PathLike[str]]) -> None:
    """The same for those of several mount points that are read-only; what is not there is passed over."""
    for path in paths:
        with contextlib.suppress(OSError):
            if os.statvfs(path).f_flag & os.ST_RDONLY:
                make_writable(path)


def boot_id() -> str:
    """What no other boot of any machine has; the same after a soft reboot. Empty without /proc."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def _mount_setattr(path: str | os.PathLike[str], flags: int, attributes: _MountAttr) -> None:
    _check(_libc.syscall(ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_long(AT_FDCWD), ctypes.c_char_p(os.fsencode(path)),
                         ctypes.c_long(flags), ctypes.byref(attributes), ctypes.c_long(ctypes.sizeof(attributes))),
           "mount_setattr")


def activity(pid: int) -> tuple[int, ...]:
    """Numbers that grow while a process works: CPU time in ticks, bytes that it read and wrote. Empty when it cannot be
    told."""
    numbers: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything; utime and stime are the 14th and 15th field.
            after_name = file.read().rpartition(b")")[2].split()
        numbers += [int(after_name[11]), int(after_name[12])]
        with open(f"/proc/{pid}/io", "rb") as file:
            numbers += [int(line.split()[1]) for line in file]
    return tuple(numbers)
