# SPDX-License-Identifier: Apache-2.0
"""The connection that has the name org.freedesktop.sysupdate1, and who may do what on it.

It is a connection of its own: the bus holds the policies of all names of a connection against each message to it, so
that one name's "nobody may send anything else" would close the other's methods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...config import Config
from ...errors import BootcdError
from ...ops.results import Status
from ..bus import Bus
from ..exports import Call
from ..interfaces import SYSUPDATE_JOB, SYSUPDATE_NAME
from ..jobs import Jobs
from ..polkit import Authority
from .freshness import Freshness
from .requests import is_plain
from .target import CLASS, NAME, OFFLINE, Face

log = logging.getLogger(__name__)

UPDATE = "org.freedesktop.sysupdate1.update"
UPDATE_TO_VERSION = "org.freedesktop.sysupdate1.update-to-version"
CANCEL_UPDATE = "org.freedesktop.sysupdate1.cancel-update"
CANCEL_UPDATE_TO_VERSION = "org.freedesktop.sysupdate1.cancel-update-to-version"


class Service:
    """Starts and ends with the daemon; the daemon goes on without it."""

    def __init__(self, jobs: Jobs, status: Callable[[], Status], config: Callable[[], Config],
                 freshness: Freshness) -> None:
        self._jobs = jobs
        self._status = status
        self._config = config
        self._freshness = freshness
        self._bus: Bus | None = None
        self._face: Face | None = None
        self._authority: Authority | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the name. Where somebody else has it, or the bus does not let us, that is a line in the log."""
        try:
            bus = self._bus = await Bus.connect(None, self._authorize)
            self._authority = Authority(bus, self._owner, cancel=(CANCEL_UPDATE, CANCEL_UPDATE_TO_VERSION))
            self._face = Face(bus, self._jobs, self._status, self._config, self._freshness)
            await bus.own(SYSUPDATE_NAME)
        except BootcdError as error:
            log.warning("GNOME Software and updatectl cannot be served: %s", error)
            self.close()
            return
        self._watching = asyncio.get_running_loop().create_task(self._watch(bus))

    def noticed(self, status: Status) -> None:
        """There is another status."""
        if self._face is not None:
            self._face.noticed(status)

    def close(self) -> None:
        """Give the name back."""
        if self._watching is not None:
            self._watching.cancel()
        if self._face is not None:
            self._face.views.close()
        if self._bus is not None:
            self._bus.close()
        self._bus = self._face = self._authority = self._watching = None

    async def _watch(self, bus: Bus) -> None:
        log.warning("GNOME Software and updatectl are not served any more: %s", await bus.lost())
        self._watching = None
        self.close()

    # --- who may do what ------------------------------------------------------------------------------------------

    async def _authorize(self, call: Call, action: str) -> None:
        """The action of the interface, or the one that the arguments ask for. What the arguments mean may change while
        somebody types a password, so that is looked at until it is what was asked for."""
        assert self._authority is not None
        asked: set[str] = set()
        while (wanted := self._refined(call, action)) not in asked:
            await self._authority.authorize(call, wanted, _details(call))
            asked.add(wanted)

    def _refined(self, call: Call, action: str) -> str:
        assert self._face is not None
        if action == UPDATE and not is_plain(call.arguments[0], self._face.known()):
            return UPDATE_TO_VERSION
        if action == CANCEL_UPDATE:
            view = self._face.views.get(call.path)
            return CANCEL_UPDATE_TO_VERSION if view is not None and view.to_version else action
        return action

    def _owner(self, path: str) -> int | None:
        """The user who started the job at an object path."""
        view = self._face.views.get(path) if self._face is not None else None
        return view.uid if view is not None else None


def _details(call: Call) -> dict[str, str]:
    """What rules can look at: the keys that systemd-sysupdated has."""
    if call.interface == SYSUPDATE_JOB.name:
        return {"class": CLASS, "name": NAME}
    found = {"class": CLASS, "name": NAME, "offline": "0"}
    match call.member, call.arguments:
        case "List", (int(flags),):
            found["offline"] = str(flags & OFFLINE)
        case "Describe", (str(version), int(flags)):
            found |= {"version": version, "offline": str(flags & OFFLINE)}
        case "Acquire" | "Install" | "Update", (str(version), _):
            found["version"] = version
    return found
