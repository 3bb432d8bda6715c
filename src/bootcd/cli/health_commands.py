# SPDX-License-Identifier: Apache-2.0
"""The verbs about health: those for units, one for each moment of a boot, and those for people."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from ..errors import BootcdError, Unhealthy
from ..linux import files
from ..linux.systemd import reboot
from ..ops.resultjson import from_json, to_json
from ..ops.results import HealthReport
from . import output
from .commands import change
from .hosts import host
from .table import table
from .text import printable

_UNKNOWN = "a unit that boot-complete.target requires failed, or took too long"


def boot_started(options: Namespace) -> int:
    return change(options, lambda machine: machine.boot_started(), direct=True)


def boot_complete(options: Namespace) -> int:
    return change(options, lambda machine: machine.boot_complete(), direct=True)


def boot_failed(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.boot_failed(_reason(options.report) or _UNKNOWN)
    output.emit_json(result) if options.json else output.change(result)
    if result.outcome != "stay" and not options.no_reboot:
        reboot(soft=False)
    return 0


def show(options: Namespace) -> int:
    with host(options) as machine:
        infos = machine.status().deployments
    if options.json:
        output.emit_json([{"id": info.id, "version": info.version, "roles": info.roles, "health": info.health,
                           "health-reason": info.health_reason} for info in infos])
    elif not infos:
        print("No deployments.")
    else:
        table([("ID", "VERSION", "ROLES", "HEALTH", "REASON"),
               *((info.id[:12], info.version or "-", ",".join(info.roles) or "-", info.health,
                  info.health_reason or "-") for info in infos)])
    return 0


def check(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        report = machine.health_check()
    if options.report is not None:
        files.atomic_write(Path(options.report), json.dumps(to_json(report)).encode() + b"\n")
    if options.json:
        output.emit_json(report)
    else:
        for one in report.checks:
            wanted, why = "" if one.required else " (wanted)", f": {one.reason}" if one.reason else ""
            print(printable(f"{one.name}{wanted}: {one.outcome.replace('-', ' ')}{why}"))
        passed = sum(one.outcome == "passed" for one in report.checks)
        print(f"{passed} of {len(report.checks)} checks passed." if report.checks else "There are no health checks.")
    if not report.good:
        raise Unhealthy(f"a required health check did not pass: {report.reason}")
    return 0


def _reason(path: str | None) -> str:
    """What the checks had to complain about; empty when they had nothing, or were not run."""
    if path is None:
        return ""
    try:
        with files.translate(f"cannot read {path}"):
            report = from_json(HealthReport, json.loads(Path(path).read_text("utf-8", "replace")))
    except (BootcdError, ValueError, RecursionError):
        return ""
    return report.reason
