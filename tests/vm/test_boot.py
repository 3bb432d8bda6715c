# SPDX-License-Identifier: Apache-2.0
"""One machine from its installation on: it boots what we deployed, upgrades, goes back, and refuses what is not whole.

The tests are chapters of one story: each begins where the one before it ended, and none can be run alone. Boots are
dear without KVM. What the machine wrote to its console is in `disk.machine/console` of pytest's directory room0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.images import File
from kit.room_of_machines import Room, deployment, settle, status
from kit.virtual_machine import VirtualMachine

pytestmark = pytest.mark.slow

PANIC = File("usr/lib/bootc/kargs.d/50-panic.toml", b'kargs = ["rdinit=/nowhere"]\n')
"""The kernel finds nothing to run in the initrd, and nothing to mount without it."""
SICK = [File("usr/lib/bootcd/check.d/50-sick", b"#!/bin/sh\nsleep 10\necho nothing works here\nexit 1\n", mode=0o755)]
"""A health check of the image that says that the machine is not well."""
FELL_BACK = "93963de2ee944fbf9721700e1455d713"
ENTRIES = "ls /boot/loader/entries"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
"""Another one each time that a kernel starts."""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with Room(tmp_path_factory.mktemp("room")) as room:
        make = room.workshop.image
        room.publish("latest", make("1.0"))
        room.publish("panic", make("3.0", [PANIC]))
        yield room


@pytest.fixture(scope="module")
def machine(room: Room) -> Iterator[VirtualMachine]:
    begun = time.monotonic()
    disk = room.install("disk", "latest")
    print(f"install: {time.monotonic() - begun:.0f} s")
    with room.machine(disk) as machine:
        machine.wait()
        yield machine
        print("boots: " + ", ".join(f"{one:.0f} s" for one in machine.boot_times))


def version(machine: VirtualMachine) -> str:
    return machine.check(". /etc/os-release; echo $VERSION_ID").strip()


def object_of(machine: VirtualMachine, path: str) -> str:
    """Where the repository has the content of a file."""
    digest = machine.check(f"fsverity digest --compact --hash-alg=sha512 {path}").strip()
    return f"/sysroot/composefs/objects/{digest[:2]}/{digest[2:]}"


def test_firmware_and_boot_loader_start_the_deployment(machine: VirtualMachine) -> None:
    mounts = {}
    for line in machine.check("cat /proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mounts[before.split()[4]] = (before.split()[3], before.split()[5].split(","), *after.split(" "))
    booted = deployment(machine, "booted")
    _, options, kind, source, more = mounts["/"]
    assert (kind, source) == ("overlay", f"composefs:{booted['id']}")
    assert "ro" in options
    assert "verity=require" in more.split(",")
    assert mounts["/etc"][0] == f"/state/deploy/{booted['id']}/etc"
    assert mounts["/var"][0] == "/state/os/default/var"
    assert all("rw" in mounts[path][1] for path in ("/etc", "/var"))
    assert mounts["/sysroot"][0] == "/"
    assert "ro" in mounts["/sysroot"][1]
    machine.check("touch /etc/writable /var/writable && ! touch /usr/writable && ! touch /sysroot/writable")


def test_status_tells_what_holds(machine: VirtualMachine) -> None:
    settle(machine)
    found = status(machine)
    assert found["chain"] == {
        "secure-boot": False, "signature": None, "digest": True, "verity-required": True, "image-verity": True,
        "repository-verity": True, "sealed": False, "soft-reboot": False}
    assert found["warnings"] == []
    assert [(one["version"], one["roles"], one["health"]) for one in found["deployments"]] == [
        ("1.0", ["booted", "default"], "good")]
    assert machine.check("systemctl --failed --no-legend --plain") == ""


def test_other_tools_agree(machine: VirtualMachine) -> None:
    machine.check("cd /sysroot/composefs/images && for image in [0-9a-f]*; do fsck.erofs $image || exit; done")
    booted = deployment(machine, "booted")
    assert "0xE0F5E1E2" in machine.check(f"dump.erofs -s /sysroot/composefs/images/{booted['id']}")
    measured = machine.check("find /sysroot/composefs/objects -type f -print0 | xargs -0 fsverity measure").splitlines()
    assert len(measured) > 5000
    for line in measured:
        digest, path = line.removeprefix("sha512:").split(" ", 1)
        assert path == f"/sysroot/composefs/objects/{digest[:2]}/{digest[2:]}"
    listed = machine.check("bootctl list --no-pager")
    assert f"options: {booted['options']}" in listed.replace("\n", " ").replace("  ", " ")
    assert "(default) (selected)" in listed
    assert machine.run("bootcctl fsck").status == 0


def test_a_replaced_object_is_not_read(machine: VirtualMachine) -> None:
    victim = "/usr/bin/getfattr"
    place = object_of(machine, victim)
    machine.check(f"mount -o remount,bind,rw /sysroot && cd {Path(place).parent} && mv {place} kept"
                  f" && sed s/usage/USAGE/i kept > {place} && ! cmp {place} kept")
    drop = "echo 3 > /proc/sys/vm/drop_caches"
    for command in ("true", f"fsverity enable --hash-alg=sha512 {place}"):
        done = machine.run(f"{command} && {drop}; cat {victim} > /dev/null")
        assert done.status, command
        assert "Input/output error" in done.output, command
    found = machine.run("bootcctl fsck")
    assert found.status
    assert Path(place).name[:8] in found.output
    machine.check(f"cd {Path(place).parent} && mv kept {place} && {drop} && cat {victim} >/dev/null && "
                  "mount -o remount,bind,ro /sysroot")


def test_the_daemon_upgrades_from_the_registry(room: Room, machine: VirtualMachine) -> None:
    machine.check("echo mine >/etc/mine && echo changed >>/etc/version.conf && mkdir -p /etc/bootcd && "
                  f"echo '[registry]\ninsecure = [\"{room.registry}\"]' >/etc/bootcd/bootcd.toml && "
                  "systemctl reload bootcd")
    assert "No newer image" in machine.check("bootcctl upgrade")
    room.publish("latest", room.workshop.image("2.0"))
    said = machine.check("bootcctl upgrade")
    assert "Downloading 1 of 3 layers" in said
    assert deployment(machine, "staged")["version"] == "2.0"
    assert deployment(machine, "default")["version"] == "1.0"


def test_a_soft_reboot_enters_it(machine: VirtualMachine) -> None:
    """With the kernel that runs: both versions have the same."""
    kernel = machine.check(BOOT_ID)
    machine.check("echo late >/etc/late")
    machine.reboot(by="bootcctl upgrade --apply --soft-reboot=required")
    assert version(machine) == "2.0"
    assert machine.check(BOOT_ID) == kernel
    settle(machine)
    looks_like_2_0(machine)
    booted = deployment(machine, "booted")
    assert f"{booted['id']}" not in machine.check("cat /proc/cmdline")
    assert status(machine)["chain"]["soft-reboot"] is True
    root = machine.check("findmnt --noheadings --output SOURCE,OPTIONS /")
    assert root.split()[0] == f"composefs:{booted['id']}"
    assert "verity=require" in root.split()[1].split(",")
    machine.check("touch /etc/writable /var/writable && ! touch /usr/writable && ! touch /sysroot/writable")
    assert f"bootcd-{booted['generation']:010}-{booted['id'][:12]}+3.conf" in machine.check(ENTRIES).split()
    left = machine.check("ls -A /run/bootcd | grep -v metrics.prom; ls /run/reboot-required* 2>/dev/null; true")
    assert left == "health-check.json\n"
    assert status(machine)["warnings"] == []
    assert machine.check("systemctl --failed --no-legend --plain") == ""


def test_a_soft_reboot_is_refused_where_the_kernel_would_have_to_start(room: Room, machine: VirtualMachine) -> None:
    done = machine.run(f"bootcctl switch --apply --soft-reboot=required {room.reference('panic')}")
    assert done.status == 11
    assert "it has other kernel arguments (rdinit=/nowhere)" in done.output
    machine.check("bootcctl unstage && bootcctl cleanup")


def test_a_reboot_boots_what_was_entered(machine: VirtualMachine) -> None:
    machine.reboot()
    assert version(machine) == "2.0"
    settle(machine)
    booted = looks_like_2_0(machine)
    entries = machine.check(ENTRIES).split()
    assert f"bootcd-{booted['generation']:010}-{booted['id'][:12]}.conf" in entries, "the counter is off"


def looks_like_2_0(machine: VirtualMachine) -> dict[str, Any]:
    """It runs, is well, boots next, and has the machine's /etc."""
    booted = deployment(machine, "booted")
    assert (booted["version"], booted["roles"], booted["health"]) == ("2.0", ["booted", "default"], "good")
    assert machine.check("cat /etc/mine /etc/late") == "mine\nlate\n"
    assert machine.check("cat /etc/version.conf") == "1.0\nchanged\n"
    assert booted["etc"]["both-changed"] == ["version.conf"]
    return booted


