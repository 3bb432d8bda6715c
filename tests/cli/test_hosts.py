# SPDX-License-Identifier: Apache-2.0
"""bootcctl does the work itself: what it may write that others may not."""

from __future__ import annotations

import os
import subprocess

import pytest

from cli.conftest import BOOTCCTL, Machine
from crash.program import ENVIRONMENT

READ_ONLY = """\
mount --bind sysroot sysroot
mount -o remount,bind,ro sysroot
"$@" || exit
! touch sysroot/written
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_sysroot_that_is_mounted_read_only_is_writable_for_bootcctl_alone(machine: Machine) -> None:
    """bootcd-setup-root mounts /sysroot so; at shutdown and after a boot there is no daemon that would help."""
    done = subprocess.run(["unshare", "--mount", "--propagation=private", "sh", "-c", READ_ONLY, "sh", *BOOTCCTL,
                           "--sysroot=sysroot", "--esp=esp", "pin", "1.0"],
                          cwd=machine.path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Read-only file system" in done.stderr
    found = machine("status", "--json").json["deployments"]
    assert [one["version"] for one in found if one["pins"]] == ["1.0"]
