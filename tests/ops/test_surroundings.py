# SPDX-License-Identifier: Apache-2.0
"""What the kernel and /etc say, and nothing where they say nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bootcd.ops.rules import Surroundings
from bootcd.ops.surroundings import surroundings, time_zone
from kit.policy import MACHINE


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def supply(root: Path, name: str, **values: str) -> None:
    for key, text in values.items():
        path = root / "sys/class/power_supply" / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_nothing_is_known_of_nothing(tmp_path: Path) -> None:
    assert surroundings(tmp_path) == Surroundings()
    assert time_zone(tmp_path) is UTC


def test_this_machine() -> None:
    found = surroundings()
    assert found.load is not None
    assert found.booted is not None
    assert found.booted < datetime.now(UTC)


def test_a_machine(tmp_path: Path) -> None:
    write(tmp_path, etc__machine_id=MACHINE + "\n", proc__loadavg="9.00 3.00 1.00 1/100 42\n",
          proc__uptime="3600.25 1000.00\n")
    found = surroundings(tmp_path)
    assert found.machine_id == MACHINE
    assert found.load == 3.0 / (os.cpu_count() or 1)
    assert found.booted is not None
    assert timedelta(minutes=59) < datetime.now(UTC) - found.booted < timedelta(minutes=61)


@pytest.mark.parametrize("text", ["uninitialized\n", "", MACHINE[1:], MACHINE.upper(), "../" + MACHINE])
def test_a_machine_that_does_not_know_who_it_is(tmp_path: Path, text: str) -> None:
    write(tmp_path, etc__machine_id=text, proc__loadavg="high", proc__uptime="-1 nan")
    assert surroundings(tmp_path) == Surroundings()


def test_power(tmp_path: Path) -> None:
    supply(tmp_path, "hid-mouse", type="Battery", scope="Device", status="Discharging", capacity="3")
    assert surroundings(tmp_path).on_battery is None
    supply(tmp_path, "AC", type="Mains", online="1")
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity="40")
    supply(tmp_path, "BAT1", type="Battery", status="Full", capacity="90")
    found = surroundings(tmp_path)
    assert (found.on_battery, found.battery) == (False, None)
    supply(tmp_path, "AC", online="0")
    found = surroundings(tmp_path)
    assert (found.on_battery, found.battery) == (True, 90)
    supply(tmp_path, "BAT0", status="Not charging")
    assert surroundings(tmp_path).on_battery is False


def test_the_time_zone_is_read_each_time(tmp_path: Path) -> None:
    moment, link = datetime(2026, 7, 1, 12, tzinfo=UTC), tmp_path / "etc/localtime"
    link.parent.mkdir()
    for name, hour in (("Europe/Berlin", 14), ("Asia/Kathmandu", 17)):
        link.unlink(missing_ok=True)
        link.symlink_to(f"/usr/share/zoneinfo/{name}")
        zone = time_zone(tmp_path)
        assert (str(zone), moment.astimezone(zone).hour) == (name, hour)
    copy = link.read_bytes()
    link.unlink()
    link.write_bytes(copy)
    assert str(time_zone(tmp_path)) == "local time"
    link.write_bytes(b"TZif nonsense")
    assert time_zone(tmp_path) is UTC


def test_a_damaged_time_zone_is_none(tmp_path: Path) -> None:
    """Cut off anywhere, as after a power cut; and no file at all."""
    path, whole = tmp_path / "etc/localtime", Path("/usr/share/zoneinfo/Europe/Berlin").read_bytes()
    path.parent.mkdir()
    footer = whole.rstrip(b"\n").rindex(b"\n")
    for size in (*range(0, footer, 97), *range(footer - 3, footer + 2)):
        path.write_bytes(whole[:size])
        assert time_zone(tmp_path) is UTC, size
    path.unlink()
    os.mkfifo(path)
    assert time_zone(tmp_path) is UTC
