# SPDX-License-Identifier: Apache-2.0
"""A machine whose root file system is btrfs in LUKS2: its TPM2 opens it, or the recovery key does, and nobody else.

The tests are chapters of one story: each begins where the one before it ended, and none can be run alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kit.room_of_machines import Room, deployment, settle, status
from kit.virtual_machine import VirtualMachine

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Story:
    machine: VirtualMachine
    said: str
    """What the installation told."""
    recovery_key: str


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with Room(tmp_path_factory.mktemp("room")) as room:
        tpm = room.directory / "tpm"
        room.publish("latest", room.workshop.image("1.0"))
        disk = room.install("disk", "latest", "--encrypt=tpm2", "--filesystem=btrfs", tpm=tpm)
        said = (room.directory / "disk.installer/said").read_text()
        key = re.search(r"^ +((?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8})$", said, re.MULTILINE)
        assert key, said
        with room.machine(disk, tpm=tpm) as machine:
            machine.wait()
            yield Story(machine, said, key[1])
            print("boots: " + ", ".join(f"{one:.0f} s" for one in machine.boot_times))


def test_it_boots_without_being_asked(story: Story) -> None:
    machine = story.machine
    settle(machine)
    assert "the TPM2 opens the disk for whatever boots here" in story.said
    assert machine.check("findmnt -no FSTYPE,SOURCE /sysroot").split()[:2] == ["btrfs", "/dev/mapper/root"]
    assert machine.check("lsblk -no TYPE,FSTYPE /dev/mapper/root").split() == ["crypt", "btrfs"]
    found = status(machine)
    assert {"digest", "verity-required", "image-verity", "repository-verity"} <= {
        link for link, holds in found["chain"].items() if holds is True}
    assert found["warnings"] == []
    booted = deployment(machine, "booted")
    assert (booted["version"], booted["health"]) == ("1.0", "good")
    assert "verity=require" in machine.check("findmnt -no OPTIONS /")
    assert machine.check("systemctl --failed --no-legend --plain") == ""


def test_what_opens_the_disk(story: Story) -> None:
    device = "/dev/disk/by-partlabel/root"
    listed = story.machine.check(f"systemd-cryptenroll {device}").split()
    assert sorted(listed[listed.index("TYPE") + 1:][1::2]) == ["recovery", "tpm2"], listed
    opens = f"printf %s '{{}}' | cryptsetup open --test-passphrase --token-type none --key-file - {device}"
    story.machine.check(opens.format(story.recovery_key))
    assert story.machine.run(opens.format(story.recovery_key[:-1] + "x")).status == 2


def test_it_boots_again(story: Story) -> None:
    story.machine.reboot()
    settle(story.machine)
    assert deployment(story.machine, "booted")["health"] == "good"
    assert story.machine.check("bootcctl fsck") != ""
