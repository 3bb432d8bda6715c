# SPDX-License-Identifier: Apache-2.0
"""What is mounted at a directory: the type of its file system, and of the partition that this is in.

The kernel tells the former. The latter stands in the partition table; udev reads it for everybody, and keeps it in
`/run/udev/data/b<major>:<minor>`, where sd-device(3) finds it, too.
"""

from __future__ import annotations

import contextlib
import os

UDEV = "/run/udev/data"
_TYPE = "E:ID_PART_ENTRY_TYPE="


def file_system(path: str | os.PathLike[str]) -> str:
    """The type of the file system at `path`, such as "vfat"; empty when it cannot be told."""
    with contextlib.suppress(OSError):
        number = _device(path)
        with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split()[2] == number:
                    return after.split()[0]
    return ""


def partition_type(path: str | os.PathLike[str]) -> str:
    """The type, in GPT a GUID in lower case, of the partition whose file system is at `path`; empty when it is in none,
    or nobody has looked."""
    with contextlib.suppress(OSError), open(f"{UDEV}/b{_device(path)}", errors="surrogateescape") as file:
        for line in file:
            if line.startswith(_TYPE):
                return line.removeprefix(_TYPE).strip().lower()
    return ""


def _device(path: str | os.PathLike[str]) -> str:
    number = os.stat(os.path.join(path, ".")).st_dev  # the '.' has an automount mounted
    return f"{os.major(number)}:{os.minor(number)}"