def test_rollback_goes_back(machine: VirtualMachine) -> None:
    machine.reboot(by="bootcctl rollback --apply")
    assert version(machine) == "1.0"
    settle(machine)
    assert deployment(machine, "booted")["roles"] == ["booted", "default"]
    assert deployment(machine, "rollback")["version"] == "2.0"
    assert machine.check("systemctl --failed --no-legend --plain") == ""


def test_a_version_that_panics_falls_back_by_itself(room: Room, machine: VirtualMachine) -> None:
    machine.check(f"bootcctl switch {room.reference('panic')}")
    before = len(machine.read_console())
    machine.reboot(600)
    said = machine.read_console()[before:]
    assert said.count("Kernel panic - not syncing") == 3, "it was tried three times"
    assert version(machine) == "1.0"
    settle(machine)
    found = {one["version"]: one for one in status(machine)["deployments"]}
    assert found["1.0"]["roles"] == ["booted", "default"]
    assert found["3.0"]["health"] == "bad"
    assert found["3.0"]["health-reason"]
    assert "not taken again" in machine.run("bootcctl upgrade").output


def test_a_version_whose_check_fails_falls_back_by_itself(room: Room, machine: VirtualMachine) -> None:
    """With two tries, which the machine's owner may set. What follows the first one is up to us, after the second one
    to the boot loader."""
    room.publish("latest", room.workshop.image("4.0", SICK))
    machine.check("echo '[boot]\ntries = 2' >>/etc/bootcd/bootcd.toml && systemctl reload bootcd && bootcctl upgrade")
    before = len(machine.read_console())
    machine.reboot()
    for _ in range(2):
        assert "Machine 4.0" in machine.read_console()[before:]
        machine.wait()
    assert version(machine) == "1.0"
    settle(machine)
    found = {one["version"]: one for one in status(machine)["deployments"]}
    assert found["1.0"]["roles"] == ["booted", "default"]
    assert (found["4.0"]["health"], found["4.0"]["health-reason"]) == ("bad", "50-sick: nothing works here")
    assert status(machine)["fell-back-from"] == found["4.0"]["id"]
    for command in ("cat /run/bootcd/motd", "bootcctl status", "journalctl -b -x --no-pager MESSAGE_ID=" + FELL_BACK):
        assert "50-sick: nothing works here" in machine.check(command), command
    assert "not taken again: version 4.0 did not come up: 50-sick: nothing works here" in machine.check(
        "bootcctl upgrade")


