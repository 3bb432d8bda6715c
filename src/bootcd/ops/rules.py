# SPDX-License-Identifier: Apache-2.0
"""What the update policy decides on: the rules of the configuration, and facts about the machine. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from ..config import Config
from ..schedule import Window, parse_duration, parse_window
from .decisions import GateInfo
from .results import Status

STEPS = ("check", "download", "stage", "reboot")
FLEETLOCK = "fleetlock"
"""What a worker is asked, instead of a verb, to do `fleetlock.ask` with its argument `step`."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who is logged in at a screen, a terminal or over the network; `idle` since when, None when active."""

    name: str
    idle: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """Who holds a shutdown back by a lock of logind's, and why."""

    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What others say of the machine; None for what nobody tells."""

    metered: bool | None = None
    on_battery: bool | None = None
    battery: int | None = None
    """Percent."""
    power_saver: bool | None = None
    users: tuple[User, ...] | None = None
    locks: tuple[Lock, ...] | None = None
    load: float | None = None
    """Load average over five minutes, divided by the number of processors."""
    booted: datetime | None = None
    machine_id: str = ""
    shutdown: datetime | None = None
    """When the machine shuts down or reboots because somebody else has planned it."""


@dataclass(frozen=True, slots=True)
class FleetLock:
    """How things stand with the lock server in this boot: whether it knows that this machine is up again, what it said
    last if that was no consent, and when it is asked again."""

    steady: bool = False
    problem: str = ""
    retry: datetime | None = None


@dataclass(frozen=True, slots=True)
class FleetLockAnswer:
    """Whether the lock server consents, and why not."""

    granted: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the policy decides on. `tried` is, for each step, when it was begun last and for which image; `dismissed`
    the deployment whose reboot somebody has cancelled, and until when that counts; `running` the verb that changes
    something now, empty where none does."""

    status: Status
    around: Surroundings = Surroundings()
    fleetlock: FleetLock = FleetLock()
    tried: Mapping[str, tuple[str, datetime]] = field(default_factory=dict)
    dismissed: tuple[str, datetime] | None = None
    running: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The table [update] of the configuration, and what of the rest matters here."""

    automatic: str
    zone: tzinfo
    windows: Mapping[str, tuple[Window, ...]]
    check_interval: timedelta
    min_age: timedelta
    wariness: float
    min_battery: int
    max_load: float
    idle_users: timedelta | None
    cool_down: timedelta
    warning: timedelta
    fleetlock: bool
    metered: str
    upgrade_untried: bool

    @classmethod
    def of(cls, config: Config, zone: tzinfo) -> Rules:
        """The rules of a configuration that was read; `zone` is that of the machine, for where it names none."""
        if config.update_time_zone:
            from zoneinfo import ZoneInfo

            zone = ZoneInfo(config.update_time_zone)
        windows = {"check": config.update_check_windows, "download": config.update_download_windows,
                   "stage": config.update_stage_windows, "reboot": config.update_reboot_windows}
        idle = config.update_idle_users
        return cls(
            automatic=config.update_automatic, zone=zone,
            windows={step: tuple(map(parse_window, texts)) for step, texts in windows.items()},
            check_interval=parse_duration(config.update_check_interval),
            min_age=parse_duration(config.update_min_age), wariness=config.update_wariness,
            min_battery=config.update_min_battery, max_load=config.update_max_load,
            idle_users=parse_duration(idle) if idle else None, cool_down=parse_duration(config.update_cool_down),
            warning=parse_duration(config.update_reboot_warning), fleetlock=bool(config.update_fleetlock),
            metered=config.pull_metered, upgrade_untried=config.health_upgrade_untried,
        )

    @property
    def level(self) -> int:
        """How many of STEPS are done alone."""
        return STEPS.index(self.automatic) + 1 if self.automatic in STEPS else 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says; see GateInfo."""

    gate: str
    allows: bool
    text: str
    next: datetime | None = None
    waits: str = ""

    def info(self) -> GateInfo:
        return GateInfo(self.gate, self.allows, self.text, iso(self.next), self.waits)


def iso(when: datetime | None) -> str:
    """A time as results have it: in UTC, to the second, never before the moment that is meant."""
    if when is None:
        return ""
    when = when.astimezone(UTC)
    return (when + timedelta(microseconds=-when.microsecond % 1_000_000)).isoformat(timespec="seconds")
