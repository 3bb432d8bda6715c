# SPDX-License-Identifier: Apache-2.0
"""What the gates of the update policy look at, and how they name it."""

from __future__ import annotations

from datetime import datetime

from ..errors import BootcdError
from ..model import ImageReference
from ..schedule import DAYS
from .results import CheckResult, DeploymentInfo
from .rules import Facts, Rules
from .times import moment


def target(facts: Facts, step: str) -> str:
    """The manifest digest of the image that a step is about; empty for a check."""
    staged, update = facts.status.with_role("staged"), facts.status.update
    if step == "check":
        return ""
    if step in ("download", "stage") and update is not None and update.available:
        return update.manifest_digest
    return staged.manifest_digest if staged is not None else ""


def is_downloaded(facts: Facts) -> bool:
    """Whether the image that would be staged lies here and only has to be made to boot."""
    staged = facts.status.with_role("staged")
    return staged is not None and staged.download_only and staged.manifest_digest == target(facts, "stage")


def is_taken_back(facts: Facts, staged: DeploymentInfo) -> bool:
    """Whether a check after the staging has found that the source offers neither this image nor a newer one."""
    asked, since = moment(facts.status.update_time), moment(staged.staged)
    return facts.status.update is None and asked is not None and since is not None and asked > since


def subject(facts: Facts, step: str) -> CheckResult | None:
    """What is known of the image that is downloaded or staged."""
    update = facts.status.update
    if step not in ("download", "stage") or update is None or not (update.available or update.staged):
        return None
    return update if update.manifest_digest == target(facts, step) else None


def downloads(facts: Facts, step: str) -> bool:
    update = facts.status.update
    return step == "download" or (step == "stage" and update is not None and update.available and is_missing(update))


def is_missing(update: CheckResult) -> bool:
    return update.layers_missing > 0 or not update.layers


def tracked(facts: Facts) -> DeploymentInfo | None:
    return next((info for role in ("staged", "booted", "default")
                 if (info := facts.status.with_role(role)) is not None), None)


def is_remote(facts: Facts) -> bool:
    found = tracked(facts)
    try:
        return found is not None and ImageReference.parse(found.image).transport == "docker"
    except BootcdError:
        return True


def name_of(update: CheckResult) -> str:
    return f"Version {update.version}" if update.version else f"Image {update.manifest_digest[:19]}"


def version_of(info: DeploymentInfo) -> str:
    return info.version or info.id[:12]


def sentence(text: str) -> str:
    """Words of others as the end of a sentence."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text[:300]).split()).rstrip(".")
    return f"{text}." if text else "nobody says why."


def shown(when: datetime | None, rules: Rules) -> str:
    if when is None:
        return "an unknown time"
    wall = when.astimezone(rules.zone)
    return f"{DAYS[wall.weekday()]} {wall:%Y-%m-%d %H:%M} {wall.tzname() or ''}".rstrip()
