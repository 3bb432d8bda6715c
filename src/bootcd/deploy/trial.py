# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments on trial: whether they have proven themselves. Pure: facts in, decisions out.

    asked for ──► on trial ──a boot with them completes──► the deployment's; the entry from before goes
                     ├────the loader gives their entry up──► forgotten; their entry goes
                     └──────their boots fail, by the rules of [health] on-failure──► forgotten

Until then the deployment has two entries, and the loader takes the one that has booted before when the other one is
used up. The kernel command line tells with which of both the machine runs: every boot loader passes that on.
"""

from __future__ import annotations

from enum import StrEnum

from ..boot.kargs import runs_with
from .facts import Facts
from .records import Record
from .verdict import Reaction, Verdict, how_often


class Outcome(StrEnum):
    """What a boot that completed says about a trial."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


def is_running(facts: Facts, record: Record, cmdline: str) -> bool:
    """Whether the kernel, whose command line this is, was started with the arguments that `record` is on trial with."""
    found = facts.trial(record)
    return found is not None and runs_with(cmdline, record.options_with(found[0].own), record.options)


def outcome(facts: Facts, record: Record, cmdline: str, boot: str, *, loader_counts: bool) -> Outcome:
    """What it says that the boot `boot` of the running deployment completed.

    When the arguments from before run, the loader has given the others up, or somebody has chosen the older entry in
    the menu. That is told apart by the counter. Where none is kept, the loader would have taken the newer entry, so
    they are bad, unless they were asked for in this very boot.
    """
    found = facts.trial(record)
    if found is None:
        return Outcome.OPEN
    if is_running(facts, record, cmdline):
        return Outcome.GOOD
    trial, entry = found
    if entry.bad or (trial.made_in != boot and not (loader_counts and entry.counted)):
        return Outcome.BAD
    return Outcome.OPEN


def judge(facts: Facts, record: Record, *, on_failure: str, tries: int) -> Verdict:
    """What it means that a boot with the arguments on trial failed: as `verdict.judge`, but a rollback is one to the
    arguments from before, which is always possible."""
    started, granted, found = len(record.attempts), max(tries, 1), facts.trial(record)
    if on_failure == Reaction.STAY:
        return Verdict(False, Reaction.STAY, "[health] on-failure wants it so")
    if on_failure == Reaction.ROLLBACK:
        return Verdict(True, Reaction.ROLLBACK, "[health] on-failure wants it so")
    if started >= granted or (found is not None and found[1].failed):
        return Verdict(True, Reaction.ROLLBACK, f"the machine was started with them {how_often(started)}")
    return Verdict(False, Reaction.REBOOT, f"try {started} of {granted}")
