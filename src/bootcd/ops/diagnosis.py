# SPDX-License-Identifier: Apache-2.0
"""What `doctor` answers: plain values, as those of `ops.results`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DiagnosisStep:
    """One step of a pull. `about` is the place that it is about, empty for the pull as a whole. `state` is ok, warning
    (it is not as it should be, and the pull goes on), failed or left-out; `says` what was found, as sentences, and
    `facts` the same for programs. `error` is the D-Bus name of what went wrong, `advice` what to do."""

    about: str
    step: str
    state: str
    says: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)
    error: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How a pull of an image would go. `works` is None when it cannot be told without a connection. `error`, `message`
    and `advice` are what the pull would end with, `exit_status` that of bootcctl."""

    image: str
    works: bool | None
    summary: str
    error: str = ""
    message: str = ""
    advice: str = ""
    exit_status: int = 0
    notes: tuple[str, ...] = ()
    steps: tuple[DiagnosisStep, ...] = ()
