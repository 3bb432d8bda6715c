# SPDX-License-Identifier: Apache-2.0
"""Which partitions go where, and what does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.deploy.disk import (
    ESP_TYPE,
    LARGEST_KERNEL,
    MIB,
    ROOT_TYPES,
    Layout,
    default_esp,
    lay_out,
    least_root,
    smallest_esp,
)
from bootcd.errors import DiskTooSmall, Unsupported, UsageError

GIB = 1 << 30
SECTORS = st.sampled_from([512, 4096])


def laid(size: int, sector: int = 512, machine: str = "x86_64", *, esp_size: int = 512 * MIB,
         root_size: int | None = None, image_size: int = 0) -> Layout:
    return lay_out("/dev/sda", size, sector, machine, esp_size=esp_size, root_size=root_size, image_size=image_size)


@given(st.integers(0, 1 << 43), SECTORS, st.integers(1, 1 << 33), st.none() | st.integers(1, 1 << 36),
       st.integers(0, 1 << 34))
def test_partitions_lie_within_the_disk_and_apart(
    size: int, sector: int, esp_size: int, root_size: int | None, image_size: int
) -> None:
    try:
        layout = laid(size, sector, esp_size=esp_size, root_size=root_size, image_size=image_size)
    except (DiskTooSmall, UsageError):
        return
    assert layout.esp.start >= MIB, "the table lies before"
    assert layout.esp.end <= layout.root.start
    assert layout.root.end <= size - MIB, "the copy of the table lies behind"
    assert layout.esp.size >= max(esp_size, smallest_esp(sector))
    assert layout.root.size >= least_root(image_size) > image_size
    assert all(number % MIB == 0 for one in (layout.esp, layout.root) for number in (one.start, one.size))
    if root_size is None:
        assert size - layout.root.end < 2 * MIB, "the rest of the disk"
    else:
        assert 0 <= layout.root.size - root_size < MIB


@given(st.integers(0, 1 << 36), SECTORS, st.integers(MIB, 1 << 33), st.integers(0, 1 << 34))
def test_what_is_refused_as_too_small_would_not_fit(size: int, sector: int, esp_size: int, image_size: int) -> None:
    try:
        laid(size, sector, esp_size=esp_size, image_size=image_size)
    except DiskTooSmall:
        assert size < esp_size + least_root(image_size) + 3 * MIB
    except UsageError:
        assert esp_size < smallest_esp(sector)


@given(st.integers(0, 1 << 36), st.integers(0, 20), SECTORS)
def test_the_boot_partition_fits_the_keep_policy(image_size: int, keep: int, sector: int) -> None:
    size = default_esp(image_size, keep, sector)
    assert size >= smallest_esp(sector)
    assert size >= (keep + 2) * min(image_size, LARGEST_KERNEL)
    assert size <= (keep + 4) * LARGEST_KERNEL + 128 * MIB + smallest_esp(sector)
    assert default_esp(image_size, keep + 1, sector) >= size


def test_ordinary_sizes() -> None:
    assert default_esp(2 * GIB, 1, 512) == 1344 * MIB
    assert default_esp(2 * GIB, 3, 512) == 1792 * MIB
    assert default_esp(1000, 1, 512) == 64 * MIB
    layout = laid(20 * GIB, esp_size=GIB)
    assert (layout.esp.start, layout.esp.size) == (MIB, GIB)
    assert (layout.root.start, layout.root.size) == (GIB + MIB, 19 * GIB - 2 * MIB)


def test_the_sums_are_told() -> None:
    with pytest.raises(DiskTooSmall, match="/dev/sda has 1024 MiB, and 1236 MiB are needed: 1024 MiB for the boot "
                                           "partition, at least 210 MiB for the root file system, 2 MiB"):
        laid(GIB, esp_size=GIB, image_size=47 * MIB)
    with pytest.raises(DiskTooSmall, match="1226 MiB are needed: 512 MiB for the boot partition, 712 MiB for"):
        laid(GIB, root_size=712 * MIB)


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="boot partition of 20 MiB is too small for FAT32, which needs 34 MiB"):
        laid(GIB, esp_size=20 * MIB)
    with pytest.raises(UsageError, match="needs 259 MiB on this disk"):
        laid(GIB, 4096, esp_size=200 * MIB)
    with pytest.raises(DiskTooSmall, match="root partition of 300 MiB is too small: this image needs") as found:
        laid(4 * GIB, root_size=300 * MIB, image_size=GIB)
    assert "--root-size" in found.value.hint
    with pytest.raises(Unsupported, match="s390x"):
        laid(GIB, machine="s390x")


@pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed")
@pytest.mark.parametrize("machine", ROOT_TYPES)
def test_sfdisk_makes_what_was_planned(machine: str, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(3 * GIB)
    layout = laid(3 * GIB, machine=machine)
    subprocess.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image], input=layout.script().encode(),
                   check=True)
    done = subprocess.run(["sfdisk", "--json", image], capture_output=True, check=True)
    table = json.loads(done.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    found = [(one["name"], one["type"].lower(), one["start"] * 512, one["size"] * 512) for one in table["partitions"]]
    assert found == [(one.name, one.type, one.start, one.size) for one in (layout.esp, layout.root)]
    assert found[0][1] == ESP_TYPE
    verified = subprocess.run(["sfdisk", "--verify", image], capture_output=True, text=True, check=True)
    assert "No errors detected" in verified.stdout
