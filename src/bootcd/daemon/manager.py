# SPDX-License-Identifier: Apache-2.0
"""The Manager object: the machine on the bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .. import __version__
from ..ops.results import DeploymentInfo, ImageInfo, LastResult, Status, from_json
from . import wire
from .bus import Bus
from .deployments import Deployments, path_of
from .exports import Call, Exported, Handler
from .interfaces import MANAGER, ROOT
from .jobs import Job, Jobs, Settings
from .queries import Queries
from .state import State
from .verbs import VERBS
from .worker import Outcome

NOTHING = "/"
"""The object path that stands for no object."""


class Manager:
    """Answers for the machine. `reload` reads the configuration again; `noticed` is told each new status."""

    def __init__(self, bus: Bus, jobs: Callable[[Manager], Jobs], settings: Callable[[], Settings],
                 reload: Callable[[], None], noticed: Callable[[Status], None]) -> None:
        self._reload = reload
        self._noticed = noticed
        self._queries = Queries(settings)
        self.exported = Exported(MANAGER, self._handlers(), {
            "Version": __version__, "Sysroot": settings().sysroot, "ActiveJob": NOTHING, "Jobs": [],
            **_properties(Status(settings().sysroot, "", (), None, "", ())),
        })
        self.deployments = Deployments(bus, self._start)
        self.state = State(settings, self._show)
        self.jobs = jobs(self)
        bus.export(ROOT, self.exported)

    def _handlers(self) -> Mapping[str, Handler]:
        async def start(call: Call) -> Sequence[Any]:
            return await self._start(call, call.member, call.arguments[:-1])

        return dict.fromkeys(VERBS, start) | {
            "GetStatus": self._get_status, "ListImages": self._list_images, "InspectImage": self._inspect_image,
            "Reload": self._reload_settings,
        }

    async def _start(self, call: Call, method: str, arguments: tuple[Any, ...]) -> Sequence[Any]:
        verb, options = VERBS[method], call.arguments[-1]
        background = bool(options.get("background", False))
        return [await self.jobs.start(call, verb, verb.arguments(arguments, options), background=background)]

    async def _get_status(self, call: Call) -> Sequence[Any]:
        return [wire.encode(await self.state.fresh())]

    async def _list_images(self, call: Call) -> Sequence[Any]:
        found = await self._queries.ask("image_list")
        assert isinstance(found, list)
        return [wire.encode_list(tuple(from_json(ImageInfo, image) for image in found))]

    async def _inspect_image(self, call: Call) -> Sequence[Any]:
        found = await self._queries.ask("image_inspect", image=call.arguments[0])
        return [wire.encode(from_json(ImageInfo, found))]

    async def _reload_settings(self, call: Call) -> Sequence[Any]:
        self._reload()
        return []

    # --- what happens ---------------------------------------------------------------------------------------------

    def jobs_changed(self) -> None:
        """The set of jobs is another one."""
        active = self.jobs.active
        self.exported.update({"ActiveJob": active.path if active is not None else NOTHING, "Jobs": self.jobs.paths})

    def job_started(self, job: Job) -> None:
        self.exported.emit("JobNew", job.number, job.path, job.verb.kind)

    def job_ended(self, job: Job, outcome: Outcome) -> None:
        """Tell the outcome: first what it made of the machine, then that it is over."""
        self.state.take(outcome)
        if outcome.killed and not job.reads:
            self._show_lost(job, outcome)
        self.jobs_changed()
        self.exported.flush()
        name, message, _ = job.error
        self.exported.emit("JobRemoved", job.number, job.path, job.state, name, message)

    def _show_lost(self, job: Job, outcome: Outcome) -> None:
        """The worker died, so nobody has written down how it ended."""
        assert outcome.error is not None
        last = LastResult(job.verb.kind, job.state, outcome.error.name, outcome.error.message, outcome.error.advice,
                          _iso(job.started), _iso(job.ended), str(job.starter))
        self.state.status = replace(self.state.status, last=last)
        self.exported.update({"LastResult": wire.encode(last)})

    def _show(self, status: Status) -> None:
        self.deployments.show(status.deployments)
        self.exported.update(_properties(status))
        self.exported.flush()
        self.deployments.prune(status.deployments)
        self._noticed(status)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def awaited(status: Status) -> DeploymentInfo | None:
    """The deployment that a reboot would bring: another one than the running one boots next, or will after shutdown."""
    booted, staged, default = (_with_role(status, role) for role in ("booted", "staged", "default"))
    if booted is None:
        return None
    if staged is not None and not staged.download_only:
        return staged
    # Where the boot partition cannot be read, nothing is known to be the default.
    return default if default is not None and default.id != booted.id else None


def _with_role(status: Status, role: str) -> DeploymentInfo | None:
    return next((info for info in status.deployments if role in info.roles), None)


def _properties(status: Status) -> dict[str, Any]:
    def path(role: str) -> str:
        info = _with_role(status, role)
        return path_of(info.id) if info is not None else NOTHING

    tracked = _with_role(status, "staged") or _with_role(status, "booted") or _with_role(status, "default")
    update = {} if status.update is None else {**wire.encode(status.update),
                                               "time": wire.Typed("s", status.update_time)}
    return {
        "Esp": status.esp, "Deployments": [path_of(info.id) for info in status.deployments],
        "Booted": path("booted"), "Staged": path("staged"), "Default": path("default"), "Rollback": path("rollback"),
        "Pinned": [path_of(info.id) for info in status.deployments if info.pins],
        "TrackedImage": tracked.image if tracked is not None else "",
        "CachedUpdate": update, "RebootRequired": awaited(status) is not None,
        "LastResult": {} if status.last is None else wire.encode(status.last),
        "Chain": {} if status.chain is None else wire.encode(status.chain),
        "Unfinished": status.unfinished, "Warnings": list(status.warnings),
    }
