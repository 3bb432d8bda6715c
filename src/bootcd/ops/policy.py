# SPDX-License-Identifier: Apache-2.0
"""The update policy: what a machine does without being asked, and when. Pure: facts, rules and a moment in, decisions
out.

There are four steps, each of which may be done alone: `check` asks the source, `download` stages what is new without
letting it boot, `stage` lets it boot next, `reboot` boots it. A step is done when all gates (`ops.gates`) agree; each
gate says in one sentence why. What is not known never refuses: a machine without UPower has no battery to spare.

bootcd-update-policy(7) has the meaning of each gate, docs/update-policy.md the reasons.
"""

from __future__ import annotations

from datetime import datetime

from .decisions import PolicyReport, StepInfo
from .gates import GATES
from .rules import STEPS, Facts, Rules, Verdict, iso

_ROUNDS = 64
"""Gates that ask for another moment each, in turn; what has not come together by then waits for luck."""


def decide(facts: Facts, rules: Rules, now: datetime) -> PolicyReport:
    """What would be done alone at this moment, and why."""
    return PolicyReport(iso(now), rules.automatic, str(rules.zone),
                        tuple(_decide(facts, rules, step, now) for step in STEPS))


def allowed(facts: Facts, rules: Rules, step: str, now: datetime) -> bool:
    """Whether a step would be done alone at this moment; the same as `decide` says, sooner."""
    return all(verdict is None or verdict.allows for verdict in (gate(facts, rules, step, now) for gate in GATES))


def _decide(facts: Facts, rules: Rules, step: str, now: datetime) -> StepInfo:
    verdicts = _verdicts(facts, rules, step, now)
    refusing = [verdict for verdict in verdicts if not verdict.allows]
    chance, waits = (None, "") if not refusing else next_chance(facts, rules, step, now)
    return StepInfo(step, not refusing, iso(chance), waits, tuple(verdict.info() for verdict in verdicts))


def next_chance(facts: Facts, rules: Rules, step: str, now: datetime) -> tuple[datetime | None, str]:
    """The first moment at which all gates would agree if nothing but time went by, or what has to happen."""
    when = now
    for _ in range(_ROUNDS):
        refusing = [verdict for verdict in _verdicts(facts, rules, step, when) if not verdict.allows]
        if not refusing:
            return when, ""
        if waits := [verdict.waits for verdict in refusing if verdict.next is None]:
            return None, "; ".join(dict.fromkeys(waits))
        when = max(verdict.next for verdict in refusing if verdict.next is not None)
    return None, "its conditions do not come together"


def _verdicts(facts: Facts, rules: Rules, step: str, now: datetime) -> list[Verdict]:
    return [verdict for gate in GATES if (verdict := gate(facts, rules, step, now)) is not None]
