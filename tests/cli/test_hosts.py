# SPDX-License-Identifier: Apache-2.0
"""bootcctl does the work itself: what it may write that others may not."""

from __future__ import annotations

import os
import subprocess

import pytest

from cli.conftest import BOOTCCTL, Machine
from crash.program import ENVIRONMENT

SYSTEM = """\
set -e
mkdir root
mount -t tmpfs tmpfs root
for path in /*; do
    [ "$path" != /sysroot ] || continue
    if [ -L "$path" ]; then cp --no-dereference "$path" root
    elif [ -d "$path" ]; then mkdir "root$path"; mount --rbind "$path" "root$path"
    fi
done
mkdir root/sysroot
mount --bind sysroot root/sysroot
mount -o remount,bind,ro root/sysroot
here=$PWD
chroot root sh -ec 'cd "$0"; "$@"; ! touch /sysroot/written' "$here" "$@"
"""
"""A root of its own with this one's directories, and a /sysroot as bootcd-setup-root mounts it."""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_the_sysroot_is_writable_for_bootcctl_alone(machine: Machine) -> None:
    """At shutdown and after a boot there is no daemon that would help."""
    done = subprocess.run(["unshare", "--mount", "--propagation=private", "sh", "-c", SYSTEM, "sh", *BOOTCCTL,
                           "--sysroot=/sysroot", "--esp=esp", "pin", "1.0"],
                          cwd=machine.path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Read-only file system" in done.stderr
    found = machine("status", "--json").json["deployments"]
    assert [one["version"] for one in found if one["pins"]] == ["1.0"]
