# SPDX-License-Identifier: Apache-2.0
"""Making file systems, by the programs that distributions have for it."""

from __future__ import annotations

import os

from ..errors import Unsupported
from .mount import FsContext
from .run import find, run

_PROGRAMS = {
    "sfdisk": "fdisk", "wipefs": "util-linux", "blkid": "util-linux", "partx": "util-linux",
    "mkfs.fat": "dosfstools", "mkfs.ext4": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "cryptsetup": "cryptsetup-bin",
    "systemd-cryptenroll": "systemd-cryptsetup or systemd",
}
"""Each with its package in Debian."""
_VERITY = "/sys/fs/ext4/features/verity"


def require(filesystem: str, *, encrypted: bool) -> None:
    """Raise Unsupported when a program or a file system of the kernel is missing: before anything is erased."""
    for fstype in ("vfat", filesystem):
        with FsContext(fstype):
            pass
    wanted = ["sfdisk", "wipefs", "blkid", "partx", "mkfs.fat", f"mkfs.{filesystem}"]
    if encrypted:
        wanted += ["cryptsetup", "systemd-cryptenroll"]
    missing = [program for program in wanted if find(program) is None]
    if missing:
        packages = dict.fromkeys(_PROGRAMS[program] for program in missing)
        raise Unsupported(f"cannot make partitions and file systems without {', '.join(missing)}",
                          advice=f"On Debian they are in the packages {', '.join(packages)}.")


def make_fat(device: str, label: str, *, start: int) -> None:
    """A FAT32 file system. `start` is the first sector of its partition, which some firmware wants to read in it."""
    run(["mkfs.fat", "-F", "32", "-n", label, "-h", str(start), device])


def make_root(device: str, filesystem: str, label: str, uuid: str) -> None:
    """A file system that can guard files by fs-verity, if the kernel can: an ext4 with that feature could not be
    mounted by one that cannot."""
    if filesystem == "btrfs":
        run(["mkfs.btrfs", "--quiet", "--force", "--label", label, "--uuid", uuid, device])
        return
    # fs-verity needs blocks as large as pages up to Linux 6.3; the default of a small file system is 1 KiB.
    verity = ["-O", "verity"] if os.path.exists(_VERITY) else []
    run(["mkfs.ext4", "-q", "-F", "-b", "4096", *verity, "-L", label, "-U", uuid, device])
