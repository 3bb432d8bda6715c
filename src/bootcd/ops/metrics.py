# SPDX-License-Identifier: Apache-2.0
"""Numbers for a monitoring system, in text that node_exporter's textfile collector reads.

The text is valid both by the Prometheus text format 0.0.4, which node_exporter reads, and by OpenMetrics 1.0. They
name counters differently and know other types, so everything here is a gauge. A number that is not known is left out,
and no two samples have the same labels: node_exporter would drop all that it has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..layout import Sysroot
from .news import Told, VerbResult, news
from .results import DeploymentInfo, Status
from .times import moment

Labels = dict[str, str]

_ROLES = ("booted", "staged", "default", "rollback")


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a file system, as statvfs(3) tells."""

    size: int
    free: int


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its samples."""

    name: str
    help: str
    samples: Sequence[tuple[Labels, float]]


def collect(status: Status, told: Told | None) -> str:
    """The text for a machine: what its status says, what was counted, and how full its file systems are."""
    places = {"sysroot": Sysroot(Path(status.sysroot)).repository, **({"esp": Path(status.esp)} if status.esp else {})}
    rooms = {}
    for name, path in places.items():
        with contextlib.suppress(OSError):
            found = os.statvfs(path)
            rooms[name] = Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    return render(metrics(status, news(told, status)[1], rooms))


def metrics(status: Status, told: Told, rooms: dict[str, Room]) -> list[Metric]:
    """All metrics of a machine; `rooms` are its file systems, named sysroot and esp."""
    booted, update = status.with_role("booted"), status.update
    offered = update is not None and update.available and not update.rejected
    by_role = [(role, info) for role in _ROLES if (info := status.with_role(role)) is not None]
    chain = status.chain
    return [
        _one("bootcd_info", "Version of bootcd.", 1, {"version": __version__}),
        Metric("bootcd_deployment_info", "What the deployment with a role is.",
               [({"role": role, **_about(info)}, 1) for role, info in by_role]),
        _one("bootcd_deployments", "Deployments on the machine.", len(status.deployments)),
        Metric("bootcd_deployments_with_role", "Deployments by role; one may have several.",
               [({"role": role}, sum(role in info.roles for info in status.deployments))
                for role in (*_ROLES, "pinned")]),
        Metric("bootcd_booted_health", "The verdict on the running deployment: 1 for the one that holds.",
               [({"health": health}, booted.health == health) for health in ("untried", "good", "bad")]
               if booted is not None else []),
        _one("bootcd_fell_back", "Whether an older deployment runs, since the newest is bad.",
             bool(status.fell_back_from)),
        _one("bootcd_fallbacks", "How often the machine fell back, as far as it was noticed.", told.fallbacks),
        _one("bootcd_reboot_required", "Whether a reboot brings another deployment, or resets this one.",
             status.awaited() is not None),
        _one("bootcd_update_available", "Whether the last check found an image that would be taken.", offered),
        Metric("bootcd_update_info", "The image that the last check found.", [(
            {"image": update.image, "version": update.version, "digest": update.manifest_digest}, 1)]
               if update is not None and offered else []),
        Metric("bootcd_last_check_timestamp_seconds", "When the source was asked the last time.",
               _times([({}, status.update_time)])),
        Metric("bootcd_last_result_success", "Whether a verb succeeded the last time.",
               [(_verb(result), result.success) for result in told.results]),
        Metric("bootcd_last_result_timestamp_seconds", "When a verb ended the last time.",
               _times([(_verb(result), result.time) for result in told.results])),
        _one("bootcd_unfinished", "Whether a transaction was cut off, which the next command finishes.",
             bool(status.unfinished)),
        _one("bootcd_warnings", "How many warnings 'bootcctl status' shows.", len(status.warnings)),
        Metric("bootcd_sealed", "Whether a valid signature vouches for the running deployment.",
               [({}, chain.sealed)] if chain is not None and chain.sealed is not None else []),
        Metric("bootcd_filesystem_size_bytes", "Size of a file system that deployments need.",
               [({"filesystem": name}, room.size) for name, room in rooms.items()]),
        Metric("bootcd_filesystem_avail_bytes", "What is free there.",
               [({"filesystem": name}, room.free) for name, room in rooms.items()]),
    ]


def render(found: Sequence[Metric]) -> str:
    """The text of metrics; those without a sample are left out."""
    lines = []
    for metric in found:
        if metric.samples:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} gauge"]
            lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "\n".join([*lines, "# EOF", ""])


def _labels(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    """A label value. Names come from images: what is no printable character is replaced, since people read this on
    terminals, too."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _one(name: str, help: str, value: float, labels: Labels | None = None) -> Metric:
    return Metric(name, help, [(labels or {}, value)])


def _about(info: DeploymentInfo) -> Labels:
    return {"image": info.image, "version": info.version, "digest": info.manifest_digest, "id": info.id}


def _verb(result: VerbResult) -> Labels:
    return {"verb": result.verb}


def _times(times: Sequence[tuple[Labels, str]]) -> list[tuple[Labels, float]]:
    """Times in seconds since 1970; what is no time is left out."""
    return [(labels, found.timestamp()) for labels, text in times if (found := moment(text)) is not None]
