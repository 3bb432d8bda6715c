# SPDX-License-Identifier: Apache-2.0
"""What is asked of the running systemd and of logind, by their own programs: neither needs a library."""

from __future__ import annotations

import os
import re

from ..errors import BootcdError, RebootRefused
from .run import run

SOFT_REBOOT = 1 << 2
"""Flags of org.freedesktop.login1.Manager.RebootWithFlags (systemd 254)."""
ROOT_CHECK_INHIBITORS = 1 << 0

_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_RUNS = "/run/systemd/seats"
"""Where logind runs, it has this directory."""


def version() -> int:
    """That of systemd; 0 when it cannot be told. Raises Unsupported where there is none."""
    found = re.match(rb"systemd (\d+)", run(["systemctl", "--version"], check=False).stdout)
    return int(found[1]) if found else 0


def properties(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit; empty ones for a unit that does not exist. Raises Unsupported where there is no systemd."""
    done = run(["systemctl", "show", f"--property={','.join(names)}", unit], check=False)
    found = dict(line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)
    return {name: found.get(name, "") for name in names}


def reboot(*, soft: bool) -> None:
    """Ask for a reboot, or for a soft one, which ends all services and starts systemd again, in /run/nextroot if a root
    file system is there. It has begun, or will soon, when this returns. Raises RebootRefused, for example when somebody
    holds it back by an inhibitor lock."""
    if os.path.isdir(_RUNS):
        flags = ROOT_CHECK_INHIBITORS | (SOFT_REBOOT if soft else 0)
        command = ["busctl", "--system", "call", *_LOGIND, "RebootWithFlags", "t", str(flags)]
    else:
        command = ["systemctl", "--no-block", "soft-reboot" if soft else "reboot"]
    try:
        run(command)
    except BootcdError as error:
        raise RebootRefused(f"the machine does not reboot: {error}") from error
