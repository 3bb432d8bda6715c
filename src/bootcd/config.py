# SPDX-License-Identifier: Apache-2.0
"""The configuration: bootcd.toml and its drop-ins, documented in bootcd.toml(5).

Files are read in the order of `SEARCH_PATH`; a later one wins key by key. An unknown key is a warning that names file
and key: a file that was written for another version shall not keep a machine from its updates. A value that cannot be
used is an error.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigError, UsageError
from .model import parse_size
from .schedule import parse_duration, parse_window

SEARCH_PATH = (
    Path("/usr/lib/bootcd/bootcd.toml"),
    Path("/usr/lib/bootcd/bootcd.toml.d"),
    Path("/etc/bootcd/bootcd.toml"),
    Path("/etc/bootcd/bootcd.toml.d"),
)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; the field `keep_previous` is the key `previous` of the table `[keep]`, and so on."""

    keep_previous: int = 1
    """How many deployments are kept for rollback beside the booted, staged and pinned ones."""
    boot_tries: int = 3
    """How often the loader tries a new entry before it falls back; 0 turns boot counting off."""
    boot_mirrors: tuple[str, ...] = ()
    """Where boot partitions of further disks are mounted, which are kept equal to the first."""
    health_on_failure: str = "reboot"
    """What follows when the boot of a deployment fails that is not known to be good: reboot, rollback or stay."""
    health_check_timeout: int = 300
    """Seconds that one check may take; 0 for no limit."""
    health_upgrade_untried: bool = False
    """Whether something is staged before the boot of the running deployment is complete."""
    pull_max_layer_size: int = 64 << 30
    """Largest layer that is accepted, in bytes when decompressed."""
    pull_parallel: int = 3
    """How many layers are fetched at the same time."""
    pull_max_rate: int = 0
    """Bytes in a second that downloads may take; 0 for no limit."""
    pull_max_download: int = 0
    """Bytes that a run that nobody waits for may download; 0 for no limit."""
    pull_metered: str = "check"
    """What a run that nobody waits for does over a metered connection: check, allow (a download as well) or never (not
    even ask)."""
    pull_by_file: bool = True
    """Whether layers in the format zstd:chunked are fetched by file, where that saves something."""
    pull_deltas: bool = True
    """Whether deltas that are attached to an image are looked for, and used where that saves something."""
    registry_ca_file: str = ""
    """PEM file with the authorities trusted in place of the system's; empty for those."""
    registry_auth_file: str = ""
    """auth.json to use instead of the places where containers tools look."""
    registry_registries_file: str = ""
    """registries.conf to use instead of the usual ones."""
    registry_proxy: str = ""
    """Address of the proxy for registries; empty for what the environment says."""
    registry_no_proxy: tuple[str, ...] = ()
    """Hosts and domains that are asked without it."""
    sysupdate_enabled: bool = True
    """Whether GNOME Software and updatectl are served by org.freedesktop.sysupdate1 and io.systemd.SysUpdate."""
    sysupdate_appstream_urls: tuple[str, ...] = ()
    """Where AppStream documents about the operating system are; with one, GNOME Software offers no restart."""
    trust_policy: str = ""
    """policy.json to use instead of the usual ones; must exist."""
    trust_registries_d: str = ""
    """Directory that says where signatures are, instead of /etc/containers/registries.d."""
    trust_bundles: tuple[str, ...] = ()
    """Names of images, repositories or what they are in whose signatures need not say what the image is called."""
    trust_timestamp_ca_file: str = ""
    """PEM file with the authorities whose time stamps of signatures count; empty for none."""
    registry_insecure: tuple[str, ...] = ()
    """Hosts (host or host:port) that may be asked over plain HTTP or with an unverified certificate."""
    update_automatic: str = "stage"
    """How far a machine goes without being asked: none, or one of check, download, stage and reboot."""
    update_check_interval: str = "6h"
    """How long it is between two checks, by and large."""
    update_check_windows: tuple[str, ...] = ()
    """When the source may be asked; empty for any time. The same follows for the other steps."""
    update_download_windows: tuple[str, ...] = ()
    update_stage_windows: tuple[str, ...] = ()
    update_reboot_windows: tuple[str, ...] = ()
    update_time_zone: str = ""
    """Where the clock of the windows hangs; empty for the time zone of the machine."""
    update_min_age: str = "0"
    """How old an image has to be."""
    update_wariness: float = 0.5
    """Where the machine stands in a phased rollout: from 0, among the first, to 1, among the last."""
    update_min_battery: int = 50
    """Percent that have to be left on battery; 100 wants the mains, 0 nothing."""
    update_max_load: float = 0.0
    """Load average over five minutes for each processor; 0.0 for any."""
    update_idle_users: str = ""
    """For how long users have to be idle so that they do not hold a reboot back; empty when they always do, 0 when they
    never do."""
    update_cool_down: str = "1h"
    """How long nothing is tried after something went wrong."""
    update_reboot_warning: str = "10min"
    """How long before a reboot users are warned."""
    update_fleetlock: str = ""
    """Address of the FleetLock server that is asked before a reboot; empty for none."""
    update_fleetlock_group: str = "default"
    """The group of machines in which it counts."""


