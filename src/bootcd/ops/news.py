# SPDX-License-Identifier: Apache-2.0
"""What a machine's owner wants to hear of: made by comparing the status with what was told before. Pure.

    update-available   a check found an image that would be taken         once for each image
    staged             a deployment waits for the shutdown                once, and again when it may boot after all
    applied            another deployment runs than before                once, after the boot
    fell-back          an older deployment runs, since the newest is bad  once for each fallback
    failed             an operation, or a boot, failed                    once until something succeeds

What is compared is kept (`Told`, state/bootcd/told.json), so that nothing is told again by a daemon that starts anew,
and a boot is noticed by the first daemon after it. It is kept after it was told: a crash in between tells twice rather
than never. A machine without that file has nothing to compare with: it starts to tell from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .results import DeploymentInfo, LastResult, Status


class Kind(StrEnum):
    UPDATE_AVAILABLE = "update-available"
    STAGED = "staged"
    APPLIED = "applied"
    FELL_BACK = "fell-back"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Notice:
    """One piece of news. `message` is a sentence; `facts` are named as the fields of the journal are, without BOOTCD_
    and in small letters with dashes."""

    kind: str
    message: str
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class VerbResult:
    """How a verb ended the last time."""

    verb: str
    success: bool
    time: str


@dataclass(frozen=True, slots=True)
class Told:
    """What was told already, each by what tells it apart; and what is counted on the way."""

    booted: str = ""
    update: str = ""
    staged: str = ""
    fell_back: str = ""
    failed: str = ""
    fallbacks: int = 0
    """How often the machine fell back, as far as it was noticed."""
    results: tuple[VerbResult, ...] = field(default=())
    """By verb."""


def news(told: Told | None, status: Status) -> tuple[tuple[Notice, ...], Told]:
    """What is to be told of a status, and what has been told then. Of a machine that knows no deployment, which may
    only be one whose disk does not answer, nothing is."""
    if not status.deployments:
        return (), told or Told()
    if told is None:
        return (), _after(Told(), status)
    notices = tuple(_news(told, status))
    fallbacks = sum(notice.kind == Kind.FELL_BACK for notice in notices)
    return notices, replace(_after(told, status), fallbacks=told.fallbacks + fallbacks)


def _news(told: Told, status: Status) -> Iterator[Notice]:
    now = _after(told, status)
    booted, staged, update = status.with_role("booted"), status.with_role("staged"), status.update
    left = _info(status, status.fell_back_from)
    if now.fell_back and now.fell_back != told.fell_back and left is not None:
        running = {"running": booted.id, "running-version": booted.version} if booted is not None else {}
        yield Notice(Kind.FELL_BACK, f"The machine runs {_name(booted)}, because {_name(left)} is bad: "
                     f"{left.health_reason}.", _about(left) | {"reason": left.health_reason} | running)
    elif told.booted and now.booted != told.booted and booted is not None:
        yield Notice(Kind.APPLIED, f"The machine runs {_name(booted)} of {booted.image} now.",
                     _about(booted) | {"previous": told.booted})
    if now.update != told.update and update is not None:
        yield Notice(Kind.UPDATE_AVAILABLE, f"An update is available: {update.version or update.manifest_digest} of "
                     f"{update.image}.", {
                         "image": update.image, "image-version": update.version,
                         "image-digest": update.manifest_digest, "running-version": update.current_version,
                         "download-size": str(update.download_size)})
    if now.staged and now.staged != told.staged and staged is not None:
        when = "is downloaded, and waits for an upgrade" if staged.download_only else "runs after the next reboot"
        yield Notice(Kind.STAGED, f"What is staged {when}: {_name(staged)} of {staged.image}.", _about(staged) | {
            "download-only": str(staged.download_only).lower()})
    last = status.last
    if now.failed and now.failed != told.failed and last is not None:
        yield Notice(Kind.FAILED, f"The last {last.verb} failed: {last.message}", {
            "verb": last.verb, "error": last.error, "advice": last.advice, "by": last.by, "ended": last.ended})


def _after(told: Told, status: Status) -> Told:
    booted, staged, update, last = (status.with_role("booted"), status.with_role("staged"), status.update, status.last)
    left = _info(status, status.fell_back_from)
    offered = update is not None and update.available and not update.rejected
    return Told(
        booted=booted.id if booted is not None else told.booted,
        # Kept when it is staged, so that it is no news when it is unstaged.
        update=update.manifest_digest if update is not None and offered else told.update,
        staged=f"{staged.id} {staged.staged} {staged.download_only}" if staged is not None else "",
        fell_back=f"{left.id} {left.generation}" if left is not None else "",
        failed=f"{last.verb} {last.error} {last.message}" if last is not None and is_failure(last) else "",
        fallbacks=told.fallbacks, results=_results(told.results, status))


def is_failure(last: LastResult) -> bool:
    """Whether somebody should look at it. A finalize is cancelled by nobody but systemd, when its time at shutdown is
    over."""
    return last.state == "failed" or (last.verb, last.state) == ("finalize", "cancelled")


def _results(results: tuple[VerbResult, ...], status: Status) -> tuple[VerbResult, ...]:
    found = {result.verb: result for result in results}
    last = status.last
    # A check that succeeds is no last result: `update_time` tells of it.
    if status.update_time and status.update_time > (found["check"].time if "check" in found else ""):
        found["check"] = VerbResult("check", True, status.update_time)
    if last is not None and not (last.verb in found and found[last.verb].time >= last.ended):
        found[last.verb] = VerbResult(last.verb, last.state == "succeeded", last.ended)
    return tuple(found[verb] for verb in sorted(found))


def _info(status: Status, deployment: str) -> DeploymentInfo | None:
    return next((info for info in status.deployments if info.id == deployment), None) if deployment else None


def _about(info: DeploymentInfo) -> dict[str, str]:
    return {"deployment": info.id, "image": info.image, "image-version": info.version,
            "image-digest": info.manifest_digest}


def _name(info: DeploymentInfo | None) -> str:
    if info is None:
        return "an older version"
    return f"version {info.version}" if info.version else f"deployment {info.id[:12]}"
