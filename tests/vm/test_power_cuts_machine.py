# SPDX-License-Identifier: Apache-2.0
"""The power of a whole machine is cut at random moments: it always boots something good, and can go on.

The tests are chapters of one story: each begins where the one before it ended, and none can be run alone. When exactly
the power goes is chosen anew each time; `BOOTCD_CUTS_SEED` chooses the same moments again, which on another day find
the machine at something else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from random import Random

import pytest

from kit.guest import PowerCutError
from kit.room_of_machines import Room, deployment, settle, status
from kit.virtual_machine import VirtualMachine

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("BOOTCD_CUTS_SEED", time.time_ns() % (1 << 31)))
LARGEST = 300e6
"""How much an installation writes to its disk, or a bit less."""


@pytest.fixture(scope="module")
def moments() -> Random:
    print(f"seed {SEED}")
    return Random(SEED)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with Room(tmp_path_factory.mktemp("room")) as room:
        room.publish("latest", room.workshop.image("1.0"))
        yield room


@pytest.fixture(scope="module")
def machine(room: Room, moments: Random) -> Iterator[VirtualMachine]:
    """The power goes during its installation, which is then run again."""
    with pytest.raises(PowerCutError):
        room.install("disk", "latest", "--wipe", cut_at=moments.uniform(1, LARGEST))
    disk = room.install("disk", "latest", "--wipe")
    with room.machine(disk) as machine:
        machine.wait()
        machine.check(f"mkdir -p /etc/bootcd && echo '[registry]\ninsecure = [\"{room.registry}\"]' "
                      ">/etc/bootcd/bootcd.toml && systemctl reload bootcd && echo mine >/etc/mine && sync")
        yield machine
        print("boots: " + ", ".join(f"{one:.0f} s" for one in machine.boot_times))


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Not looked at here: each cut ends one emulator and starts another, which the machine's fixture ends."""


def sound(machine: VirtualMachine, *versions: str) -> str:
    """What runs is one of these versions, whole, and with what the administrator did. Returns which."""
    settle(machine)
    booted = deployment(machine, "booted")
    assert booted["version"] in versions
    assert machine.check("cat /etc/mine") == "mine\n"
    assert "verity=require" in machine.check("grep ' / / ' /proc/self/mountinfo")
    done = machine.run("bootcctl fsck")
    assert done.status == 0, done.output
    assert machine.check("systemctl --failed --no-legend --plain") == ""
    return str(booted["version"])


def test_during_an_upgrade(room: Room, machine: VirtualMachine, moments: Random) -> None:
    room.publish("latest", room.workshop.image("2.0"))
    machine.begin("bootcctl upgrade")
    time.sleep(moments.uniform(1, 15))
    machine.cut_and_start()
    sound(machine, "1.0")
    machine.check("bootcctl upgrade")
    assert deployment(machine, "staged")["version"] == "2.0"


def test_while_it_shuts_down_with_something_staged(machine: VirtualMachine, moments: Random) -> None:
    """What was staged is the default by then, or staged as before."""
    machine.begin("systemctl reboot")
    time.sleep(moments.uniform(0.5, 8))
    machine.cut_and_start()
    sound(machine, "1.0", "2.0")
    if deployment(machine, "default")["version"] != "2.0":  # nor has the boot completed what had been begun
        assert deployment(machine, "staged")["version"] == "2.0"
        machine.check("bootcctl finalize")
    assert deployment(machine, "default")["version"] == "2.0"


def test_during_a_rollback(machine: VirtualMachine, moments: Random) -> None:
    """From whichever runs to the other one, which may be where it goes anyway."""
    target = {"1.0": "2.0", "2.0": "1.0"}[deployment(machine, "booted")["version"]]
    machine.begin(f"bootcctl rollback {target}")
    time.sleep(moments.uniform(0, 3))
    machine.cut_and_start()
    sound(machine, "1.0", "2.0")
    if deployment(machine, "default")["version"] != "1.0":
        machine.check("bootcctl rollback 1.0")
    assert deployment(machine, "default")["version"] == "1.0"


def test_during_a_cleanup(machine: VirtualMachine, moments: Random) -> None:
    """Nothing is kept but what runs and what boots next."""
    machine.check("printf '[keep]\nprevious = 0\n' >>/etc/bootcd/bootcd.toml && systemctl reload bootcd && sync")
    machine.begin("bootcctl cleanup")
    time.sleep(moments.uniform(0, 6))
    machine.cut_and_start()
    sound(machine, "1.0", "2.0")
    machine.check("bootcctl cleanup")
    assert status(machine)["unfinished"] == ""


def test_afterwards_it_upgrades_as_ever(room: Room, machine: VirtualMachine) -> None:
    room.publish("latest", room.workshop.image("3.0"))
    machine.check("bootcctl upgrade")
    machine.reboot()
    assert sound(machine, "3.0") == "3.0"
    assert deployment(machine, "booted")["health"] == "good"
