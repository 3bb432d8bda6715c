# SPDX-License-Identifier: Apache-2.0
"""An image that was made for bootc, with bootc's own program in its initrd, boots what bootcd deployed of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kit.room_of_machines import Room, deployment, settle, status

pytestmark = [pytest.mark.slow, pytest.mark.interop]

PROGRAM = shutil.which("bootc-initramfs-setup")


def test_bootc_s_program_mounts_what_bootcd_deployed(tmp_path: Path) -> None:
    if PROGRAM is None:
        pytest.skip("bootc-initramfs-setup is not on PATH")
    with Room(tmp_path) as room:
        room.publish("latest", room.workshop.for_bootc("1.0", Path(PROGRAM)))
        disk = room.install("disk", "latest")
        with room.machine(disk) as machine:
            machine.wait()
            settle(machine)
            booted = deployment(machine, "booted")
            assert booted["health"] == "good"
            assert f"composefs={booted['id']}" in machine.check("cat /proc/cmdline").split()
            root = machine.check("grep ' / / ' /proc/self/mountinfo")
            assert f"composefs:{booted['id']}" in root
            assert "verity=require" in root
            assert f"/state/deploy/{booted['id']}/etc" in machine.check("grep ' /etc ' /proc/self/mountinfo")
            assert machine.run("test -e /usr/lib/bootcd/bootcd-setup-root").status
            assert status(machine)["warnings"] == []
            assert machine.run("bootcctl fsck").status == 0
