# SPDX-License-Identifier: Apache-2.0
"""Disks, and files that stand for one: what they are, who uses them, what is on them, and their partitions.

A disk is given as a block device (the whole of it, never a partition) or as a regular file. The partitions of a device
are the kernel's; those of a file are loop devices, one for each, which go with their last user.

While a disk is written to, its BSD lock is held: udev, which reads partition tables anew whenever somebody closes a
disk after writing, leaves it alone then (https://systemd.io/BLOCK_DEVICE_LOCKING).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import BootcdError, Busy, DeviceInUse, DeviceNotFound, ReadOnly, UsageError
from .files import Lock, error_of, translate
from .mount import loop_device
from .run import run

BLKROGET = 0x125E
BLKSSZGET = 0x1268
FILE_SECTOR = 512
"""What a file is taken to have, like most disks."""

_PATIENCE = 10.0
"""Seconds for udev to let go of a disk, and for partitions to show up."""
_OCTAL = re.compile(r"\\([0-7]{3})")
_MAPPED = {"LVM-": "LVM volume", "CRYPT": "encrypted volume", "mpath": "multipath device"}


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk: its size and that of its sectors in bytes. `number` is that of the device, None for a file."""

    path: str
    size: int
    sector: int
    number: tuple[int, int] | None

    @property
    def is_file(self) -> bool:
        return self.number is None

    @property
    def sysfs(self) -> str:
        assert self.number is not None
        return f"/sys/dev/block/{self.number[0]}:{self.number[1]}"


def open_disk(path: str) -> Disk:
    """Look at a disk. Raises DeviceNotFound, UsageError for what is none or only a part of one, ReadOnly,
    PermissionDenied."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DeviceNotFound(f"there is no {path or repr('')}") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a directory, neither a block device nor a file") from error
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOMEDIUM):
            raise DeviceNotFound(f"{path} has no medium, or no device behind it", advice="") from error
        if error.errno == errno.EROFS:
            raise ReadOnly(f"{path} is read-only") from error
        raise error_of(f"cannot open {path}", error) from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) and not stat.S_ISBLK(state.st_mode):
            raise UsageError(f"{path} is neither a block device nor a file")
        with translate(f"cannot examine {path}"):
            size = os.lseek(descriptor, 0, os.SEEK_END)
        if stat.S_ISREG(state.st_mode):
            return Disk(path, size, FILE_SECTOR, None)
        disk = Disk(path, size, _number(descriptor, BLKSSZGET), (os.major(state.st_rdev), os.minor(state.st_rdev)))
        if os.path.exists(f"{disk.sysfs}/partition"):
            raise UsageError(f"{path} is a partition", advice="Name the whole disk.")
        if _number(descriptor, BLKROGET):
            raise ReadOnly(f"{path} is read-only")
        if _read(f"{disk.sysfs}/loop/partscan").strip() == "0":
            raise UsageError(f"{path} is a loop device without partitions",
                             advice="Name the file itself, or attach it with 'losetup --partscan'.")
        return disk
    finally:
        os.close(descriptor)


def users(disk: Disk) -> tuple[str, ...]:
    """Who uses a disk, its partitions, or what is made of them: one phrase each, none when it is free."""
    found: list[str] = []
    _collect(disk, found)
    if not found and not disk.is_file:
        for number, name in _members(disk):
            try:
                with translate(f"cannot open /dev/{name}"):
                    os.close(os.open(f"/dev/{name}" if number != disk.number else disk.path,
                                     os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
            except BootcdError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
                    found.append(f"opened by another program, or mounted in another namespace ({name})")
    return tuple(found)


def contents(disk: Disk) -> tuple[str, ...]:
    """What is on a disk and would be lost: one phrase for each signature and partition. Raises BootcdError."""
    signatures = json.loads(run(["wipefs", "--json", disk.path]).stdout or b"{}").get("signatures", [])
    found = list(dict.fromkeys(f"{one['type']} signature" for one in signatures if one["type"] != "PMBR"))
    done = run(["sfdisk", "--json", disk.path], check=False)
    if done.returncode:
        return tuple(found)
    table = json.loads(done.stdout)["partitiontable"]
    sector = int(table.get("sectorsize", disk.sector))
    for number, partition in enumerate(table.get("partitions", ()), 1):
        start, size = partition["start"] * sector, partition["size"] * sector
        name = f" '{partition['name']}'" if partition.get("name") else ""
        found.append(f"partition {number}{name} of {size >> 20} MiB, {_content(disk, start, size)}")
    return tuple(found)


@contextlib.contextmanager
def locked(disk: Disk) -> Iterator[int]:
    """Hold the disk's lock; gives an open descriptor. What was written is on the disk afterwards. Raises
    DeviceInUse."""
    with translate(f"cannot open {disk.path}"):
        descriptor = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            Lock(descriptor, disk.path).exclusive(_PATIENCE)
        except Busy as error:
            raise DeviceInUse(f"{disk.path} is locked by another program") from error
        yield descriptor
        with translate(f"cannot flush {disk.path}"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(disk: Disk, script: str) -> None:
    """Erase all signatures and write a partition table, as a script for sfdisk(8), that the kernel reads again.

    Only while the disk is locked. Raises BootcdError.
    """
    run(["wipefs", "--all", "--quiet", disk.path])
    keep = ["--no-reread", "--no-tell-kernel"] if disk.is_file else []
    run(["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", *keep, disk.path],
        input=script.encode())
    if not disk.is_file:  # the kernel may have read it already, or cannot: small ones lack the parser
        run(["partx", "--update", disk.path], check=False)


@contextlib.contextmanager
def partitions(disk: Disk, descriptor: int, places: Iterable[tuple[int, int]]) -> Iterator[tuple[str, ...]]:
    """The paths of the partitions of a locked disk that begin and end there (start and size in bytes)."""
    with contextlib.ExitStack() as stack:
        paths: list[str] = []
        for number, (start, size) in enumerate(places, 1):
            if disk.is_file:
                loop, path = loop_device(descriptor, writable=True, offset=start, size=size, sector=disk.sector)
                stack.callback(os.close, loop)
            else:
                path = _wait_for_partition(disk, number, start)
            paths.append(path)
        yield tuple(paths)


def _wait_for_partition(disk: Disk, number: int, start: int) -> str:
    """The node of a partition of a device; the kernel makes it a moment after the table was written."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        for directory in _partition_directories(disk):
            here = f"{disk.sysfs}/{directory}"
            if _read(f"{here}/partition").strip() == str(number) and _read(f"{here}/start").strip() == str(start >> 9):
                path = f"/dev/{directory.replace('!', '/')}"
                with contextlib.suppress(OSError):
                    node = os.stat(path).st_rdev
                    if f"{os.major(node)}:{os.minor(node)}" == _read(f"{here}/dev").strip():
                        return path
        if time.monotonic() >= deadline:
            raise BootcdError(f"partition {number} of {disk.path} does not show up")
        time.sleep(0.05)


