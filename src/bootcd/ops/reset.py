# SPDX-License-Identifier: Apache-2.0
"""Reset: the same image with a pristine /etc, and with a fresh /var if that is wanted.

Nothing of the machine stays in them, not even its identity: machine-id, host keys, users, network settings and the
settings of bootcd itself are made anew as on a first boot. What is not in them stays: kernel arguments, pins, images.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..deploy import plan
from ..deploy.etccompare import Difference
from ..deploy.etctrees import EtcTrees
from ..deploy.facts import Aside, Facts
from ..deploy.fresh import FreshState
from ..deploy.records import RESETS, Record
from ..errors import DeploymentNotFound, Refused, UsageError
from . import collect, describe
from .machine import Machine
from .results import ChangeResult, PullStats
from .session import Session, change, look

STATE = "state"
_WHAT = {"etc": "a pristine /etc", STATE: "a pristine /etc and a fresh /var"}


def reset(machine: Machine, what: str, *, dry_run: bool) -> ChangeResult:
    """Give what boots next the /etc of its image and, when `what` is "state", a /var as at installation.

    On a running system that waits for the shutdown. Raises UsageError for another word than etc and state.
    """
    if what not in RESETS or not what:
        raise UsageError(f"a reset is of one of {', '.join(RESETS[1:])}, not '{what}'")
    with look(machine) if dry_run else change(machine) as session:
        facts = session.facts()
        target, default = facts.next, facts.default
        if target is None or default is None:
            raise DeploymentNotFound("there is no deployment to reset")
        _check(session, facts, target, what)
        if dry_run:
            return ChangeResult("planned", _preview(session, facts, target, what), describe.deployment(facts, target))
        if session.completed is not None and session.completed.verb == "reset":  # asked for again since it was cut off
            return ChangeResult("deployed", _told(target, what), describe.deployment(facts, target))
        if _is_fresh(session, facts, target, what):
            return ChangeResult("unchanged", f"Deployment {target.short_id} has not been started since it was reset.",
                                describe.deployment(facts, target))
        if facts.booted is None:
            return carry_out(session, facts, replace(default, reset=what), None)
        session.records.save(replace(default, reset=what))
        after = session.facts()
        return ChangeResult("staged", f"The shutdown gives deployment {target.short_id} {_WHAT[what]}; "
                            "'bootcctl unstage' leaves them as they are.",
                            describe.deployment(after, after.records[target.id]))


def carry_out(session: Session, facts: Facts, marked: Record, stats: PullStats | None) -> ChangeResult:
    """Make what boots next, a staged deployment or the default, start anew as the record `marked` asks for."""
    target = facts.next
    assert target is not None
    etc, var = FreshState(session.machine.sysroot, session.repository).inodes(target.id)
    session.run(plan.plan_reset(facts, marked, marked.reset, etc=etc, var=var, tries=session.config.boot_tries))
    collected = collect.collect_if_free(session)
    after = session.facts()
    return ChangeResult("deployed", _told(target, marked.reset),
                        describe.deployment(after, after.records[target.id]), stats, collected)


def _check(session: Session, facts: Facts, target: Record, what: str) -> None:
    """Refuse early what could not be done at shutdown."""
    for there, why in ((facts.has_kernel(target), "its kernel is not on the ESP"),
                       (target.id in facts.images, "its image is not in the repository")):
        if not there:
            raise Refused(f"deployment {target.short_id} cannot boot: {why}",
                          advice="'bootcctl fsck --repair' mends what can be mended.")
    if facts.trial(target) is not None:  # two changes on trial could not be told apart, nor taken back one by one
        raise Refused(f"kernel arguments of deployment {target.short_id} are on trial",
                      advice="Reboot, so that they can prove themselves, or take them back by 'bootcctl kargs'.")
    sysroot = session.machine.sysroot
    FreshState(sysroot, session.repository).inodes(target.id)
    if what == STATE and sysroot.path == Path("/sysroot") and not os.path.samefile("/var", sysroot.var):
        raise Refused("/var is a file system of its own, which a reset does not reach",
                      advice="Reset only /etc, and empty /var by other means.")


def _is_fresh(session: Session, facts: Facts, target: Record, what: str) -> bool:
    """Whether a reset, which its own generation tells, has done all that already and nothing has happened since."""
    left = [Aside(target.generation or 0, name) for name in ([target.id, ""] if what == STATE else [target.id])]
    return facts.aside.issuperset(left) and not target.attempts and not _differences(session, target)


def _differences(session: Session, target: Record) -> list[Difference]:
    trees = EtcTrees(session.machine.sysroot, session.repository)
    return list(trees.comparison.differences(trees.pristine(target.id), trees.live(target.id).root))


def _preview(session: Session, facts: Facts, target: Record, what: str) -> str:
    differences = _differences(session, target)
    when = "The shutdown would give" if facts.booted is not None else "This would give"
    count = f"{len(differences)} path{'' if len(differences) == 1 else 's'}"
    return (f"{when} deployment {target.short_id} {_WHAT[what]}. What is local in /etc ({count})"
            f"{' and all of /var' if what == STATE else ''} would be set aside"
            f"{'; bootcctl etc diff names the paths' if differences else ''}.")


def _told(target: Record, what: str) -> str:
    return (f"Deployment {target.short_id} boots next with {_WHAT[what]}; what was there is kept aside until the "
            "deployment has proven itself.")
