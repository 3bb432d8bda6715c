# SPDX-License-Identifier: Apache-2.0
"""`bootcctl install to-disk` in a small virtual machine, onto disks that a `VirtualMachine` can boot from.

The machine is that of `kit.guest`: a kernel, everything in memory, one script. Its kernel has what that of a test
machine may lack, fs-verity and FAT.
"""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import guest
from kit.small_debian import cpio
from kit.virtual_machine import HOST

DISK_BYTES = 2 << 30
TIMEOUT = 900.0
INIT = """#!/bin/sh
# Sets up the network of QEMU's user mode and runs the script of the test.
export PATH=/usr/local/bin:/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8 PYTHONPATH=/bootcd/src
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /run
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
stty -F /dev/ttyS1 raw
for module in virtio_blk virtio_net vfat ext4 btrfs loop erofs overlay dm_crypt; do modprobe $module; done
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip address add 10.0.2.15/24 dev eth0
sh -x /script >/dev/ttyS1 2>&1
echo "== status $?" >/dev/ttyS1
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class Installation:
    """One disk to install to: a new file, the image, options of `install to-disk`, and how many bytes it has."""

    disk: Path
    image: str
    options: Sequence[str] = ()
    size: int = DISK_BYTES


def install(
    installations: Sequence[Installation], registry_port: int, directory: Path, timeout: float = TIMEOUT,
    more: Sequence[str] = (), cut_when: Callable[[], bool] = lambda: False,
) -> str:
    """Install to all of them at the same time, onto files that are there or new ones; `more` are options of QEMU. The
    power is cut as soon as `cut_when` says so. Returns what was said. Raises GuestError, and PowerCutError."""
    lines = [f"printf '[registry]\\ninsecure = [\"{HOST}:{registry_port}\"]\\n' >/bootcd.toml"]
    for number, one in enumerate(installations):
        with one.disk.open("ab") as file:
            file.truncate(one.size)
        words = ["python3", "-m", "bootcd.cli", "--config=/bootcd.toml", "install", "to-disk",
                 f"/dev/vd{chr(ord('a') + number)}", one.image, *one.options]
        lines.append(f"({shlex.join(words)} >/log{number} 2>&1; echo $? >/status{number}) &")
    lines.append("wait")
    for number in range(len(installations)):
        lines.append(f"cat /log{number}")
    for number in range(len(installations)):
        lines.append(f"[ $(cat /status{number}) = 0 ] || exit 1")
    return run("\n".join(lines), [one.disk for one in installations], directory, timeout, more,
               cut_when)


def run(
    script: str, disks: Sequence[Path], directory: Path, timeout: float = TIMEOUT, more: Sequence[str] = (),
    cut_when: Callable[[], bool] = lambda: False,
) -> str:
    """Run a shell script as root, with these disks as /dev/vda and so on, and `more` options of QEMU. Returns what it
    said. Raises GuestError."""
    kit = guest.prepare()
    directory.mkdir(parents=True, exist_ok=True)
    initrd, console, report = (directory / name for name in ("initrd", "installer.console", "installer.report"))
    busybox = shutil.which("busybox")
    if busybox is None:
        raise guest.GuestError("busybox is not installed")
    files = [("init", 0o100755, INIT.encode()), ("script", 0o100644, script.encode()),
             ("usr/local/bin/busybox", 0o100755, Path(busybox).read_bytes()), ("bootcd", 0o040755, b""),
             *guest.tree(guest.ROOT / "src", "bootcd/src")]
    with initrd.open("wb") as out, kit.root.open("rb") as base:
        shutil.copyfileobj(base, out)
        out.write(cpio(files))
    begun = time.monotonic()
    drives = [f"file={disk},cache=unsafe,discard=unmap" for disk in disks]
    network = ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile="]
    try:
        guest.start(kit, initrd, console, report, timeout, disks=drives, more=[*network, *more],
                    cut_when=cut_when)
    finally:
        initrd.unlink()
    text = report.read_text(errors="replace")
    (directory / "installer.seconds").write_text(f"{time.monotonic() - begun:.0f}\n")
    status = re.search(r"^== status (\d+)", text, re.MULTILINE)
    if status is None or status[1] != "0":
        raise guest.GuestError(f"the script failed:\n{text}\n{guest.tail(console)}")
    return text