# --- who uses it ------------------------------------------------------------------------------------------------------


def _collect(disk: Disk, found: list[str]) -> None:
    if disk.is_file:
        state = os.stat(disk.path)
        for name in sorted(os.listdir("/sys/block")):
            backing = _read(f"/sys/block/{name}/loop/backing_file").rstrip("\n")
            with contextlib.suppress(OSError):
                if backing and os.path.samestat(os.stat(backing), state):
                    found.append(f"attached to /dev/{name}")
        found += [f"used as swap ({path})" for path in _swaps() if _same_file(path, state)]
        return
    members = dict(_members(disk))
    for number, source, target in _mounts():
        held = members.get(number) or members.get(_device_number(source))
        if held is not None:
            found.append(f"mounted at {target} ({held})")
    for path in _swaps():
        if _device_number(path) in members:
            found.append(f"used as swap ({path})")
    for number, name in members.items():
        with contextlib.suppress(OSError):
            for holder in sorted(os.listdir(f"/sys/dev/block/{number[0]}:{number[1]}/holders")):
                found.append(f"part of {_holder(holder)} ({name})")


def _members(disk: Disk) -> Iterator[tuple[tuple[int, int], str]]:
    """The device and its partitions: number and name."""
    assert disk.number is not None
    yield disk.number, os.path.basename(os.path.realpath(disk.sysfs)).replace("!", "/")
    for directory in _partition_directories(disk):
        major, _, minor = _read(f"{disk.sysfs}/{directory}/dev").strip().partition(":")
        if major.isdigit() and minor.isdigit():
            yield (int(major), int(minor)), directory.replace("!", "/")


def _partition_directories(disk: Disk) -> list[str]:
    with translate(f"cannot examine {disk.path}"):
        return sorted(name for name in os.listdir(disk.sysfs) if os.path.exists(f"{disk.sysfs}/{name}/partition"))


def mount_points() -> frozenset[str]:
    """Where something is mounted, as this process sees it."""
    return frozenset(point for _, _, point in _mounts())


def _mounts() -> Iterator[tuple[tuple[int, int], str, str]]:
    """Device number, source and mount point of each mount. btrfs has numbers of its own, hence the source."""
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) > 4 and len(rest) > 1:
            major, _, minor = fields[2].partition(":")
            yield (int(major), int(minor)), _unescaped(rest[1]), _unescaped(fields[4])


def _swaps() -> list[str]:
    return [_unescaped(line.split()[0]) for line in _read("/proc/swaps").splitlines()[1:] if line.strip()]


def _holder(name: str) -> str:
    mapped = _read(f"/sys/block/{name}/dm/name").strip()
    if not mapped:
        return f"/dev/{name}"
    uuid = _read(f"/sys/block/{name}/dm/uuid")
    kind = next((text for prefix, text in _MAPPED.items() if uuid.startswith(prefix)), "device-mapper device")
    return f"{kind} {mapped}"


def _content(disk: Disk, start: int, size: int) -> str:
    """What a partition holds, by its signature."""
    done = run(["blkid", "--probe", "--output", "export", "--offset", str(start), "--size", str(size), disk.path],
               check=False)
    values = dict(line.partition("=")[::2] for line in done.stdout.decode("utf-8", "replace").splitlines())
    return values.get("TYPE") or "without a known content"


def _device_number(path: str) -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError):
        state = os.stat(path)
        if stat.S_ISBLK(state.st_mode):
            return os.major(state.st_rdev), os.minor(state.st_rdev)
    return -1, -1


def _same_file(path: str, state: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), state)
    return False


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _number(descriptor: int, request: int) -> int:
    answer = array.array("i", [0])
    with translate("cannot examine the device"):
        fcntl.ioctl(descriptor, request, answer)
    return answer[0]


def _read(path: str) -> str:
    """A small file of the kernel; empty when it is not there."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""
