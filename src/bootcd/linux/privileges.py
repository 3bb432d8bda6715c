# SPDX-License-Identifier: Apache-2.0
"""Giving up rights for good: the user, its capabilities, new files, other programs, and what the kernel offers beyond.

See setresuid(2), capabilities(7), prctl(2), seccomp(2), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import resource
import struct
from typing import Any

USER = "bootcd-fetch"
"""Who the part of bootcd is that talks to the network; sysusers.d/bootcd.conf makes it."""
NOBODY = 65534
"""Where there is no such user."""

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2

_LAST_CAPABILITY = 63
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91, "loongarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522

_DENIED = {
    # name: number on x86_64, number on architectures with the kernel's generic table; see asm/unistd.h
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "kill": (62, 129),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "reboot": (169, 142),
    "personality": (135, 92), "modify_ldt": (154, None), "mknod": (133, None), "mknodat": (259, 33),
}
"""What a program that reads from the network never calls. Most of it needs a right that is gone by then; the kernel's
code behind it need not be in reach of whoever takes over."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3, "loongarch64": 0xC0000102}
_X32 = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def drop() -> list[str]:
    """Give up everything that fetching does not need. To be called before any thread is started. Returns what could not
    be given up, in words: a container that has one user id cannot change the user.

    Raises OSError when the kernel refuses what it refuses nobody.
    """
    kept = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing is written to any file, whatever its mode
    for number in range(_LAST_CAPABILITY + 1):
        _prctl(PR_CAPBSET_DROP, number, may_fail=True)  # needs CAP_SETPCAP, and counts only with new privileges
    try:
        _become(*_user())
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        kept.append(f"the user ({error.strerror})")
        _clear_capabilities()
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if platform.machine() in _AUDIT_ARCH:
        try:
            _deny()
        except OSError as error:
            kept.append(f"system calls ({error.strerror})")
    else:
        kept.append("system calls (their numbers are not known for this architecture)")
    return kept


def _user() -> tuple[int, int]:
    try:
        found = pwd.getpwnam(USER)
    except KeyError:
        return NOBODY, NOBODY
    return found.pw_uid, found.pw_gid


def _become(user: int, group: int) -> None:
    """The kernel clears all capabilities with it."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _clear_capabilities() -> None:
    number = _SYS_CAPSET.get(platform.machine())
    if number is None:
        return
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.syscall(ctypes.c_long(number), ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")


class _Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter)))


def _deny() -> None:
    """A filter that fails the system calls of `_DENIED` with EPERM, and ends whoever calls by other numbers than those
    of its architecture."""
    machine = platform.machine()
    native = machine == "x86_64"
    numbers = [pair[0 if native else 1] for pair in _DENIED.values()]
    denied = [number for number in numbers if number is not None]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    # The last two are where the jumps go, counted from the instruction after each.
    code = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH[machine]), (answer, 0, 0, kill), (load, 0, 0, 0)]
    tests = [(at_least, _X32)] if native else []
    tests += [(equal, number) for number in denied]
    code += [(kind, len(tests) - place, 0, value) for place, (kind, value) in enumerate(tests)]
    code += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    filters = (_Filter * len(code))(*(_Filter(*one) for one in code))
    program = _Program(len(code), filters)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _prctl(option: int, *arguments: int, may_fail: bool = False) -> None:
    words: list[Any] = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(ctypes.c_int(option), *words) < 0 and not may_fail:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"prctl {option}")
