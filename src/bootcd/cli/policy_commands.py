# SPDX-License-Identifier: Apache-2.0
"""The verbs about the update policy: what a machine does alone, and why not more."""

from __future__ import annotations

from argparse import Namespace

from ..ops.decisions import PolicyReport, StepInfo
from ..ops.results import ChangeResult
from . import output
from .hosts import host, the_daemon
from .table import table
from .text import printable

_MOST = 8
"""Steps of one run: each of the four, and again for what appears meanwhile."""
_ONLY = "only the daemon acts by the update policy"


def show(options: Namespace) -> int:
    with host(options) as machine:
        report = machine.policy()
    output.emit_json(report) if options.json else _decisions(report)
    return 0


def explain(options: Namespace) -> int:
    with host(options) as machine:
        report = machine.policy()
    if options.json:
        output.emit_json(report)
        return 0
    for step in report.steps:
        print(printable(f"{step.step}: {_when(step)}"))
        table((f"  {'yes' if gate.allows else 'no'}", gate.gate, gate.text) for gate in step.gates)
    _planned(report)
    return 0


def run(options: Namespace) -> int:
    with host(options) as machine:
        daemon = the_daemon(machine, _ONLY, "'bootcctl upgrade' does it by hand.")
        for _ in range(_MOST):
            report, result = daemon.policy_run()
            if result is None:
                break
            if not options.json:
                output.change(result) if isinstance(result, ChangeResult) else output.check(result)
    if options.json:
        output.emit_json(report)
    elif report.done:
        print(printable(report.done))
    return 0


def cancel_reboot(options: Namespace) -> int:
    with host(options) as machine:
        cancelled = the_daemon(machine, _ONLY, "'shutdown -c' cancels any reboot that is planned.").cancel_reboot()
    print("The reboot is cancelled; it does not come back for a day." if cancelled else "No reboot is planned.")
    return 0


def _decisions(report: PolicyReport) -> None:
    rows = [("STEP", "ALONE", "WHY")]
    for step in report.steps:
        refusing = [gate.text for gate in step.gates if not gate.allows]
        rows.append((step.step, _when(step), " ".join(refusing) or step.gates[1].text))
    table(rows)
    _planned(report)


def _when(step: StepInfo) -> str:
    return "now" if step.allowed else f"from {step.next}" if step.next else f"when {step.waits}"


def _planned(report: PolicyReport) -> None:
    if report.reboot_time:
        print(f"The machine reboots at {report.reboot_time}; 'bootcctl policy cancel-reboot' puts it off.")