_SIZES = {"pull_max_layer_size", "pull_max_rate", "pull_max_download"}
"""May be strings as well: 512K, 20G."""
_RANGES = {"pull_parallel": range(1, 17), "update_min_battery": range(101)}
_CHOICES = {"health_on_failure": ("reboot", "rollback", "stay"), "pull_metered": ("check", "allow", "never"),
            "update_automatic": ("none", "check", "download", "stage", "reboot")}

Warn = Callable[[str], None]


def load(paths: Iterable[Path] = SEARCH_PATH, warn: Warn = lambda message: None) -> Config:
    """Read the configuration from files and directories of `*.toml`; what is missing is skipped. `warn` is called for
    each key that is not known. Raises ConfigError."""
    config = Config()
    for path in paths:
        for file in sorted(path.glob("*.toml")) if path.is_dir() else [path]:
            try:
                text = file.read_text("utf-8")
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: cannot be read: {error}") from error
            config = _apply(config, text, str(file), warn)
    return config


def load_named(file: str | None, warn: Warn = lambda message: None) -> Config:
    """What `--config FILE` asks for: that file and no other, which must exist; without one, the usual ones. Raises
    ConfigError."""
    if file is None:
        return load(warn=warn)
    if not Path(file).exists():
        raise ConfigError(f"{file}: no such file")
    return load([Path(file)], warn)


def _apply(config: Config, text: str, where: str, warn: Warn) -> Config:
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}") from error
    defaults = {field.name: getattr(config, field.name) for field in fields(Config)}
    changes: dict[str, Any] = {}
    for table, keys in document.items():
        if not isinstance(keys, dict):
            raise ConfigError(f"{where}: '{table}' stands outside of a table")
        for key, value in keys.items():
            name = f"{table}_{key}".replace("-", "_")
            if name not in defaults:
                warn(f"{where}: unknown key '{key}' in [{table}] is ignored")
                continue
            place = f"{where}: [{table}] {key}"
            if name in _SIZES and isinstance(value, str):
                value = _size(value, place)
            changes[name] = value = _checked(value, defaults[name], place)
            if name in _CHOICES and value not in _CHOICES[name]:
                raise ConfigError(f"{place}: expected one of {', '.join(_CHOICES[name])}")
            if name in _RANGES and value not in _RANGES[name]:
                raise ConfigError(f"{place}: expected {_RANGES[name].start} to {_RANGES[name].stop - 1}")
            if name in _MEANINGS:
                _understand(name, value, place)
    return replace(config, **changes)


def _understand(name: str, value: Any, where: str) -> None:
    """Raises ConfigError for text that has a form which is not that of the key."""
    try:
        for text in value if isinstance(value, tuple) else (value,):
            _MEANINGS[name](text)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error


def _interval(text: str) -> None:
    if parse_duration(text).total_seconds() < 60:
        raise UsageError(f"'{text}' is less than a minute")


def _warning(text: str) -> None:
    if parse_duration(text).total_seconds() > 86400:
        raise UsageError(f"'{text}' is more than a day")


def _optional_duration(text: str) -> None:
    if text:
        parse_duration(text)


def _wariness(number: float) -> None:
    if not 0 <= number <= 1:
        raise UsageError("expected 0.0 to 1.0")


def _time_zone(name: str) -> None:
    if not name:
        return
    from zoneinfo import ZoneInfo  # not for those who have none

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise UsageError(f"'{name}' is no time zone that this machine knows") from error


def _fleetlock(address: str) -> None:
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
        fits = fits and not parts.query and not parts.fragment and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if address and not fits:
        raise UsageError(f"'{address}' is no address; write for example https://fleetlock.example.org")


def _group(name: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9.-]+", name, re.ASCII):
        raise UsageError(f"'{name}' is no group; letters, digits, dots and dashes make one")


_MEANINGS: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys((f"update_{step}_windows" for step in ("check", "download", "stage", "reboot")), parse_window),
    "update_check_interval": _interval, "update_min_age": parse_duration, "update_cool_down": parse_duration,
    "update_reboot_warning": _warning, "update_idle_users": _optional_duration, "update_time_zone": _time_zone,
    "update_wariness": _wariness, "update_fleetlock": _fleetlock, "update_fleetlock_group": _group,
}
"""Keys whose text has a form of its own. Raise UsageError."""


def _size(text: str, where: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error


def _checked(value: object, default: object, where: str) -> object:
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ConfigError(f"{where}: expected a list of strings")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default) or value != value:  # TOML knows nan
        kind = {bool: "true or false", int: "an integer", float: "a number"}.get(type(default), "a string")
        raise ConfigError(f"{where}: expected {kind}")
    if isinstance(value, (int, float)) and value < 0:
        raise ConfigError(f"{where}: must not be negative")
    return value
