# SPDX-License-Identifier: Apache-2.0
"""A whole machine: a secure repository on ext4 or btrfs, and a boot partition that is FAT."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import EspFull, ObjectMismatch
from bootcd.formats.fsverity import Algorithm
from bootcd.linux import mount, verity
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit.images import ImageBuilder
from kit.os_images import base_layer, os_image
from vm.guest.conftest import Volume

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


class Machine:
    """What `bootcctl` runs on."""

    def __init__(self, directory: Path, root: Volume, esp: Volume) -> None:
        self.layout = directory / "layout"
        self.root = root
        self.esp = esp
        self.sysroot = root.path / "sysroot"
        self.host = DirectHost(self.sysroot, esp.path, Config(), SilentProgress())

    def publish(self, image: ImageBuilder) -> str:
        image.write_layout(self.layout, "latest")
        return f"oci:{self.layout}:latest"

    def restart(self) -> None:
        """Everything is read from the disks again, and the boot partition is sound."""
        with self.root.unmounted(), self.esp.unmounted() as image:
            done = subprocess.run(["fsck.vfat", "-n", image], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def versions(self) -> list[str]:
        return [one.version for one in self.host.status().deployments]

    def boot_files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.esp.path)): path.read_bytes() for path in self.esp.path.rglob("*")
                if path.is_file()}


@pytest.fixture
def machine(tmp_path: Path, volume: Volume, make_volume: Callable[[str], Volume]) -> Machine:
    return Machine(tmp_path, volume, make_volume("vfat"))


def version(number: str, size: int = 1000) -> ImageBuilder:
    return os_image(number, base=base_layer(kernel=number.encode() * size))


def test_from_installation_to_collection(machine: Machine, tmp_path: Path) -> None:
    host = machine.host
    host.install(machine.publish(version("1.0")))
    machine.restart()
    status = host.status()
    assert status.warnings == ()
    assert "composefs=?" not in status.deployments[0].options

    for number in ("1.1", "1.2"):
        machine.publish(version(number))
        host.upgrade()
        machine.restart()
    assert machine.versions() == ["1.2", "1.1"]
    host.rollback()
    machine.restart()
    assert machine.versions() == ["1.1", "1.2"]

    digest = host.status().deployments[0].manifest_digest
    (tmp_path / "m").mkdir()
    host.image_mount(digest, str(tmp_path / "m"), bootable=True)
    try:
        assert (tmp_path / "m/etc/version.conf").read_text() == "version = 1.1\n"
        assert "verity=require" in Path("/proc/self/mountinfo").read_text()
    finally:
        mount.umount(tmp_path / "m")

    host.cleanup()
    machine.restart()
    assert host.fsck().ok
    assert len(os.listdir(machine.esp.path / "EFI/bootcd")) == 2
    objects = [path for path in (machine.sysroot / "composefs/objects").rglob("*") if path.is_file()]
    assert objects
    for path in objects:
        fd = os.open(path, os.O_RDONLY)
        try:
            assert verity.measure(fd, Algorithm.SHA512) == bytes.fromhex(path.parent.name + path.name)
        finally:
            os.close(fd)


def test_a_full_boot_partition_changes_nothing(machine: Machine) -> None:
    machine.host.install(machine.publish(version("1.0")))
    rest = os.statvfs(machine.esp.path)
    with (machine.esp.path / "ballast").open("wb") as file:
        file.write(bytes(rest.f_bavail * rest.f_frsize - (1 << 20)))
    before = machine.boot_files()

    machine.publish(version("1.1", size=1 << 20))
    with pytest.raises(EspFull):
        machine.host.upgrade()

    machine.restart()
    assert machine.boot_files() == before
    assert machine.versions() == ["1.0"]
    (machine.esp.path / "ballast").unlink()
    machine.host.upgrade()
    machine.restart()
    assert machine.versions() == ["1.1", "1.0"]


def test_names_of_other_systems_in_capitals(machine: Machine) -> None:
    """FAT keeps short names in capitals, and firmware and other systems write them so."""
    (machine.esp.path / "efi/boot").mkdir(parents=True)
    (machine.esp.path / "LOADER/ENTRIES").mkdir(parents=True)
    (machine.esp.path / "LOADER/ENTRIES/OTHER.CON").write_bytes(b"not ours")
    machine.host.install(machine.publish(version("1.0")))
    machine.publish(version("1.1"))
    machine.host.upgrade()
    machine.restart()
    assert machine.versions() == ["1.1", "1.0"]
    assert (machine.esp.path / "loader/entries/other.con").read_bytes() == b"not ours"


def test_a_damaged_kernel_never_reaches_the_boot_partition(machine: Machine) -> None:
    machine.host.install(machine.publish(version("1.0")))
    kernel = os.urandom(64 << 10)
    reference = machine.publish(os_image("1.1", base=base_layer(kernel=kernel)))
    machine.host.image_pull(reference, name="early")
    machine.restart()
    machine.root.damage(kernel[8192:12288])
    before = machine.boot_files()

    with pytest.raises(ObjectMismatch, match="cannot be read"):
        machine.host.upgrade()
    assert machine.boot_files() == before

    found = machine.host.fsck(repair=True)
    assert found.repaired
    machine.host.upgrade()
    machine.restart()
    assert machine.versions() == ["1.1", "1.0"]
    assert kernel in machine.boot_files().values()
