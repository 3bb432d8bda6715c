# SPDX-License-Identifier: Apache-2.0
"""What a process in the sandbox of its unit does not see, though whoever asks it does: home directories, and /tmp.

Source: systemd.exec(5), ProtectHome= and PrivateTmp=; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os

from ..errors import SourceUnreachable
from ..model import ImageReference

SANDBOXED = {"/home": "ProtectHome", "/root": "ProtectHome", "/run/user": "ProtectHome",
             "/tmp": "PrivateTmp", "/var/tmp": "PrivateTmp"}  # noqa: S108 - nothing is put there
"""Directories that the unit of the daemon closes, and by which setting."""
_SIGNS = ("/systemd/inaccessible/", "/systemd-private-")
"""Where systemd takes from what it mounts over these: parts of the root of such a mount."""


def check_sight(reference: ImageReference) -> None:
    """Raises SourceUnreachable when an image on this machine is missing because it is hidden from this process."""
    path = os.path.abspath(reference.path) if reference.path else ""
    if not path or os.path.lexists(path):
        return
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        place = hidden_in(path, file.read())
    if place is not None:
        raise SourceUnreachable(
            f"{reference}: the daemon does not see what is in {place} ({SANDBOXED[place]}= of bootcd.service)",
            advice="Put it elsewhere, for example below /var/lib, /media or /mnt; or let 'bootcctl --sysroot=/sysroot' "
            "do the work itself.")


def hidden_in(path: str, mountinfo: str) -> str | None:
    """The directory above `path` that systemd has put something else over for this process, if there is one."""
    roots = {fields[4]: fields[3] for fields in map(str.split, mountinfo.splitlines()) if len(fields) > 4}
    for place in SANDBOXED:
        if path.startswith(f"{place}/") and any(sign in roots.get(place, "") for sign in _SIGNS):
            return place
    return None
