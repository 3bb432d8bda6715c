# SPDX-License-Identifier: Apache-2.0
"""Which of the things that happen are written to the journal."""

from __future__ import annotations

from ..ops.results import Status
from . import events
from .jobs import Job


def started(job: Job) -> None:
    events.job_started(_entry(job))


def ended(job: Job) -> None:
    name, message, advice = job.error
    if job.state == "succeeded":
        events.job_succeeded(_entry(job))
    elif job.state == "cancelled":
        events.job_cancelled(_entry(job))
    else:
        events.job_failed(_entry(job), name, message, advice)


def news(before: Status, after: Status) -> None:
    """What has changed for the machine's owner."""
    update = after.update
    if update is not None and update.available and (
            before.update is None or before.update.manifest_digest != update.manifest_digest):
        events.update_available(update)
    known = {info.id for info in before.deployments}
    for info in after.deployments:
        if "staged" in info.roles and info.id not in known:
            events.staged(info)


def _entry(job: Job) -> events.JobEntry:
    arguments = job.request.arguments
    return events.JobEntry(job.number, job.verb.kind, job.starter.uid, job.starter.program,
                           image=arguments.get("image") or "", deployment=arguments.get("deployment") or "")
