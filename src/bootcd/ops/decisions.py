# SPDX-License-Identifier: Apache-2.0
"""What the update policy answers: plain values, the same for the command line, `--json` and D-Bus.

Times are ISO 8601 in UTC, empty where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateInfo:
    """What one gate sees and says of a step. `gate` is a stable word, `text` a sentence for people. One that refuses
    says in `next` when it would not any more, or in `waits` what has to happen, where that has no time."""

    gate: str
    allows: bool
    text: str
    next: str = ""
    waits: str = ""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Whether a step (check, download, stage, reboot) would be done alone now. `gates` are all that were asked; if not,
    `next` is the next chance by all that is known, or `waits` what has to happen first."""

    step: str
    allowed: bool
    next: str
    waits: str
    gates: tuple[GateInfo, ...]


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """The policy at one moment. `automatic` is the last step that is done alone, or none; `reboot_time` when the
    machine reboots by it, once that is planned. `done` says in a sentence what a run has just done by itself."""

    time: str
    automatic: str
    time_zone: str
    steps: tuple[StepInfo, ...]
    reboot_time: str = ""
    done: str = ""

    def step(self, name: str) -> StepInfo:
        """The decision about a step."""
        return next(one for one in self.steps if one.step == name)
