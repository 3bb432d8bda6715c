# SPDX-License-Identifier: Apache-2.0
"""Objects of org.freedesktop.sysupdate1.Job: views of jobs of ours, and of work that was done before it was asked for.

The end of a job is told by JobRemoved, and only after that by the disappearance of its object: GNOME Software 51 asks
for the properties of a job that it was told of, and crashes when it does not get them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ..bus import Bus
from ..exports import Call, Exported
from ..interfaces import SYSUPDATE_JOB, SYSUPDATE_ROOT
from ..jobs import CANCELLED, Job
from ..lingering import Lingering
from . import errors
from .requests import Kind

_WORK = 95
"""Percent at which the last counted stage of a job ends; what comes after it is not counted."""

Removed = Callable[[int, str, int], None]
"""Told the number, the path and the status of each job that is over."""


class Progress:
    """One percentage over all stages of a job, which never goes back."""

    def __init__(self) -> None:
        self.percent = 0
        self._base = 0
        self._stage = ""

    def advance(self, stage: str, percent: int, *, counted: bool) -> int:
        """The percentage of the job when so much of a stage is done; only some stages count bytes."""
        if stage != self._stage:
            self._stage, self._base = stage, self.percent
        if counted:
            self.percent = max(self.percent, self._base + (_WORK - self._base) * percent // 100)
        return self.percent


class View:
    """One object. `job` is None when nothing had to be done; `to_version` says that another version than the
    newest was asked for."""

    def __init__(self, number: int, kind: Kind, job: Job | None, uid: int, *, to_version: bool) -> None:
        self.number = number
        self.kind = kind
        self.uid = uid
        self.to_version = to_version
        self.path = f"{SYSUPDATE_ROOT}/job/_{number}"
        self.is_over = False
        self._job = job
        self._progress = Progress()
        self.exported = Exported(SYSUPDATE_JOB, {"Cancel": self._cancel},
                                 {"Id": number, "Type": kind.value, "Offline": False, "Progress": 0})
        if job is not None:
            job.followers.append(self._follow)
            self._follow()

    @property
    def progress(self) -> int:
        return int(self.exported.properties["Progress"])

    def end(self) -> int:
        """It is over; returns the status to tell."""
        self.is_over = True
        self.exported.update({"Progress": 100})
        job = self._job
        if job is None:
            return 0
        if self._follow in job.followers:
            job.followers.remove(self._follow)
        if job.state == "succeeded":
            return 0 if outcome(job) != "rejected" else errors.status("org.bootcd1.Error.Refused")
        return errors.status(CANCELLED if job.state == "cancelled" else job.error[0])

    async def _cancel(self, call: Call) -> list[Any]:
        """Whatever it is about: the worker stops where nothing is left half done, or it is too late."""
        if self._job is not None:
            self._job.stop()
        return []

    def _follow(self) -> None:
        assert self._job is not None
        found = self._job.exported.properties
        if not self.is_over:
            self.exported.update({"Progress": self._progress.advance(
                found["Stage"], found["Progress"], counted=bool(found["BytesTotal"]))})


class Views:
    """All objects of jobs on the second connection."""

    def __init__(self, bus: Bus, removed: Removed) -> None:
        self._bus = bus
        self._removed = removed
        self._number = int(time.time() * 1000)  # so that a restarted daemon uses no path that a client still holds
        self._views: dict[str, View] = {}
        self._over = Lingering(self._forget)
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, path: str) -> View | None:
        return self._views.get(path)

    def listing(self) -> list[tuple[int, str, int, str]]:
        """Those that run, as ListJobs has them."""
        return [(view.number, view.kind.value, view.progress, view.path) for view in self._views.values()
                if not view.is_over]

    def start(self, kind: Kind, job: Job | None, uid: int, *, to_version: bool) -> View:
        """An object for a job, or for what is done already; that one is over at once."""
        self._number += 1
        view = View(self._number, kind, job, uid, to_version=to_version)
        self._views[view.path] = view
        self._bus.export(view.path, view.exported)
        if job is None or job.over.is_set():
            self._end(view)
        else:
            task = asyncio.get_running_loop().create_task(self._wait(view, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return view

    def close(self) -> None:
        """Nobody listens any more."""
        self._over.close()
        for task in self._tasks:
            task.cancel()

    async def _wait(self, view: View, job: Job) -> None:
        await job.over.wait()
        self._end(view)

    def _end(self, view: View) -> None:
        status = view.end()
        view.exported.flush()
        self._removed(view.number, view.path, status)
        self._over.add(view)

    def _forget(self, view: View) -> None:
        del self._views[view.path]
        self._bus.remove(view.path)


def outcome(job: Job) -> str:
    """What a change that succeeded came to: staged, unchanged, rejected and so on."""
    found = job.exported.properties["Result"].get("outcome")
    return str(found.value) if found is not None else ""


def message(job: Job) -> str:
    """What a change that succeeded has to say."""
    found = job.exported.properties["Result"].get("message")
    return str(found.value) if found is not None else ""
