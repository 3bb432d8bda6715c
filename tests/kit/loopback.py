# SPDX-License-Identifier: Apache-2.0
"""Files that play disks: attached to loop devices, as whole disks with partitions or a piece at a time."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20


@contextlib.contextmanager
def attached(file: Path, *options: str) -> Iterator[Path]:
    """A loop device for a file; `options` are those of losetup."""
    done = subprocess.run(["losetup", "--show", "--find", *options, file], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def disk(file: Path) -> Iterator[Path]:
    """A loop device that can have partitions."""
    with attached(file, "--partscan") as device:
        try:
            yield device
        finally:  # those that the kernel did not find itself do not go by themselves
            subprocess.run(["partx", "--delete", device], check=False, capture_output=True)


@contextlib.contextmanager
def mounted(device: Path, directory: Path, *options: str) -> Iterator[Path]:
    """A file system at a new directory."""
    directory.mkdir()
    subprocess.run(["mount", *options, device, directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
        directory.rmdir()


@dataclass(frozen=True)
class Part:
    """A partition, as sfdisk finds it; start and size in bytes."""

    name: str
    type: str
    start: int
    size: int


def parts(path: Path) -> list[Part]:
    """The partitions of a disk."""
    done = subprocess.run(["sfdisk", "--json", path], capture_output=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    sector = table["sectorsize"]
    return [Part(one["name"], one["type"].lower(), one["start"] * sector, one["size"] * sector)
            for one in table["partitions"]]


def part(file: Path, one: Part) -> contextlib.AbstractContextManager[Path]:
    """A loop device for one partition of a file."""
    return attached(file, "--offset", str(one.start), "--sizelimit", str(one.size))


def loops_of(file: Path) -> str:
    """The loop devices of a file, one line each."""
    return subprocess.run(["losetup", "--noheadings", "--associated", file], capture_output=True, text=True,
                          check=True).stdout
