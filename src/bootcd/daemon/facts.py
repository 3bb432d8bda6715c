# SPDX-License-Identifier: Apache-2.0
"""What other services say about the machine, for the update policy.

UPower (OnBattery, the display device's Percentage), logind (sessions, inhibitor locks, a planned shutdown), power
profiles (ActiveProfile, by its new and its old name), NetworkManager (`metered`). None of them is started by being
asked, all are asked at once, and what is absent, slow or makes no sense is not known.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..ops.rules import Lock, Surroundings, User
from .bus import Bus
from .exports import BusError
from .metered import metered
from .wire import line

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that a service has for all that it is asked."""
MAX_SESSIONS = 32
"""Sessions that are looked at; more are people enough."""
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")

_SHOWN = 200
_PROPERTIES = "org.freedesktop.DBus.Properties"
_UPOWER = "org.freedesktop.UPower"
_PROFILES = (
    ("org.freedesktop.UPower.PowerProfiles", "/org/freedesktop/UPower/PowerProfiles"),
    ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles"),
)


async def gather(bus: Bus, known: Surroundings) -> Surroundings:
    """What is known, with what the services say in addition, or better."""
    (on_battery, percent), saver, people, locks, shutdown, costs = await asyncio.gather(
        _told("UPower", _power(bus), (None, None)), _told("the power profile", _power_saver(bus), None),
        _told("sessions", _users(bus), None), _told("inhibitor locks", _locks(bus), None),
        _told("a planned shutdown", planned_shutdown(bus), None), metered(bus))
    if on_battery is not None:
        known = replace(known, on_battery=on_battery, battery=percent if percent is not None else known.battery)
    return replace(known, power_saver=saver, users=people, locks=locks, shutdown=shutdown, metered=costs)


async def planned_shutdown(bus: Bus) -> datetime | None:
    """When logind shuts down or reboots; None when nothing is planned. Raises BusError, ValueError."""
    kind, when = _shaped(await _get(bus, *LOGIND[:2], LOGIND[2], "ScheduledShutdown"), str, int)
    # logind says the end of time where it has no plan. Dry runs of shutdown(8) shut nothing down.
    if not kind or kind.startswith("dry-") or not 0 < when < 1 << 62:
        return None
    return datetime.fromtimestamp(min(when / 1_000_000, 253402214400), UTC)


async def _told(what: str, answer: Awaitable[T], otherwise: T) -> T:
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer
    except (BusError, TimeoutError) as error:
        log.debug("nobody tells of %s: %s", what, error)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, OSError) as error:
        log.warning("what is said of %s makes no sense: %s", what, error)
    return otherwise


async def _power(bus: Bus) -> tuple[bool | None, int | None]:
    on_battery = await _get(bus, _UPOWER, "/org/freedesktop/UPower", _UPOWER, "OnBattery")
    if type(on_battery) is not bool:
        raise ValueError(f"OnBattery is {on_battery!r}")
    if not on_battery:
        return False, None
    found = await _all(bus, _UPOWER, "/org/freedesktop/UPower/devices/DisplayDevice", f"{_UPOWER}.Device")
    percent = found.get("Percentage")
    fits = type(percent) is float and 0 <= percent <= 100 and found.get("IsPresent", True) is True
    return True, int(percent) if fits and percent is not None else None


async def _power_saver(bus: Bus) -> bool | None:
    for name, path in _PROFILES:
        try:
            profile = await _get(bus, name, path, name, "ActiveProfile")
        except BusError:
            continue
        if isinstance(profile, str):
            return profile == "power-saver"
    return None


async def _users(bus: Bus) -> tuple[User, ...]:
    """Who is logged in at a seat, a terminal, or from elsewhere; not greeters, and no sessions that only run jobs."""
    (sessions,) = await bus.call(*LOGIND, "ListSessions", timeout=PATIENCE, start=False)
    paths = [str(session[4]) for session in sessions[:MAX_SESSIONS]]
    found = await asyncio.gather(*(_session(bus, path) for path in paths))
    return tuple(user for user in found if user is not None)


async def _session(bus: Bus, path: str) -> User | None:
    try:
        session = await _all(bus, LOGIND[0], path, "org.freedesktop.login1.Session")
    except BusError as error:
        if error.silent:
            raise
        return None  # it has ended meanwhile
    if not str(session.get("Class", "user")).startswith("user") or session.get("State") == "closing":
        return None
    seat = session.get("Seat")
    if not (session.get("TTY") or session.get("Remote") or session.get("Display")
            or (isinstance(seat, list) and seat and seat[0])):
        return None
    since = session.get("IdleSinceHint")
    idle = session.get("IdleHint") is True and isinstance(since, int) and 0 < since < 1 << 62
    return User(str(session.get("Name") or "somebody"),
                datetime.fromtimestamp(since / 1_000_000, UTC) if idle and isinstance(since, int) else None)


async def _locks(bus: Bus) -> tuple[Lock, ...]:
    """Who holds a shutdown back altogether; a delay is no refusal. The words are those of any local user."""
    (inhibitors,) = await bus.call(*LOGIND, "ListInhibitors", timeout=PATIENCE, start=False)
    return tuple(Lock(line(str(who)[:_SHOWN]) or "Somebody", line(str(why)[:_SHOWN]))
                 for what, who, why, mode, _, pid in inhibitors
                 if "shutdown" in str(what).split(":") and str(mode).startswith("block") and pid != os.getpid())


async def _get(bus: Bus, name: str, path: str, interface: str, prop: str) -> Any:
    (value,) = await bus.call(name, path, _PROPERTIES, "Get", "ss", interface, prop, timeout=PATIENCE, start=False)
    return value


async def _all(bus: Bus, name: str, path: str, interface: str) -> dict[str, Any]:
    (values,) = await bus.call(name, path, _PROPERTIES, "GetAll", "s", interface, timeout=PATIENCE, start=False)
    if not isinstance(values, dict):
        raise ValueError(f"{path} answered no properties")
    return values


def _shaped(value: Any, *kinds: type) -> Any:
    if not isinstance(value, (list, tuple)) or [type(one) for one in value] != list(kinds):
        raise ValueError(f"unexpected {value!r:.100}")
    return value
