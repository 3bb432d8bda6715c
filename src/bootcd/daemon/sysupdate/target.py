# SPDX-License-Identifier: Apache-2.0
"""The objects of the manager and of the one target, `host`.

Reads are answered from memory. A method that starts a job answers when the job has got through what it can be refused
for: only an error of the method reaches people with words, the end of a job is just a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...config import Config
from ...errors import BootcdError
from ...ops.results import Status
from ..bus import Bus
from ..dispatch import ERROR
from ..exports import BusError, Call, Exported, Handler, apart
from ..interfaces import SYSUPDATE_MANAGER, SYSUPDATE_ROOT, SYSUPDATE_TARGET
from ..jobs import Job, Jobs
from ..verbs import VERBS
from .errors import failed, invalid, translated
from .freshness import Freshness
from .jobs import Views, message, outcome
from .requests import Decision, Kind, decide, is_plain
from .versions import Version, Versions, is_valid, versions

CLASS = NAME = "host"
OFFLINE = 1
"""The one flag: leave the source out."""

CHECK_PATIENCE = 8.0
"""Seconds that CheckNew waits for the source; GNOME Software waits for 10."""
ASK_PATIENCE = 15.0
"""The same for a method that needs the answer; sd-bus waits for 25."""
GLANCE_PATIENCE = 3.0
"""The same where there is something to do without it."""
BEGIN_PATIENCE = 20.0
"""Seconds after which a method that starts a job answers in any case; later failures are told by JobRemoved."""


def escape(name: str) -> str:
    """A name as an element of an object path, as sd-bus does it: updatectl computes the path from its argument."""
    def one(number: int, byte: int) -> str:
        char = chr(byte)
        kept = char.isascii() and (char.isalpha() or (number > 0 and char.isdigit()))
        return char if kept else f"_{byte:02x}"

    return "".join(one(number, byte) for number, byte in enumerate(name.encode())) or "_"


TARGET_PATH = f"{SYSUPDATE_ROOT}/target/{escape(NAME)}"


class Face:
    """Both objects. `status` is what is in memory, `config` the settings of the moment."""

    def __init__(self, bus: Bus, jobs: Jobs, status: Callable[[], Status], config: Callable[[], Config],
                 freshness: Freshness) -> None:
        self._bus = bus
        self._jobs = jobs
        self._status = status
        self._config = config
        self._freshness = freshness
        self.views = Views(bus, self._removed)
        self._manager = Exported(SYSUPDATE_MANAGER, _handlers({
            "ListTargets": self._list_targets, "ListJobs": self._list_jobs, "ListAppStream": self._appstream}), {})
        self._target = Exported(SYSUPDATE_TARGET, _handlers({
            "List": self._list, "Describe": self._describe, "CheckNew": self._check_new, "Acquire": self._acquire,
            "Install": self._install, "Update": self._update, "Vacuum": self._vacuum,
            "GetAppStream": self._appstream, "GetVersion": self._get_version, "ListFeatures": self._list_features,
            "DescribeFeature": self._no_features, "SetFeatureEnabled": self._no_features,
        }), {"Class": CLASS, "Name": NAME, "Path": _followed(status())})
        bus.export(SYSUPDATE_ROOT, self._manager)
        bus.export(TARGET_PATH, self._target)

    def noticed(self, status: Status) -> None:
        """There is another status."""
        self._target.update({"Path": _followed(status)})

    def known(self) -> Versions:
        """What is in memory."""
        return versions(self._status())

    def _removed(self, number: int, path: str, status: int) -> None:
        self._manager.emit("JobRemoved", number, path, status)

    # --- reads ----------------------------------------------------------------------------------------------------

    async def _list_targets(self, call: Call) -> Sequence[Any]:
        return [[(CLASS, NAME, TARGET_PATH)]]

    async def _list_jobs(self, call: Call) -> Sequence[Any]:
        return [self.views.listing()]

    async def _appstream(self, call: Call) -> Sequence[Any]:
        return [list(self._config().sysupdate_appstream_urls)]

    async def _list(self, call: Call) -> Sequence[Any]:
        (flags,) = call.arguments
        return [[version.name for version in self._looked_at(flags).known]]

    async def _describe(self, call: Call) -> Sequence[Any]:
        name, flags = call.arguments
        _check_name(name)
        found = self._looked_at(flags).get(name)
        if found is None:
            raise invalid(f"no version '{name:.100}' is here, nor does the source offer it")
        return [found.describe()]

    async def _get_version(self, call: Call) -> Sequence[Any]:
        current = self.known().current
        return [current.name if current is not None else ""]

    async def _list_features(self, call: Call) -> Sequence[Any]:
        _check_flags(call.arguments[0])
        return [[]]

    async def _no_features(self, call: Call) -> Sequence[Any]:
        raise BusError(ERROR + "NotSupported", "an image has no optional features")

    async def _check_new(self, call: Call) -> Sequence[Any]:
        await self._freshness.look(await self._jobs.starter(call.sender), CHECK_PATIENCE)
        newest = self.known().newest
        return [newest.name if newest is not None else ""]

    def _looked_at(self, flags: int) -> Versions:
        if flags & ~OFFLINE:
            raise invalid(f"unknown flags {flags:#x}")
        return versions(self._status(), offline=bool(flags & OFFLINE))

    # --- changes --------------------------------------------------------------------------------------------------

    async def _acquire(self, call: Call) -> Sequence[Any]:
        return await self._start(call, Kind.ACQUIRE)

    async def _install(self, call: Call) -> Sequence[Any]:
        return await self._start(call, Kind.INSTALL)

    async def _update(self, call: Call) -> Sequence[Any]:
        return await self._start(call, Kind.UPDATE)

    async def _start(self, call: Call, kind: Kind) -> Sequence[Any]:
        name, flags = call.arguments
        _check_flags(flags)
        if name:
            _check_name(name)
        deadline = asyncio.get_running_loop().time() + BEGIN_PATIENCE
        await self._be_sure(call, kind, name)
        starter = await self._jobs.starter(call.sender)
        known = self.known()
        decision = decide(kind, name, known)
        job: Job | None = None
        if decision.method:
            verb = VERBS[decision.method]
            arguments = {**dict(decision.arguments), **dict(verb.fixed)}
            job = apart(partial(self._jobs.begin, starter, verb, arguments))
            await _begun(job, deadline)
            _check_refusal(job, decision)
        view = self.views.start(kind, job, starter.uid, to_version=not is_plain(name, known))
        return [self._name_now(decision.version), view.number, view.path]

    async def _be_sure(self, call: Call, kind: Kind, name: str) -> None:
        """Ask the source where that can make a difference: for the newest, unless that is here and it does not answer
        at once, and for a version that nobody knows."""
        known = self.known()
        if kind is Kind.INSTALL or (name and known.get(name) is not None):
            return
        idle = known.newest is None
        failure = await self._freshness.look(await self._jobs.starter(call.sender),
                                             ASK_PATIENCE if idle else GLANCE_PATIENCE, insist=True)
        if failure is not None and self.known().newest is None:
            raise failed(failure.message, failure.advice)

    def _name_now(self, version: Version) -> str:
        """What a version is called by now: its job may have changed what there is."""
        found = next((one for one in self.known().known if one.digest == version.digest), version)
        return found.name

    async def _vacuum(self, call: Call) -> Sequence[Any]:
        starter = await self._jobs.starter(call.sender)
        job = apart(partial(self._jobs.begin, starter, VERBS["Cleanup"], {}))
        await job.over.wait()
        _check_end(job)
        items = job.exported.properties["Result"]["items"].value
        return [sum(item["kind"].value == "deployment" for item in items), 0]


def _handlers(handlers: dict[str, Handler]) -> dict[str, Handler]:
    """The same, with errors as clients expect them."""
    def one(handler: Handler) -> Handler:
        async def handle(call: Call) -> Sequence[Any]:
            try:
                return await handler(call)
            except BootcdError as error:
                raise translated(error) from error

        return handle

    return {name: one(handler) for name, handler in handlers.items()}


def _check_flags(flags: int) -> None:
    if flags:
        raise invalid(f"unknown flags {flags:#x}")


def _check_name(name: str) -> None:
    if not is_valid(name):
        raise invalid(f"'{name:.100}' is no version")


async def _begun(job: Job, deadline: float) -> None:
    """Wait until a job does more than look whether it may, or is over, or takes its time."""
    begun = asyncio.Event()
    job.followers.append(begun.set)
    waiting = [asyncio.ensure_future(one.wait()) for one in (begun, job.over)]
    try:
        left = max(deadline - asyncio.get_running_loop().time(), 0)
        await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        job.followers.remove(begun.set)
        for task in waiting:
            task.cancel()


def _check_refusal(job: Job, decision: Decision) -> None:
    """Raises BusError when a job is over already and has not brought what was wanted."""
    if not job.over.is_set():
        return
    _check_end(job)
    if outcome(job) == "rejected":
        raise failed(message(job))


def _check_end(job: Job) -> None:
    """Raises BusError with the words of a job that has failed."""
    if job.state != "succeeded":
        _, words, advice = job.error
        raise failed(words, advice)


def _followed(status: Status) -> str:
    """The image reference that is followed: what `updatectl list` shows beside the target."""
    tracked = status.with_role("staged") or status.with_role("booted") or status.with_role("default")
    return tracked.image if tracked is not None else status.sysroot
