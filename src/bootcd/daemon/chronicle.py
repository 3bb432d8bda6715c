# SPDX-License-Identifier: Apache-2.0
"""Which of the things that happen are written to the journal."""

from __future__ import annotations

from ..ops.news import Kind, Notice
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


def news(notice: Notice, status: Status) -> None:
    """What is not in the journal by another way: of a failure and of a fallback those tell that notice them."""
    booted, staged, update = status.with_role("booted"), status.with_role("staged"), status.update
    if notice.kind == Kind.UPDATE_AVAILABLE and update is not None:
        events.update_available(update)
    elif notice.kind == Kind.STAGED and staged is not None:
        events.staged(staged)
    elif notice.kind == Kind.APPLIED and booted is not None:
        events.applied(booted, notice.facts["previous"])


def _entry(job: Job) -> events.JobEntry:
    arguments = job.request.arguments
    return events.JobEntry(job.number, job.verb.kind, job.starter.uid, job.starter.program,
                           image=arguments.get("image") or "", deployment=arguments.get("deployment") or "")
