# SPDX-License-Identifier: Apache-2.0
"""Which deployment this machine runs.

The mount of `/` names the image that is really mounted: its source is `composefs:<hex>`, or
`transient:composefs=<hex>` below a transient overlay (bootc). The kernel command line is older after a soft reboot,
so it counts only when the mount does not tell.
"""

from __future__ import annotations

import os
import re

from ..errors import BootEntryError
from ..linux.files import translate
from .kargs import find_kargs

_SOURCE = re.compile(r"(?:transient:)?composefs[:=]((?:[0-9a-f]{64}){1,2})")


def booted_id(mountinfo: str, cmdline: str) -> str | None:
    """The deployment id from /proc/self/mountinfo (proc_pid_mountinfo(5)) and /proc/cmdline; None on other systems."""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if separator and len(fields) > 4 and fields[4] == "/" and len(rest) > 1:
            found = _SOURCE.fullmatch(rest[1])
            if found:
                return found[1]
    return next(iter(_named(cmdline)), None)


def by_soft_reboot(deployment_id: str, cmdline: str) -> bool:
    """Whether the running deployment was entered by a soft reboot: the kernel was started with another one."""
    named = _named(cmdline)
    return bool(named) and deployment_id not in named


def _named(cmdline: str) -> list[str]:
    """The ids that a command line names, in order; none when an argument is malformed, for then the initrd takes none
    of them."""
    try:
        return [karg.digest.hex() for karg in find_kargs(cmdline)]
    except BootEntryError:
        return []


def read_booted(sysroot: str | os.PathLike[str]) -> str | None:
    """The deployment that runs, if `sysroot` is the physical root of the running system."""
    try:
        own = os.path.samefile(sysroot, "/sysroot")
    except OSError:
        return None
    if not own:
        return None
    with translate("cannot read /proc"), open("/proc/self/mountinfo") as mounts:
        return booted_id(mounts.read(), read_cmdline())


def read_cmdline() -> str:
    """That of the running kernel."""
    with translate("cannot read /proc/cmdline"), open("/proc/cmdline", errors="surrogateescape") as file:
        return file.read()
