# SPDX-License-Identifier: Apache-2.0
"""io.systemd.SysUpdate, as systemd 262 has it: what can be updated, and whether there is something newer. It has no
method that updates yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ...ops.results import Status
from ..jobs import Starter, program_of
from ..sysupdate.freshness import Freshness
from ..sysupdate.target import CHECK_PATIENCE, CLASS, NAME
from ..sysupdate.versions import versions
from .server import Interface, Peer, VarlinkError, denied, invalid, only

INTERFACE = "io.systemd.SysUpdate"
CLASSES = ("machine", "portable", "sysext", "confext", "host", "component")

_DESCRIPTION = f"""# Updates of the operating system, which is the only target
interface {INTERFACE}

type TargetClass ({", ".join(CLASSES)})

type TargetIdentifier (class: TargetClass, name: ?string)

type Target (id: TargetIdentifier)

type Feature (
  id: string,
  description: ?string,
  documentation: ?[]string,
  appStream: ?string,
  enabled: bool,
  suggested: ?bool,
  transfers: ?[]string
)

# Optional features of a target: there are none
method ListFeatures(target: TargetIdentifier) -> (features: []Feature)

# The newest version that does not run yet
method CheckNew(target: TargetIdentifier, allowInteractiveAuthentication: ?bool) -> (available: string)

# What can be updated
method ListTargets() -> (targets: []Target)

# There is nothing newer
error NoUpdateNeeded ()

error NoSuchTarget ()
"""


class SysUpdate:
    """The methods. `status` is what is in memory."""

    def __init__(self, status: Callable[[], Status], freshness: Freshness) -> None:
        self._status = status
        self._freshness = freshness
        self.interface = Interface(INTERFACE, _DESCRIPTION, {
            "ListTargets": self._list_targets, "ListFeatures": self._list_features, "CheckNew": self._check_new})

    async def _list_targets(self, peer: Peer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        only(parameters)
        return {"targets": [{"id": {"class": CLASS}}]}

    async def _list_features(self, peer: Peer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        only(parameters, "target")
        _check_target(parameters)
        return {"features": []}

    async def _check_new(self, peer: Peer, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        only(parameters, "target", "allowInteractiveAuthentication")
        if not isinstance(parameters.get("allowInteractiveAuthentication", False), bool | None):
            raise invalid("allowInteractiveAuthentication")
        _check_target(parameters)
        # Polkit could be asked for nothing but a process id, and those are used again.
        if peer.uid not in (0, os.geteuid()):
            raise denied()
        await self._freshness.look(Starter("", peer.uid, program_of(peer.pid)), CHECK_PATIENCE)
        newest = versions(self._status()).newest
        if newest is None:
            raise VarlinkError(f"{INTERFACE}.NoUpdateNeeded")
        return {"available": newest.name}


def _check_target(parameters: Mapping[str, Any]) -> None:
    """Raises VarlinkError unless the parameter "target" is the operating system."""
    match parameters.get("target"):
        case {"class": str(kind), **more} if kind in CLASSES and more.keys() <= {"name"}:
            name = more.get("name")
            if name is not None and not isinstance(name, str):
                raise invalid("target")
            if kind != CLASS or name not in (None, NAME):
                raise VarlinkError(f"{INTERFACE}.NoSuchTarget")
        case _:
            raise invalid("target")