def test_three_pinned_versions_boot_from_the_menu(room: Room, machine: VirtualMachine) -> None:
    """As somebody chooses them there, or by LoaderEntryOneShot."""
    room.publish("latest", room.workshop.image("5.0"))
    machine.check("bootcctl pin 1.0 --label first && bootcctl pin 2.0 --label second")
    machine.reboot(by=f"bootcctl switch --apply {room.reference('latest')}")
    assert version(machine) == "5.0"
    settle(machine)
    machine.check("bootcctl pin 5.0 --label third && bootcctl cleanup")
    found = {one["version"]: one for one in status(machine)["deployments"]}
    for name in ("2.0", "1.0"):
        one = found[name]
        machine.check(f"bootctl set-oneshot bootcd-{one['generation']:010}-{one['id'][:12]}.conf")
        assert any("the next boot is" in warning for warning in status(machine)["warnings"])
        machine.reboot()
        assert version(machine) == name
        settle(machine)
        assert "pinned" in deployment(machine, "booted")["roles"]
        assert deployment(machine, "default")["version"] == "5.0"
        assert machine.run("grep -c . /etc/mine").status == 0, "each has its /etc"
    assert "first" in machine.check("bootcctl list")


def test_what_is_not_what_the_entry_names_does_not_boot(machine: VirtualMachine) -> None:
    """Three entries before ours, each with one try: another digest, an image that was replaced, and one whose link
    leads to another image of the repository, which is whole."""
    linked, good = deployment(machine, "booted"), deployment(machine, "default")
    other = next(one for one in status(machine)["deployments"] if one["version"] == "2.0")
    changed = ("0" if good["id"][0] != "0" else "1") + good["id"][1:]
    place = f"/sysroot/composefs/objects/{other['id'][:2]}/{other['id'][2:]}"
    machine.check(f"""
        set -e
        mount -o remount,bind,rw /sysroot
        cp /sysroot/composefs/images/{good['id']} {place}.new
        fsverity enable --hash-alg=sha512 {place}.new
        mv {place}.new {place}
        cd /sysroot/composefs/images
        mv {linked['id']} kept
        ln -s "$(readlink {good['id']})" {linked['id']}
        mount -o remount,bind,ro /sysroot
        cd /boot/loader/entries
        from=$(echo bootcd-*-{good['id'][:12]}*.conf)
        sed 's/{good['id']}/{changed}/; s/^version.*/version 9999999999/' $from > x-digest+1.conf
        sed 's/{good['id']}/{other['id']}/; s/^version.*/version 9999999998/' $from > x-image+1.conf
        sed 's/{good['id']}/{linked['id']}/; s/^version.*/version 9999999997/' $from > x-link+1.conf
        sync
    """)
    before = len(machine.read_console())
    machine.reboot(600)
    said = machine.read_console()[before:]
    first = said.find(f"the repository 'composefs' does not have the image {changed[:8]}")
    second = said.find(f"the image {other['id'][:8]}")
    assert version(machine) == "5.0"
    third = said.find(f"the image {linked['id'][:8]}")
    assert 0 <= first < second < third
    assert "has other content" in said[second:third]
    assert f"has other content: its digest is {good['id'][:12]}..." in said[third:]
    assert {"x-digest+0-1.conf", "x-image+0-1.conf", "x-link+0-1.conf"} <= set(machine.check(ENTRIES).split())
    machine.check("rm /boot/loader/entries/x-*")
