# SPDX-License-Identifier: Apache-2.0
"""File systems that play boot partitions, and what can happen to them. FAT where the kernel has it, else ext4, which
turns read-only after an error in the same way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootcd.linux import files
from kit import loopback

SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of ext4 and XFS: the device does not answer any more."""
_NO_FLUSH = 2


def kind() -> str:
    return "vfat" if "\tvfat\n" in Path("/proc/filesystems").read_text() else "ext4"


@contextlib.contextmanager
def partition(directory: Path, size: int = 8 << 20) -> Iterator[Path]:
    """A file system of its own at a new directory; it need not be mounted any more at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    file = directory.with_name(f"{directory.name}.disk")
    directory.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(size)
    options = ["-q", "-m", "0"] if kind() == "ext4" else []
    subprocess.run([f"mkfs.{kind()}", *options, file], check=True, capture_output=True)
    with loopback.attached(file) as device:
        mount(device, directory)
        try:
            yield directory
        finally:
            while os.path.ismount(directory):
                subprocess.run(["umount", "--lazy", directory], check=True)


def mount(device: Path, directory: Path) -> None:
    subprocess.run(["mount", "-t", kind(), device, directory], check=True)


def device_of(directory: Path) -> Path:
    done = subprocess.run(["findmnt", "--noheadings", "--output", "SOURCE", directory], capture_output=True, text=True,
                          check=True)
    return Path(done.stdout.strip())


def remount(directory: Path, mode: str) -> None:
    """`mode` is ro or rw."""
    subprocess.run(["mount", "-o", f"remount,{mode}", directory], check=True)


def yank(directory: Path) -> None:
    """It is not there any more, whoever uses it."""
    subprocess.run(["umount", "--lazy", directory], check=True)


def break_down(directory: Path) -> None:
    """The device does not answer any more, and looks as before, until `mend`."""
    if kind() != "ext4":
        pytest.skip("only ext4 can be broken on purpose")
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SHUTDOWN, _NO_FLUSH.to_bytes(4, "little"))
    finally:
        os.close(descriptor)


def mend(directory: Path) -> None:
    """Mount what is on the disk. A copy of it: as long as anybody on this machine has seen the mount in a namespace of
    his own, the old one is broken as before."""
    copy = directory.with_name(f"{directory.name}.copy")
    shutil.copyfile(directory.with_name(f"{directory.name}.disk"), copy)
    yank(directory)
    subprocess.run(["mount", "-o", "loop", "-t", kind(), copy, directory], check=True)


@contextlib.contextmanager
def at_step(name: str, act: Callable[[], None], times: int = 1) -> Iterator[list[str]]:
    """Do something when a step is passed for the `times`-th time; gives the names of all steps since."""
    seen: list[str] = []

    def observe(passed: str) -> None:
        seen.append(passed)
        if passed == name and seen.count(name) == times:
            act()

    assert files.observe is None
    files.observe = observe
    try:
        yield seen
    finally:
        files.observe = None
