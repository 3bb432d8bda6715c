# SPDX-License-Identifier: Apache-2.0
"""What the kernel and /etc say about the machine, for the update policy. What cannot be read is not known.

    /etc/machine-id, /etc/localtime, /proc/loadavg, /proc/uptime, /sys/class/power_supply
"""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from ..linux import files
from .rules import Surroundings

_MAINS = ("Mains", "USB")
_ZONES = "zoneinfo/"
_MAX_ZONE = 1 << 20


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def surroundings(root: Path = Path("/")) -> Surroundings:
    """What can be told without asking another program."""
    on_battery, percent = _power(root / "sys/class/power_supply")
    uptime = _number(_text(root / "proc/uptime"))
    load = _number(" ".join(_text(root / "proc/loadavg").split()[1:2]))
    return Surroundings(
        on_battery=on_battery, battery=percent,
        load=load / (os.cpu_count() or 1) if load is not None else None,
        booted=now() - timedelta(seconds=uptime) if uptime is not None else None,
        machine_id=_machine_id(_text(root / "etc/machine-id")),
    )


def time_zone(root: Path = Path("/")) -> tzinfo:
    """That of the machine, as it is set now; UTC where none is. It is called by its name where it has one."""
    path = root / "etc/localtime"
    try:
        name = os.readlink(path).rpartition(_ZONES)[2] if path.is_symlink() else ""
        with open(files.open_regular(os.fspath(path), follow=True), "rb") as file:
            return ZoneInfo.from_file(_Whole(file.read(_MAX_ZONE)), key=name or "local time")
    except Exception:  # zoneinfo does not say what it raises for a damaged file, and it is much
        return UTC


class _Whole(io.BytesIO):
    """A file that complains at its end. zoneinfo looks for the end of a line there for ever."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if size and not data:
            raise EOFError
        return data


def _power(directory: Path) -> tuple[bool | None, int | None]:
    """Whether the machine runs on battery, and how many percent are left in the fullest; as systemd-ac-power(1) sees
    it, which does not count the batteries of mice and headsets."""
    try:
        supplies = sorted(directory.iterdir())
    except OSError:
        return None, None
    online, discharging, levels = [], False, []
    for supply in supplies:
        kind = _text(supply / "type").strip()
        if kind in _MAINS:
            online.append(_text(supply / "online").strip() not in ("", "0"))
        elif kind == "Battery" and _text(supply / "scope").strip() != "Device":
            discharging |= _text(supply / "status").strip() == "Discharging"
            level = _number(_text(supply / "capacity"))
            levels += [int(level)] if level is not None else []
    if not online and not levels:
        return None, None
    on_battery = discharging and not any(online)
    return on_battery, max(levels, default=None) if on_battery else None


def _machine_id(text: str) -> str:
    """The id, nothing while the machine has none of its own (machine-id(5))."""
    text = text.strip()
    return text if len(text) == 32 and set(text) <= set("0123456789abcdef") else ""


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("ascii", "replace")
    except OSError:
        return ""


def _number(text: str) -> float | None:
    """The first number of a text, unless it is none, or negative."""
    try:
        found = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return found if 0 <= found < 1e12 else None
