# SPDX-License-Identifier: Apache-2.0
"""Jobs: operations that run in worker processes, and the objects by which the bus sees them.

At most one job changes something. A job belongs to nobody: when its caller leaves the bus it goes on, in the
background. Its object stays for a while after its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import BootcdError, Busy, FormatError, Interrupted
from ..ops.resultjson import from_json
from ..ops.results import LastResult
from . import wire
from .bus import Bus
from .exports import Call, Exported
from .inhibit import DELAY, Inhibitor
from .interfaces import JOB, ROOT
from .lingering import Lingering
from .metered import is_metered
from .throttle import Throttle
from .verbs import Arguments, Verb
from .worker import Done, Event, Failure, Note, Outcome, Request, Stage, Switch, Worker

log = logging.getLogger(__name__)

FAREWELL = 1.0
"""Seconds in which the caller of a job that reboots the machine can read how it went."""
MAX_READERS = 4
"""Jobs of one user that change nothing and run at the same time."""
_SAVING = ("check", "upgrade")
"""What a metered connection is of interest to."""
CANCELLED = Interrupted.bus_name()


@dataclass(frozen=True, slots=True)
class Starter:
    """Who started a job: unique bus name, user id, name of the program."""

    sender: str
    uid: int
    program: str

    def __str__(self) -> str:
        return f"uid {self.uid} {self.program}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What every worker has to know."""

    sysroot: str
    esp: str | None
    config: Config


