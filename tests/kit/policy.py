# SPDX-License-Identifier: Apache-2.0
"""Facts and rules for the update policy, made of what a test wants to say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from bootcd.config import Config
from bootcd.ops.results import CheckResult, DeploymentInfo, EtcChanges, LastResult, Status
from bootcd.ops.rules import Facts, Rules, Surroundings

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
"""A Sunday."""
MACHINE = "5ee7a2e4a2a94a7e8e0b2f1b6f3b4c5d"
IMAGE = "registry.example/os:stable"
BOOTED = NOW - timedelta(days=3)


def digest(number: int) -> str:
    """That of the image with a number, which is its version as well."""
    return f"sha256:{number:064x}"


def deployment(number: int, *roles: str, **changes: Any) -> DeploymentInfo:
    """A deployment of the image with that number, which works."""
    info = DeploymentInfo(
        id=f"{number:0128x}", roles=roles, image=IMAGE, version=f"{number}", title="", manifest_digest=digest(number),
        created="", staged=(NOW - timedelta(hours=1)).isoformat(), generation=None if "staged" in roles else number,
        pins=(), health="good", health_reason="", boot_type="bls", boot_digest="", kernel_version="", options="",
        verification="", etc=EtcChanges())
    return replace(info, **changes)


def update(number: int, **changes: Any) -> CheckResult:
    """What a check found: the image with that number, built a day ago, all of which has to be downloaded."""
    found = CheckResult(
        IMAGE, True, digest(number), version=f"{number}", created=(NOW - timedelta(days=1)).isoformat(),
        download_size=1000, layers=3, layers_missing=3, config_digest=digest(number + 1000),
        seen=(NOW - timedelta(hours=1)).isoformat())
    return replace(found, **changes)


def failed(verb: str, *, ago: timedelta = timedelta(minutes=5), state: str = "failed") -> LastResult:
    """The last operation, which went wrong."""
    when = (NOW - ago).isoformat()
    return LastResult(verb, state, "org.bootcd1.Error.SourceUnreachable", "the network is down", "", when, when,
                      "uid 0")


def facts(*deployments: DeploymentInfo, around: Surroundings | None = None, **changes: Any) -> Facts:
    """A machine that runs image 1, knows of no update and has just checked; `changes` are those of its status."""
    status = Status("/sysroot", "/efi", deployments or (deployment(1, "booted", "default"),), None, "", (),
                    update_time=(NOW - timedelta(minutes=30)).isoformat())
    surroundings = Surroundings(booted=BOOTED, machine_id=MACHINE)
    return Facts(replace(status, **changes), around if around is not None else surroundings)


def seeing(known: Facts, **changes: Any) -> Facts:
    """The same machine in other surroundings."""
    return replace(known, around=replace(known.around, **changes))


def rules(automatic: str = "reboot", zone: tzinfo = UTC, **settings: Any) -> Rules:
    """The rules of a configuration with these keys of [update]."""
    config = Config(update_automatic=automatic, **{f"update_{name}": value for name, value in settings.items()})
    return Rules.of(config, zone)
