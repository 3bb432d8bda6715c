# SPDX-License-Identifier: Apache-2.0
"""What is on a disk and who uses it, on real loop devices."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest

from bootcd.errors import DeviceInUse, DeviceNotFound, ReadOnly, UsageError
from bootcd.linux import block
from kit import loopback
from kit.loopback import MIB

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="block devices need root")

SCRIPT = 'label: gpt\nstart=1MiB, size=40MiB, name="one"\nstart=41MiB, size=20MiB, name="two"\n'
PLACES = ((MIB, 40 * MIB), (41 * MIB, 20 * MIB))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as made:
        made.truncate(64 * MIB)
    return path


def partitioned(path: Path) -> block.Disk:
    found = block.open_disk(str(path))
    with block.locked(found):
        block.write_table(found, SCRIPT)
    return found


# --- what it is -------------------------------------------------------------------------------------------------------


def test_a_file_and_a_device(file: Path) -> None:
    assert block.open_disk(str(file)) == block.Disk(str(file), 64 * MIB, 512, None)
    with loopback.attached(file, "--partscan", "--sector-size", "4096") as device:
        found = block.open_disk(str(device))
        assert (found.size, found.sector, found.is_file) == (64 * MIB, 4096, False)
        state = device.stat()
        assert found.number == (os.major(state.st_rdev), os.minor(state.st_rdev))


def test_what_is_no_disk(tmp_path: Path, file: Path) -> None:
    with pytest.raises(DeviceNotFound, match="there is no /dev/nothing"):
        block.open_disk("/dev/nothing")
    with pytest.raises(DeviceNotFound):
        block.open_disk(str(file / "below"))
    with pytest.raises(UsageError, match="is a directory"):
        block.open_disk(str(tmp_path))
    with pytest.raises(UsageError, match="/dev/null is neither a block device nor a file"):
        block.open_disk("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is neither"):
        block.open_disk(str(tmp_path / "pipe"))


def test_a_device_that_cannot_be_written(file: Path) -> None:
    with loopback.attached(file, "--partscan", "--read-only") as device, pytest.raises(ReadOnly, match=f"{device}"):
        block.open_disk(str(device))


def test_a_loop_device_without_partitions(file: Path) -> None:
    with loopback.attached(file) as device, pytest.raises(UsageError, match="without partitions"):
        block.open_disk(str(device))


def test_a_partition_is_not_the_whole_disk(file: Path) -> None:
    with loopback.disk(file) as device:
        partitioned(device)
        with pytest.raises(UsageError, match="is a partition"):
            block.open_disk(f"{device}p1")


# --- what is on it ----------------------------------------------------------------------------------------------------


def test_contents(file: Path) -> None:
    found = block.open_disk(str(file))
    assert block.contents(found) == ()
    subprocess.run(["mkfs.ext4", "-q", "-F", file], check=True)
    assert block.contents(found) == ("ext4 signature",)

    partitioned(file)
    with loopback.attached(file, "--offset", str(41 * MIB), "--sizelimit", str(20 * MIB)) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
    assert block.contents(found) == ("gpt signature", "partition 1 'one' of 40 MiB, without a known content",
                                     "partition 2 'two' of 20 MiB, ext4")


def test_nothing_of_the_old_contents_shows_through(file: Path) -> None:
    """What lay inside the old partitions must not be found in new ones at the same place."""
    partitioned(file)
    with loopback.attached(file, "--offset", str(MIB), "--sizelimit", str(40 * MIB)) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
    found = partitioned(file)
    assert "without a known content" in block.contents(found)[1]


# --- partitions -------------------------------------------------------------------------------------------------------


def test_partitions_of_a_file_are_loop_devices_that_go(file: Path) -> None:
    found = partitioned(file)
    with block.locked(found) as descriptor, block.partitions(found, descriptor, PLACES) as (one, two):
        assert len(loopback.loops_of(file).splitlines()) == 2
        sizes = [_size(path) for path in (one, two)]
        assert sizes == [40 * MIB, 20 * MIB]
        Path(two).write_bytes(b"written here")
    assert loopback.loops_of(file) == ""
    with file.open("rb") as disk:
        disk.seek(41 * MIB)
        assert disk.read(12) == b"written here"


def test_partitions_of_a_device_are_its_own(file: Path) -> None:
    with loopback.disk(file) as device:
        found = partitioned(device)
        with block.locked(found) as descriptor, block.partitions(found, descriptor, PLACES) as paths:
            assert paths == (f"{device}p1", f"{device}p2")
            assert [_size(path) for path in paths] == [40 * MIB, 20 * MIB]


def _size(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


# --- who uses it ------------------------------------------------------------------------------------------------------


def users(path: Path) -> str:
    return "; ".join(block.users(block.open_disk(str(path))))


def test_nobody_uses_it(file: Path) -> None:
    assert users(file) == ""
    with loopback.disk(file) as device:
        partitioned(device)
        assert users(device) == ""


def test_a_file_that_is_attached(file: Path) -> None:
    with loopback.attached(file) as device:
        assert users(file) == f"attached to {device}"


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_mounted_disk(kind: str, file: Path, tmp_path: Path) -> None:
    with file.open("r+b") as disk:
        disk.truncate(160 * MIB)
    subprocess.run([f"mkfs.{kind}", "-q", file], check=True)
    with loopback.disk(file) as device, loopback.mounted(device, tmp_path / "mount point", "-t", kind):
        assert users(device) == f"mounted at {tmp_path}/mount point ({device.name})"


def test_a_mounted_partition(file: Path, tmp_path: Path) -> None:
    with loopback.disk(file) as device:
        partitioned(device)
        subprocess.run(["mkfs.ext4", "-q", f"{device}p2"], check=True)
        with loopback.mounted(Path(f"{device}p2"), tmp_path / "mnt"):
            assert users(device) == f"mounted at {tmp_path}/mnt ({device.name}p2)"


def test_swap(file: Path) -> None:
    with loopback.disk(file) as device:
        partitioned(device)
        partition = f"{device}p1"
        subprocess.run(["mkswap", partition], check=True, capture_output=True)
        if subprocess.run(["swapon", partition], check=False, capture_output=True).returncode:
            pytest.skip("no swap here")
        try:
            assert users(device) == f"used as swap ({partition})"
        finally:
            subprocess.run(["swapoff", partition], check=True)


def test_what_is_mapped_says_by_what(file: Path) -> None:
    if not Path("/dev/mapper/control").exists():
        pytest.skip("no device-mapper here")
    with loopback.disk(file) as device:
        partitioned(device)
        subprocess.run(["dmsetup", "create", "bootcd-test", "--table", f"0 2048 linear {device}p2 0"], check=True)
        try:
            assert users(device) == f"part of device-mapper device bootcd-test ({device.name}p2)"
        finally:
            subprocess.run(["dmsetup", "remove", "bootcd-test"], check=True)


def test_opened_by_somebody_else(file: Path) -> None:
    with loopback.disk(file) as device:
        partitioned(device)
        descriptor = os.open(f"{device}p1", os.O_RDONLY | os.O_EXCL)
        try:
            assert "opened by another program" in users(device)
        finally:
            os.close(descriptor)
        assert users(device) == ""


def test_mounted_where_we_cannot_see_it(file: Path, tmp_path: Path) -> None:
    """Another mount namespace hides its mounts, but not that the device is taken."""
    subprocess.run(["mkfs.ext4", "-q", "-F", file], check=True)
    with loopback.disk(file) as device:
        (tmp_path / "mnt").mkdir()
        hidden = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", 'mount "$0" "$1" && echo mounted && cat', device, tmp_path / "mnt"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert hidden.stdout is not None
            assert hidden.stdout.readline() == b"mounted\n"
            assert "mounted in another namespace" in users(device)
        finally:
            hidden.communicate()


def test_one_at_a_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "_PATIENCE", 0.05)
    found = block.open_disk(str(file))
    with block.locked(found), pytest.raises(DeviceInUse, match="locked by another program"), block.locked(found):
        pass


def test_a_short_lock_is_waited_for(file: Path) -> None:
    """As udev holds one when it looks at a disk."""
    found = block.open_disk(str(file))
    descriptor = os.open(file, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    timer = threading.Timer(0.2, os.close, [descriptor])
    timer.start()
    try:
        with block.locked(found):
            pass
    finally:
        timer.join()
