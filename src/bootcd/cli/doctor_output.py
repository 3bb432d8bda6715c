# SPDX-License-Identifier: Apache-2.0
"""How a pull would go, as text for people."""

from __future__ import annotations

from itertools import groupby

from ..ops.diagnosis import Diagnosis, DiagnosisStep
from .table import table
from .text import printable

_STATES = {"ok": "", "warning": "warning: ", "failed": "failed: ", "left-out": ""}


def diagnosis(value: Diagnosis) -> None:
    print(printable(value.image))
    for about, steps in groupby(value.steps, lambda step: step.about):
        if about:
            print(printable(about))
        table(row for step in steps for row in _rows(step))
    for note in value.notes:
        print(printable(f"Note: {note}"))
    print(printable(value.summary))
    if value.advice:
        print(printable(f"  {value.advice}"))


def _rows(step: DiagnosisStep) -> list[tuple[str, str]]:
    """What a step says, below each other; what went wrong is the last."""
    lines = list(step.says)
    if step.error and lines:
        lines[-1] = f"{_STATES[step.state]}{lines[-1]}"
    if step.advice and step.state == "warning":
        lines.append(step.advice)  # that of what failed is at the end of all
    return [(f"  {'' if number else step.step:15}", line) for number, line in enumerate(lines)]
