# SPDX-License-Identifier: Apache-2.0
"""File systems, checked by the programs that others check them with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.deploy.disk import smallest_esp
from bootcd.errors import Unsupported
from bootcd.linux import format
from kit import loopback
from kit.loopback import MIB

UUID = "0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    with path.open("wb") as made:
        made.truncate(160 * MIB)
    return path


def tags(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "--probe", "--output", "export", path], capture_output=True, text=True, check=True)
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def test_the_boot_partition_is_fat32(file: Path) -> None:
    format.make_fat(str(file), "ESP", start=2048)
    assert tags(file)["VERSION"] == "FAT32"
    assert tags(file)["LABEL"] == "ESP"
    assert int.from_bytes(file.read_bytes()[28:32], "little") == 2048, "hidden sectors, of the BIOS parameter block"
    subprocess.run(["fsck.fat", "-n", file], check=True, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("sector", [512, 4096])
def test_the_smallest_boot_partition_is_still_fat32(sector: int, tmp_path: Path) -> None:
    """With fewer clusters firmware would take it for FAT16."""
    file = tmp_path / "esp"
    with file.open("wb") as made:
        made.truncate(smallest_esp(sector))
    with loopback.attached(file, "--sector-size", str(sector)) as device:
        format.make_fat(str(device), "ESP", start=256)
        said = subprocess.run(["fsck.fat", "-nv", device], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) data clusters", said)
    assert found
    assert int(found[1]) >= 65525


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_the_root_file_system(kind: str, file: Path) -> None:
    needs(f"mkfs.{kind}")
    format.make_root(str(file), kind, "root", UUID)
    assert {name: tags(file)[name] for name in ("TYPE", "LABEL", "UUID")} == {
        "TYPE": kind, "LABEL": "root", "UUID": UUID}
    check = ["e2fsck", "-fn"] if kind == "ext4" else ["btrfs", "check"]
    subprocess.run([*check, file], check=True, capture_output=True)


def test_ext4_can_guard_files_where_the_kernel_can(file: Path) -> None:
    format.make_root(str(file), "ext4", "root", UUID)
    done = subprocess.run(["dumpe2fs", "-h", file], capture_output=True, text=True, check=True).stdout
    features = next(line for line in done.splitlines() if line.startswith("Filesystem features")).split()
    assert ("verity" in features) == Path("/sys/fs/ext4/features/verity").exists()
    assert "Block size:               4096" in done


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_missing_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        format.require("ext4", encrypted=False)
    except Unsupported as error:
        if "file system" in str(error):
            pytest.skip(str(error))
        raise
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match=r"without sfdisk, .*mkfs\.fat, mkfs\.ext4, cryptsetup") as found:
        format.require("ext4", encrypted=True)
    assert "fdisk" in found.value.hint
    assert "dosfstools" in found.value.hint


def test_a_file_system_that_the_kernel_lacks() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with pytest.raises(Unsupported):
        format.require("no-such-file-system", encrypted=False)