class Job:
    """One operation, running or over."""

    def __init__(self, number: int, verb: Verb, request: Request, starter: Starter, inhibitor: Inhibitor) -> None:
        self.number = number
        self.verb = verb
        self.path = f"{ROOT}/job/{number}"
        self.request = request
        self.starter = starter
        self.background = request.background
        self.reads = verb.reads(request.arguments)
        self.over = asyncio.Event()
        """Set when what it has changed can be seen by everybody."""
        self.followers: list[Callable[[], None]] = []
        """Called when its stage or its progress has changed."""
        self.asked_to_stop = False
        self.started = time.time()
        self._inhibitor = inhibitor
        self._worker = Worker(request, self._event)
        self._throttle = Throttle()
        self.exported = Exported(JOB, {"Cancel": self._cancel}, {
            "Id": number, "Kind": verb.kind, "State": "running", "Stage": "", "Message": "", "BytesDone": 0,
            "BytesTotal": 0, "Rate": 0, "Progress": 0, "Cancellable": True, "Background": request.background,
            "Started": _microseconds(self.started), "Ended": 0,
            "StartedBy": [starter.sender, starter.uid, starter.program], "Result": {}, "Error": ["", "", ""],
        })

    @property
    def state(self) -> str:
        return str(self.exported.properties["State"])

    @property
    def is_over(self) -> bool:
        return bool(self.exported.properties["Ended"])

    @property
    def ended(self) -> float:
        """Seconds since 1970; 0 while it runs."""
        return int(self.exported.properties["Ended"]) / 1_000_000

    @property
    def error(self) -> tuple[str, str, str]:
        """D-Bus name, message, advice; empty unless it failed."""
        name, message, advice = self.exported.properties["Error"]
        return name, message, advice

    def result(self) -> LastResult:
        """How it ended, for those who come later."""
        return LastResult(self.verb.kind, self.state, *self.error, _iso(self.started), _iso(self.ended),
                          str(self.starter))

    async def run(self) -> Outcome:
        """Let the worker do it; the properties tell how it went. Never raises for what happens in the worker."""
        try:
            outcome = await self._worker.run()
        finally:
            self._throttle.stop()
            self._inhibitor.release()
        self._finish(outcome)
        return outcome

    def fail(self, error: Exception) -> Outcome:
        """It is over, because of a mistake of this program."""
        failure = Failure.of(BootcdError(f"internal error ({type(error).__name__}); the journal tells more"))
        self.exported.update({"State": "failed", "Ended": _microseconds(time.time()), "Cancellable": False,
                              "Error": [failure.name, failure.message, failure.advice]})
        return Outcome(error=failure, killed=True)

    def stop(self) -> None:
        """Ask it to end; what it had finished is kept."""
        if self.is_over or self.asked_to_stop:
            return
        self.asked_to_stop = True
        self.exported.update({"State": "cancelling", "Cancellable": False})
        self._worker.cancel()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if not self.background and not self.is_over:
            self.background = True
            self._worker.lower_priority()
            self.exported.update({"Background": True})

    async def _cancel(self, call: Call) -> list[Any]:
        self.stop()
        return []

    def _event(self, event: Event) -> None:
        match event:
            case Stage(text, total):
                self.exported.update({"BytesDone": self._throttle.done})
                self.exported.flush()  # the last bytes of the stage before are not lost in this one
                self._throttle.begin(total)
                self.exported.update({"Stage": text, "BytesTotal": total, "BytesDone": 0, "Rate": 0, "Progress": 0})
                self._tell_followers()
            case Done(count):
                self._throttle.advance(count, self._show)
            case Note(text):
                self.exported.update({"Message": text})
                self.exported.emit("Note", text)
            case Switch(True):
                self._inhibitor.acquire(self._worker.go)
            case Switch(False):
                self._inhibitor.release()

    def _show(self, done: int, rate: int) -> None:
        total = self.exported.properties["BytesTotal"]
        percent = min(100, done * 100 // total) if total else 0
        self.exported.update({"BytesDone": done, "Rate": rate, "Progress": percent})
        self._tell_followers()

    def _tell_followers(self) -> None:
        for follow in self.followers:
            follow()

    def _finish(self, outcome: Outcome) -> None:
        changes: dict[str, Any] = {"Ended": _microseconds(time.time()), "Cancellable": False, "Rate": 0,
                                   "BytesDone": self._throttle.done}
        result: dict[str, Any] = {}
        if outcome.error is None and self.verb.result is not None:
            try:
                result = wire.encode(from_json(self.verb.result, outcome.result))
            except FormatError as error:
                failure = Failure.of(BootcdError(f"the worker told a result that makes no sense: {error}"))
                outcome = replace(outcome, error=failure)
        if outcome.error is None:
            changes |= {"State": "succeeded", "Result": result, "Progress": 100,
                        "BytesDone": self.exported.properties["BytesTotal"]}
        else:
            changes |= {"State": "cancelled" if outcome.error.name == CANCELLED else "failed", "Progress": 100,
                        "Error": [outcome.error.name, outcome.error.message, outcome.error.advice]}
        self.exported.update(changes)


class Jobs:
    """All jobs that have an object. `changed` is called when that set has changed, `ended` with each that is over and
    with what its worker said, before anybody else hears of it."""

    def __init__(self, bus: Bus, settings: Callable[[], Settings], changed: Callable[[], None],
                 started: Callable[[Job], None], ended: Callable[[Job, Outcome], Awaitable[None]]) -> None:
        self._bus = bus
        self._settings = settings
        self._changed = changed
        self._started = started
        self._ended = ended
        self._number = int(time.time() * 1000)  # so that a restarted daemon uses no path that a client still holds
        self._jobs: dict[str, Job] = {}
        self._over = Lingering(self._forget)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def paths(self) -> list[str]:
        return list(self._jobs)

    @property
    def active(self) -> Job | None:
        """The job that changes something now."""
        return next((job for job in self._jobs.values() if not job.is_over and not job.reads), None)

    @property
    def working(self) -> bool:
        """Whether any job is not over yet."""
        return any(not job.is_over for job in self._jobs.values())

    def get(self, path: str) -> Job | None:
        return self._jobs.get(path)

    async def start(self, call: Call, verb: Verb, arguments: Arguments, *, background: bool) -> str:
        """Start a job for a caller and return its object path. Raises Busy."""
        starter = await self.starter(call.sender)
        metered = background and verb.method in _SAVING and await is_metered(self._bus)
        return self.begin(starter, verb, arguments, background=background, metered=metered).path

    def begin(self, starter: Starter, verb: Verb, arguments: Arguments, *, background: bool = False,
              metered: bool = False) -> Job:
        """Start a job; one whose starter has no bus name belongs to nobody from the start. Raises Busy."""
        # Nothing here waits, so that two calls cannot both find the place free.
        reads = verb.reads(arguments)
        running = [job for job in self._jobs.values() if not job.is_over]
        if self._stopping:
            raise Busy("the daemon is about to stop", advice="Try again in a moment.")
        if reads and sum(job.reads and job.starter.uid == starter.uid for job in running) >= MAX_READERS:
            raise Busy(f"{MAX_READERS} jobs of uid {starter.uid} that only read are running already")
        if not reads and (active := self.active) is not None:
            raise Busy(f"'{active.verb.kind}' is running as {active.path}, started by {active.starter}",
                       advice="Wait until it ends; 'bootcctl monitor' follows it, 'bootcctl cancel' stops it.")
        settings = self._settings()
        self._number += 1
        request = Request(verb.method, arguments, settings.sysroot, settings.esp, settings.config, str(starter),
                          background, metered)
        job = Job(self._number, verb, request, starter, Inhibitor())
        self._jobs[job.path] = job
        self._bus.export(job.path, job.exported)
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._changed()
        self._started(job)
        return job

    async def stop(self) -> None:
        """Take no more jobs, stop those that run, and wait for their end."""
        self._stopping = True
        for job in self._jobs.values():
            job.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def starter(self, sender: str) -> Starter:
        """Who a connection is. Raises BusError when it has left."""
        return Starter(sender, await self._bus.uid_of(sender), program_of(await self._bus.pid_of(sender)))

    async def _run(self, job: Job) -> None:
        watch = asyncio.get_running_loop().create_task(self._watch(job))
        farewell = Inhibitor(mode=DELAY)
        try:
            if job.request.arguments.get("apply"):
                await farewell.take()
            outcome = await job.run()
        except Exception as error:  # whatever it is, the job must not run for ever
            log.exception("job %d went wrong", job.number)
            outcome = job.fail(error)
        finally:
            watch.cancel()
        try:
            await self._ended(job, outcome)
        except Exception:
            log.exception("the end of job %d cannot be told", job.number)
        job.over.set()
        self._changed()
        self._over.add(job)
        asyncio.get_running_loop().call_later(FAREWELL, farewell.release)

    async def _watch(self, job: Job) -> None:
        if job.starter.sender:
            await self._bus.vanished(job.starter.sender)
            job.abandon()

    def _forget(self, job: Job) -> None:
        del self._jobs[job.path]
        self._bus.remove(job.path)
        self._changed()


def program_of(pid: int) -> str:
    """The name of the program that runs as a process; good for the journal, not for decisions."""
    program = ""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace")
        program = "".join(char for char in name if char.isprintable())
    return program or "?"


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
