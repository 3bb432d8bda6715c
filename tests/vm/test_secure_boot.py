# SPDX-License-Identifier: Apache-2.0
"""A sealed machine under Secure Boot with keys of our own: it enrols them, and boots what we signed, and nothing else.

Its root file system is encrypted; the TPM2 opens it for what we signed.

The tests are chapters of one story: each begins where the one before it ended, and none can be run alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kit.machine_images import Sealed
from kit.room_of_machines import Room, deployment, settle, status
from kit.secure_boot import Keys
from kit.virtual_machine import VirtualMachine

pytestmark = pytest.mark.slow

REFUSED = "Access denied"
"""What UEFI calls a signature that is missing or not by one of its keys (Security Violation for some versions)."""


@dataclass(frozen=True)
class Story:
    """Our keys, somebody else's, and what was made with ours."""

    room: Room
    ours: Keys
    foreign: Keys
    sealed: Sealed


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with Room(tmp_path_factory.mktemp("room")) as room:
        ours, foreign = (room.workshop.secure_boot.make_keys(name) for name in ("ours", "somebody else's"))
        sealed = room.workshop.sealed("1.0", ours)
        room.publish("latest", sealed.image)
        yield Story(room, ours, foreign, sealed)


def with_other_digest(uki: bytes) -> bytes:
    """The same, but for one digit on its command line."""
    key = b"composefs.digest=v1-sha512-12:"
    assert uki.count(key) == 1
    place = uki.index(key) + len(key)
    return uki[:place] + (b"1" if uki[place : place + 1] != b"1" else b"2") + uki[place + 1 :]


@pytest.fixture(scope="module")
def machine(story: Story) -> Iterator[VirtualMachine]:
    """It begins in setup mode. Its other disks have each a UKI that differs from ours: by the signature alone, or by
    the digest on its command line, which was changed after signing."""
    room = story.room
    tpm = room.directory / "tpm"
    disk = room.install("disk", "latest", "--encrypt=tpm2", tpm=tpm)
    more = []
    sign, unsigned = room.workshop.secure_boot.sign, story.sealed.unsigned_uki
    for name, uki in (("unsigned", unsigned), ("foreign", sign(story.foreign, unsigned)),
                      ("edited", with_other_digest(story.sealed.uki))):
        file = room.directory / name
        file.write_bytes(uki)
        sectors = file.with_suffix(".sectors")  # with padding, which would spoil the signature
        sectors.write_bytes(uki + bytes(-len(uki) % 512))
        more += ["-drive", f"if=none,id={name},format=raw,readonly=on,file={sectors}",
                 "-device", f"virtio-blk-pci,drive={name},serial={name}"]
    with room.machine(disk, *more, tpm=tpm) as machine:
        machine.wait()
        yield machine
        print("boots: " + ", ".join(f"{one:.0f} s" for one in machine.boot_times))


def test_status_tells_the_whole_chain(machine: VirtualMachine) -> None:
    settle(machine)
    found = status(machine)
    assert found["chain"] == {
        "secure-boot": True, "signature": {"state": "valid", "signer": "CN=ours", "trusted": True, "problem": ""},
        "digest": True, "verity-required": True, "image-verity": True, "repository-verity": True, "sealed": True,
        "soft-reboot": False}
    assert found["warnings"] == []
    booted = deployment(machine, "booted")
    assert (booted["boot-type"], booted["health"]) == ("uki", "good")
    assert booted["options"] == machine.check("cat /proc/cmdline").strip()
    mounts = machine.check("cat /proc/self/mountinfo")
    assert f" overlay composefs:{booted['id']} " in mounts
    assert "verity=require" in mounts
    assert f"composefs.digest=v1-sha512-12:{booted['id']}" in machine.check("cat /proc/cmdline").split()
    assert "Secure Boot: enabled (user)" in machine.check("bootctl status --no-pager")
    assert "Custom Secure Boot keys successfully enrolled, rebooting the system now!" in machine.read_console()
    assert machine.check("lsblk -no TYPE /dev/mapper/root").split() == ["crypt"]
    token = json.loads(machine.check("cryptsetup token export --token-id 1 /dev/disk/by-partlabel/root"))
    assert (token["type"], token["tpm2-pcrs"], token["tpm2_pubkey_pcrs"]) == ("systemd-tpm2", [], [11])
    assert machine.check("systemctl --failed --no-legend --plain") == ""


def put_before_ours(story: Story, machine: VirtualMachine, name: str) -> str:
    """A UKI from one of the disks, by an entry with one try. Returns the id of ours."""
    good = deployment(machine, "booted")
    size = (story.room.directory / name).stat().st_size
    machine.check(f"""
        set -e
        mkdir -p /boot/EFI/test
        head --bytes {size} /dev/disk/by-id/virtio-{name} > /boot/EFI/test/{name}.efi
        cd /boot/loader/entries
        sed 's#^\\(efi\\|uki\\) .*#\\1 /EFI/test/{name}.efi#; s/^version.*/version 9999999999/' \\
            bootcd-*-{good['id'][:12]}*.conf > x-{name}+1.conf
        grep /EFI/test/{name}.efi x-{name}+1.conf
        sync
    """)
    assert isinstance(good["id"], str)
    return good["id"]


@pytest.mark.parametrize("name", ["unsigned", "foreign", "edited"])
def test_a_uki_that_we_did_not_sign_does_not_boot(story: Story, machine: VirtualMachine, name: str) -> None:
    """The firmware gives up; after a reset ours boots."""
    good = put_before_ours(story, machine, name)
    before = len(machine.read_console())
    machine.run("systemctl --no-block reboot")
    said = machine.wait_for(REFUSED, after=before)
    assert f"{name}.efi" in said
    assert "Linux version" not in said
    machine.screendump(f"{name}.png")
    machine.reset()
    machine.wait()
    settle(machine)
    assert deployment(machine, "booted")["id"] == good
    assert f"x-{name}+0-1.conf" in machine.check("ls /boot/loader/entries")


def test_what_was_installed_is_what_was_signed(story: Story, machine: VirtualMachine) -> None:
    good = deployment(machine, "booted")
    installed = machine.check(f"sha256sum /boot/EFI/bootcd/{good['id']}.efi").split()[0]
    assert installed == hashlib.sha256(story.sealed.uki).hexdigest()
