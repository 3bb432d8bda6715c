# SPDX-License-Identifier: Apache-2.0
"""Whether a deployment is good, and what follows when its boot fails. Pure: facts in, decisions out.

    untried ──its boot completes──► good            stays so, whatever fails in later boots
       │ ▲                            ▲
       │ └──promoted again──┐         └──its boot completes after all
       └──its boots fail────┴─► bad                 its image is rejected

The boot loader counts the boots of an entry where it can. The records count as well (`Record.attempts`), and know which
generation ought to have booted, so that a fallback is noticed, and made, where the loader counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .facts import Facts
from .records import Record


class Reaction(StrEnum):
    """What follows a boot that failed."""

    STAY = "stay"
    REBOOT = "reboot"
    ROLLBACK = "rollback"
    """Promote the deployment before, then reboot."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """On a boot that failed: whether the deployment is `bad` now, what follows, and why it is that."""

    bad: bool
    reaction: Reaction
    why: str


def passed_over(facts: Facts, boot: str, *, loader_counts: bool) -> list[tuple[Record, str]]:
    """Deployments that should have come up instead of the running one, each with what became of it; `boot` is the
    boot that runs, `loader_counts` whether the loader goes back only from an entry whose counter is used up.

    A deployment that was good once is none of them: then somebody chose an older one in the menu. Under a loader that
    counts, that is also so while the newer one has tries left.
    """
    booted = facts.records.get(facts.booted or "")
    if booted is None or booted.generation is None:
        return []
    found = []
    for record in facts.records.values():
        if record.health != "untried" or (record.generation or 0) <= booted.generation or record.promoted_in == boot:
            continue
        times = len(record.attempts)
        if times and (facts.has_failed(record) or not loader_counts):
            found.append((record, record.health_reason or f"it was started {how_often(times)}, and no boot completed"))
        elif facts.has_failed(record):
            found.append((record, "its boot attempts are used up"))
        elif not loader_counts and facts.entries_of(record):
            found.append((record, "the boot loader fell back from it"))
    return found


def fell_back_from(facts: Facts) -> Record | None:
    """The newest deployment, where that is bad and an older one runs in its place."""
    booted = facts.records.get(facts.booted or "")
    newer = [record for record in facts.records.values()
             if booted is not None and record.generation is not None and record.staged > booted.staged]
    newest = max(newer, key=lambda record: record.staged, default=None)
    return newest if newest is not None and facts.has_failed(newest) else None


def judge(facts: Facts, record: Record, *, on_failure: str, tries: int) -> Verdict:
    """What a failed boot of the running deployment `record` means. `tries` boots are granted where the loader does not
    count; `on_failure` is what the owner of the machine wants, as a `Reaction`.

    No path leads to reboots without end: a deployment that was good is never left, nor is one that has nothing to fall
    back to, and when the loader starts the same one again after the last try, the machine stays there.
    """
    started = len(record.attempts)
    granted = max(tries, 1)
    if record.health == "good":
        return Verdict(False, Reaction.STAY, "it has come up well before")
    if not any(other.id != record.id and not facts.is_bad(other) for other in facts.deployed()):
        return Verdict(True, Reaction.STAY, "there is nothing to fall back to")
    if started > granted:
        return Verdict(True, Reaction.STAY, "the boot loader starts it all the same")
    if on_failure == Reaction.STAY:
        return Verdict(True, Reaction.STAY, "[health] on-failure wants it so")
    if facts.default is not None and facts.default.id != record.id:  # its counter is used up, or it was left already
        return Verdict(True, Reaction.REBOOT, "the boot loader takes another deployment now")
    if on_failure == Reaction.ROLLBACK:
        return Verdict(True, Reaction.ROLLBACK, "[health] on-failure wants it so")
    if started >= granted:
        return Verdict(True, Reaction.ROLLBACK, f"it was started {how_often(started)}")
    return Verdict(False, Reaction.REBOOT, f"try {started} of {granted}")


def how_often(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"
