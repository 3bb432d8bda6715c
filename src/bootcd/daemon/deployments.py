# SPDX-License-Identifier: Apache-2.0
"""One object on the bus for each deployment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..ops.results import DeploymentInfo
from . import wire
from .bus import Bus
from .exports import Call, Exported
from .interfaces import DEPLOYMENT, ROOT

Start = Callable[[Call, str, tuple[Any, ...]], Awaitable[Sequence[Any]]]
"""Starts the job of a method of the Manager, with these arguments before the options."""


def path_of(deployment_id: str) -> str:
    return f"{ROOT}/deployment/{deployment_id}"


class Deployments:
    """The objects below /org/bootcd1/deployment."""

    def __init__(self, bus: Bus, start: Start) -> None:
        self._bus = bus
        self._start = start
        self._objects: dict[str, Exported] = {}

    def show(self, deployments: Sequence[DeploymentInfo]) -> None:
        """New ones appear, known ones change. What is gone stays until `prune`, so that no property of the Manager
        names an object that is not there."""
        for info in deployments:
            path = path_of(info.id)
            if path in self._objects:
                self._objects[path].update(_properties(info))
            else:
                self._objects[path] = self._make(info)
                self._bus.export(path, self._objects[path])

    def prune(self, deployments: Sequence[DeploymentInfo]) -> None:
        """Take away the objects of deployments that are no more."""
        for path in self._objects.keys() - {path_of(info.id) for info in deployments}:
            del self._objects[path]
            self._bus.remove(path)

    def _make(self, info: DeploymentInfo) -> Exported:
        async def start(call: Call) -> Sequence[Any]:
            return await self._start(call, call.member, (info.id,))

        return Exported(DEPLOYMENT, dict.fromkeys(DEPLOYMENT.methods, start), {"Id": info.id, **_properties(info)})


def _properties(info: DeploymentInfo) -> dict[str, Any]:
    return {
        "Roles": list(info.roles), "Image": info.image, "Version": info.version, "Title": info.title,
        "ManifestDigest": info.manifest_digest, "Created": info.created, "StagedTime": info.staged,
        "DownloadOnly": info.download_only, "Reset": info.reset, "Generation": info.generation or 0,
        "Pins": [[pin.label, pin.time] for pin in info.pins],
        "Health": info.health, "HealthReason": info.health_reason, "BootType": info.boot_type,
        "BootDigest": info.boot_digest, "KernelVersion": info.kernel_version, "KernelOptions": info.options,
        "KernelArguments": [[one.argument, one.owner] for one in info.kargs],
        "KernelArgumentsOnTrial": info.kargs_on_trial,
        "Verification": info.verification, "Policy": info.policy, "SignedBy": list(info.signed_by),
        "Etc": wire.encode(info.etc),
    }
