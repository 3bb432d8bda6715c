# SPDX-License-Identifier: Apache-2.0
"""Whether there is anything to check, to download, to stage, or to reboot into: the first gate that matters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from . import rollout
from .rules import Facts, Rules, Verdict
from .subject import is_missing, is_taken_back, name_of, shown, tracked, version_of
from .times import moment

BOOT_SPREAD = timedelta(hours=1)
"""In so much time, those machines ask that missed their moment because they were off."""
LONG_AGO = timedelta(days=3)
"""A machine that had not asked for so long when it started hurries: it may be on for only a short time each day."""


def due(facts: Facts, rules: Rules, step: str, now: datetime) -> Verdict:
    """Whether there is anything to do."""
    if tracked(facts) is None:
        return Verdict("nothing", False, "No image is followed here.", waits="something is installed")
    return _DUE[step](facts, rules, now)


def _check_due(facts: Facts, rules: Rules, now: datetime) -> Verdict:
    """Each machine has its own moments, so that a fleet does not ask at once; one that missed its moment asks soon
    after it has started, and not all do together."""
    last = moment(facts.status.update_time)
    booted, interval = facts.around.booted, rules.check_interval
    if last is not None and last > now:
        return Verdict("interval", True, "The source was asked in the future: the clock was put back, and it is asked "
                       "again.")
    ready = now if last is None else _slot(facts, interval, last + interval / 2)
    if booted is not None and (last is None or ready < booted):
        spread = min(BOOT_SPREAD, interval / 6) / (6 if last is None or booted - last > LONG_AGO else 1)
        ready = booted + spread * rollout.fraction(facts.around.machine_id, "boot")
    asked = f"was asked at {shown(last, rules)}" if last is not None else "was never asked"
    if ready <= now:
        return Verdict("interval", True, f"The source {asked}, so it is time to ask.")
    return Verdict("interval", False, f"The source {asked}; the next moment of this machine is {shown(ready, rules)}.",
                   ready)


def _slot(facts: Facts, interval: timedelta, after: datetime) -> datetime:
    """The first moment of this machine from `after` on."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    first = epoch + interval * rollout.fraction(facts.around.machine_id, "check")
    return first - (first - after) // interval * interval


def _download_due(facts: Facts, rules: Rules, now: datetime) -> Verdict:
    update, staged = facts.status.update, facts.status.with_role("staged")
    if update is None or not (update.available or update.staged):
        return Verdict("update", False, "No newer image is known.", waits="a check finds a newer image")
    name = name_of(update)
    if update.staged:
        return Verdict("update", False, f"{name} is downloaded already.", waits="a check finds a newer image")
    if staged is not None and not staged.download_only:
        return Verdict("update", False, f"Version {version_of(staged)} is staged, and only staging replaces it.",
                       waits="a check finds a newer image when nothing is staged")
    if not is_missing(update):
        return Verdict("update", False, f"All of {name} is here already.", waits="a check finds a newer image")
    return Verdict("update", True, f"{name} is available.")


def _stage_due(facts: Facts, rules: Rules, now: datetime) -> Verdict:
    update, staged = facts.status.update, facts.status.with_role("staged")
    newer = update is not None and update.available
    if newer and update is not None and ((staged is not None and not staged.download_only) or not is_missing(update)):
        return Verdict("update", True, f"{name_of(update)} is available and takes the place of what is staged."
                       if staged is not None else f"All of {name_of(update)} is here.")
    if newer:
        return Verdict("update", False, "The newer image is not downloaded yet.", waits="it is downloaded")
    if staged is None:
        return Verdict("update", False, "Nothing is downloaded that could be staged.", waits="something is downloaded")
    if not staged.download_only:
        return Verdict("update", False, f"Version {version_of(staged)} is staged already.",
                       waits="a check finds a newer image")
    if is_taken_back(facts, staged):
        what = f"Version {version_of(staged)} is downloaded, but its source has taken it back."
        return Verdict("update", False, what, waits="a check finds a newer image")
    return Verdict("update", True, f"Version {version_of(staged)} is downloaded.")


def _reboot_due(facts: Facts, rules: Rules, now: datetime) -> Verdict:
    """Only for what is staged: a rollback or a reset is the matter of who asked for it."""
    status = facts.status
    staged, booted = status.with_role("staged"), status.with_role("booted")
    if booted is None:
        return Verdict("update", False, "No deployment of this installation runs.", waits="one is booted")
    if any(info.reset for info in status.deployments):
        return Verdict("reset", False, "The next shutdown makes /etc or /var anew, and a person decides when.",
                       waits="a person reboots")
    if staged is None or staged.download_only:
        return Verdict("update", False, "Nothing is staged that a reboot would bring.", waits="something is staged")
    if is_taken_back(facts, staged):
        return Verdict("update", False, f"Version {version_of(staged)} is staged, but its source has taken it back.",
                       waits="a check finds a newer image, or a person reboots")
    return Verdict("update", True, f"Version {version_of(staged)} is staged.")


_DUE: dict[str, Callable[[Facts, Rules, datetime], Verdict]] = {
    "check": _check_due, "download": _download_due, "stage": _stage_due, "reboot": _reboot_due}
