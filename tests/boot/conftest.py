# SPDX-License-Identifier: Apache-2.0
"""Boot partitions to test on: a plain directory, a small tmpfs, and a real FAT file system where the kernel has one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.boot.esp import Esp

SIZE = 4 << 20
"""Of the file systems that can be full."""


@pytest.fixture
def esp(tmp_path: Path) -> Esp:
    """A directory that plays the boot partition."""
    (tmp_path / "esp").mkdir()
    partition = Esp(tmp_path / "esp")
    partition.prepare()
    return partition


@pytest.fixture(params=["tmpfs", "vfat"])
def small_esp(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Esp]:
    """A file system of its own, of `SIZE` bytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    target = tmp_path / "mounted"
    target.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", target]
    else:
        if shutil.which("mkfs.vfat") is None:
            pytest.skip("mkfs.vfat is not installed")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
        command = ["mount", "-o", "loop", "-t", "vfat", image, target]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {request.param} here: {done.stderr.decode().splitlines()[0]}")
    try:
        yield Esp(target)
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.fixture
def read_only_esp(small_esp: Esp) -> Iterator[Esp]:
    """The same, prepared and then made read-only."""
    small_esp.prepare()
    subprocess.run(["mount", "-o", "remount,ro", small_esp.path], check=True)
    yield small_esp
    subprocess.run(["mount", "-o", "remount,rw", small_esp.path], check=True)
