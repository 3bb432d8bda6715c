# SPDX-License-Identifier: Apache-2.0
"""File systems in files, mounted: with fs-verity, and FAT. Where the kernel lacks them, tests are skipped; in the
virtual machine they are there."""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KINDS = {
    "ext4": ("64M", ("mkfs.ext4", "-q", "-b", "4096", "-O", "verity"), "defaults"),
    "btrfs": ("128M", ("mkfs.btrfs", "-q"), "nodatasum"),  # its own checksums would find damage before fs-verity does
    "vfat": ("40M", ("mkfs.vfat", "-F", "32"), "defaults"),
    "ext4-1k": ("32M", ("mkfs.ext4", "-q", "-b", "1024", "-O", "verity"), "defaults"),
}
"""Size, command, mount options."""


class Volume:
    """A file system of its own, mounted at `path`."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.kind = kind
        self.path = directory / kind
        self._image = directory / f"{kind}.img"
        size, command, self._options = KINDS[kind]
        self.path.mkdir()
        subprocess.run(["truncate", "-s", size, self._image], check=True)
        try:
            subprocess.run([*command, self._image], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not installed")
        done = self._mount()
        if done.returncode:
            pytest.skip(f"cannot mount {kind} here: {done.stderr.strip()}")

    def _mount(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", "-t", self.kind.partition("-")[0], "-o", f"loop,{self._options}", self._image,
                               self.path], capture_output=True, text=True, check=False)

    @contextmanager
    def unmounted(self) -> Iterator[Path]:
        """The file that holds the file system. Nothing is cached afterwards."""
        subprocess.run(["umount", self.path], check=True)
        try:
            yield self._image
        finally:
            done = self._mount()
            assert done.returncode == 0, done.stderr

    def damage(self, content: bytes) -> None:
        """Change one bit in the middle of this content, below the file system."""
        with self.unmounted() as image, image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            where = memory.find(content)
            assert where >= 0, "not in one piece"
            assert memory.find(content, where + 1) < 0, "more than once"
            memory[where + len(content) // 2] ^= 1

    def close(self) -> None:
        subprocess.run(["umount", self.path], check=True)
        self._image.unlink()


@pytest.fixture
def make_volume(tmp_path: Path) -> Iterator[Callable[[str], Volume]]:
    made: list[Volume] = []

    def make(kind: str) -> Volume:
        made.append(Volume(tmp_path, kind))
        return made[-1]

    yield make
    for volume in made:
        volume.close()


@pytest.fixture(params=["ext4", "btrfs"])
def volume(request: pytest.FixtureRequest, make_volume: Callable[[str], Volume]) -> Volume:
    """A file system with fs-verity."""
    demand_verity()
    return make_volume(request.param)


@pytest.fixture
def small_blocks(make_volume: Callable[[str], Volume]) -> Volume:
    """One whose blocks are too small for fs-verity, under a kernel that has it."""
    demand_verity()
    return make_volume("ext4-1k")


def demand_verity() -> None:
    if not Path("/sys/fs/ext4/features/verity").exists():
        pytest.skip("the kernel has no fs-verity")
