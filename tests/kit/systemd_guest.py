# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots Debian with systemd from a disk: for what only a real PID 1 does with our units.

Made by `prepare` once and kept in build/vm beside what `kit.guest` keeps there, whose emulator is used:

    vmlinuz     Debian's kernel for clouds
    initrd      busybox, which mounts the disk, unpacks what a test brings, and hands over to systemd
    disk        Debian on ext4; never written, a run has its own overlay

The machine sees /dev/vda, that disk; /dev/vdb, a tar that is unpacked over it before systemd starts; /dev/vdc and
/dev/vdd, empty. Of the tar, /usr/local/lib/before-boot is run with the disk as its root while nothing else runs yet.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit import guest
from kit.small_debian import cpio

PACKAGES = ("systemd", "systemd-sysv", "udev", "dbus", "polkitd", "python3", "python3-pytest", "python3-dbus-next",
            "python3-systemd", "python3-requests", "python3-zstandard", "python3-isal", "libssl3t64", "busybox-static",
            "kmod", "mount", "procps", "e2fsprogs", "dosfstools")
DISK = "900M"
"""Size of the disk with Debian, of which 200 MB are used; the file is sparse."""
EMPTY = ("512M", "64M")
"""Sizes of /dev/vdc and /dev/vdd."""
MODULE = "kernel/drivers/block/virtio_blk.ko.xz"
"""The only module that the way to the disk needs; ext4 is built in."""
INIT = """#!/bin/busybox sh
# Mounts the disk, unpacks what the test brings, prepares the machine, and becomes systemd.
set -e
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
busybox insmod /virtio_blk.ko
busybox mount -t ext4 -o rw /dev/vda /root
busybox tar -x -f /dev/vdb -C /root
busybox mount -o move /dev /root/dev
busybox mount -o move /proc /root/proc
busybox chroot /root /usr/local/lib/before-boot
busybox umount /root/proc
exec busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class SystemdKit:
    """What the machine is started from."""

    base: guest.Kit
    disk: Path


def prepare() -> SystemdKit:
    """The kit, from the cache or made anew, which takes a minute and the network. Raises GuestError."""
    recipe = (guest.SUITE, PACKAGES, guest.LEFT_OUT, guest.KERNEL, DISK, MODULE, INIT)
    home = guest.CACHE / f"systemd-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    emulator = guest.prepare()
    if not home.exists():
        with tempfile.TemporaryDirectory(prefix="making.", dir=guest.CACHE) as name:
            root, fresh = Path(name, "root"), Path(name, "kit")
            root.mkdir()
            fresh.mkdir()
            _debian(Path(name), root)
            _keep(root, fresh)
            if not home.exists():  # nobody has been faster
                fresh.rename(home)
    return SystemdKit(guest.Kit(emulator.qemu, home / "vmlinuz", home / "initrd"), home / "disk")


def run(kit: SystemdKit, files: Path, directory: Path, timeout: float, kargs: str = "") -> str:
    """Boot with what lies below `files`, owned by root, unpacked over Debian; wait until the machine turns itself off.

    Returns what it wrote to /dev/ttyS1; its console is in `directory`/console. Raises GuestError.
    """
    console, report, brought = (directory / name for name in ("console", "report", "brought.tar"))
    with tarfile.open(brought, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files.rglob("*")):
            archive.add(path, path.relative_to(files), recursive=False, filter=_of_root)
    disks = [f"file={kit.disk},snapshot=on", f"file={brought},readonly=on"]
    for number, size in enumerate(EMPTY):
        guest.call(["truncate", "--size", size, directory / f"empty{number}"])
        disks.append(f"file={directory}/empty{number},cache=unsafe")
    try:
        guest.start(kit.base, kit.base.root, console, report, timeout, kargs, disks)
    finally:
        for number in range(len(EMPTY)):
            (directory / f"empty{number}").unlink()
        brought.unlink()
    return report.read_text(errors="replace")


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def _debian(directory: Path, root: Path) -> None:
    hook = directory / "kernel"
    hook.write_text(guest.KERNEL)
    hook.chmod(0o755)
    packed = directory / "root.tar"
    guest.bootstrap(packed, PACKAGES, f'--customize-hook={hook} "$1"')
    guest.call(["tar", "--extract", "--file", packed, "--directory", root, "--exclude=./dev/*"])
    packed.unlink()


def _keep(root: Path, target: Path) -> None:
    """Kernel, initrd and disk out of a Debian tree."""
    kernel = next((root / "boot").glob("vmlinuz-*"))
    kernel.rename(target / "vmlinuz")
    (target / "initrd").write_bytes(cpio(_initrd(root)))
    guest.call(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, target / "disk", DISK])


def _initrd(root: Path) -> Iterator[tuple[str, int, bytes]]:
    for name in ("bin", "dev", "proc", "root"):
        yield name, 0o040755, b""
    yield "bin/busybox", 0o100755, (root / "usr/bin/busybox").read_bytes()
    yield "init", 0o100755, INIT.encode()
    version = os.listdir(root / "usr/lib/modules")[0]
    yield "virtio_blk.ko", 0o100644, lzma.decompress((root / "usr/lib/modules" / version / MODULE).read_bytes())
