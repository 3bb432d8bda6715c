# SPDX-License-Identifier: Apache-2.0
"""The Manager object: the machine on the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..errors import UsageError
from ..model import ImageReference
from ..ops.news import Notice
from ..ops.resultjson import from_json
from ..ops.results import Explanation, ImageInfo, Kargs, Status
from . import wire
from .bus import Bus
from .deployments import Deployments, path_of
from .exports import Call, Exported, Handler
from .interfaces import MANAGER, ROOT
from .jobs import Job, Jobs, Settings
from .queries import Queries
from .state import PATIENCE, State
from .unattended import Unattended
from .verbs import VERBS
from .worker import Outcome

log = logging.getLogger(__name__)

NOTHING = "/"
"""The object path that stands for no object."""


class Manager:
    """Answers for the machine. `reload` reads the configuration again; `noticed` is told each new status."""

    def __init__(self, bus: Bus, jobs: Callable[[Manager], Jobs], settings: Callable[[], Settings],
                 reload: Callable[[], None], noticed: Callable[[Status], None]) -> None:
        self._bus = bus
        self._reload = reload
        self._noticed = noticed
        self._queries = Queries(settings)
        self.exported = Exported(MANAGER, self._handlers(), {
            "Version": __version__, "Sysroot": settings().sysroot, "ActiveJob": NOTHING, "Jobs": [],
            **_properties(Status(settings().sysroot, "", (), None, "", ())),
        })
        self.deployments = Deployments(bus, self._start)
        self.state = State(settings, self._show, lambda: self.jobs.working)
        self.jobs = jobs(self)
        self.unattended = Unattended(bus, self.state, self.jobs, settings)
        bus.export(ROOT, self.exported)

    def _handlers(self) -> Mapping[str, Handler]:
        async def start(call: Call) -> Sequence[Any]:
            return await self._start(call, call.member, call.arguments[:-1])

        return dict.fromkeys(VERBS, start) | {
            "GetStatus": self._get_status, "Explain": self._explain,
            "GetKernelArguments": self._get_kernel_arguments,
            "ListImages": self._list_images, "InspectImage": self._inspect_image,
            "Reload": self._reload_settings,
            "GetPolicy": lambda call: self.unattended.get(call), "RunPolicy": lambda call: self.unattended.run(call),
            "CancelReboot": lambda call: self.unattended.cancel(call),
        }

    async def _start(self, call: Call, method: str, arguments: tuple[Any, ...]) -> Sequence[Any]:
        verb, options = VERBS[method], call.arguments[-1]
        if "image" in verb.positional and method != "RemoveImage":
            _check_reference(arguments[0])
        if options.get("take-from"):
            _check_reference(options["take-from"])
        background = bool(options.get("background", False))
        return [await self.jobs.start(call, verb, verb.arguments(arguments, options), background=background)]

    async def _get_status(self, call: Call) -> Sequence[Any]:
        return [wire.encode(await self.state.fresh())]

    async def _explain(self, call: Call) -> Sequence[Any]:
        found = await self._queries.ask(await self._bus.uid_of(call.sender), "explain", topic=call.arguments[0])
        return [wire.encode(from_json(Explanation, found))]

    async def _get_kernel_arguments(self, call: Call) -> Sequence[Any]:
        found = await self._queries.ask(await self._bus.uid_of(call.sender), "kargs_show")
        return [wire.encode(from_json(Kargs, found))]

    async def _list_images(self, call: Call) -> Sequence[Any]:
        found = await self._queries.ask(await self._bus.uid_of(call.sender), "image_list")
        assert isinstance(found, list)
        return [wire.encode_list(tuple(from_json(ImageInfo, image) for image in found))]

    async def _inspect_image(self, call: Call) -> Sequence[Any]:
        uid = await self._bus.uid_of(call.sender)
        found = await self._queries.ask(uid, "image_inspect", image=call.arguments[0])
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

    async def job_ended(self, job: Job, outcome: Outcome) -> None:
        """Tell the outcome: first what it made of the machine, then that it is over."""
        self.jobs_changed()
        try:
            self.state.take(outcome)
            if outcome.status is None:
                tells_nothing = job.reads or job.state != "failed"
                async with asyncio.timeout(PATIENCE):
                    await (self.state.refresh() if tells_nothing else self.state.keep(job.result()))
        except TimeoutError:
            log.warning("job %d is over, and the disk does not tell what it changed", job.number)
        finally:
            self.exported.flush()
            name, message, _ = job.error
            self.exported.emit("JobRemoved", job.number, job.path, job.state, name, message)

    def tell(self, notice: Notice) -> None:
        """Something happened that the machine's owner wants to hear of."""
        facts = {name: wire.Typed("s", wire.text(value)) for name, value in notice.facts.items()}
        self.exported.emit("Notice", notice.kind, wire.text(notice.message), facts)

    def _show(self, status: Status) -> None:
        self.deployments.show(status.deployments)
        self.exported.update(_properties(status))
        self.exported.flush()
        self.deployments.prune(status.deployments)
        self._noticed(status)


def _check_reference(text: str) -> None:
    """Raises UsageError for nonsense, and for a path that would be looked for wherever the daemon happens to stand."""
    reference = ImageReference.parse(text)
    if reference != reference.absolute():
        raise UsageError(f"the path in '{text}' is not absolute")


def _properties(status: Status) -> dict[str, Any]:
    def path(role: str) -> str:
        info = status.with_role(role)
        return path_of(info.id) if info is not None else NOTHING

    tracked = status.with_role("staged") or status.with_role("booted") or status.with_role("default")
    update = {} if status.update is None else {**wire.encode(status.update),
                                               "time": wire.Typed("s", status.update_time)}
    return {
        "Esp": status.esp, "Deployments": [path_of(info.id) for info in status.deployments],
        "Booted": path("booted"), "Staged": path("staged"), "Default": path("default"), "Rollback": path("rollback"),
        "FellBackFrom": path_of(status.fell_back_from) if status.fell_back_from else NOTHING,
        "Pinned": [path_of(info.id) for info in status.deployments if info.pins],
        "TrackedImage": tracked.image if tracked is not None else "",
        "CachedUpdate": update, "RebootRequired": status.awaited() is not None,
        "LastResult": {} if status.last is None else wire.encode(status.last),
        "Chain": {} if status.chain is None else wire.encode(status.chain),
        "Unfinished": status.unfinished, "Warnings": list(status.warnings),
    }
