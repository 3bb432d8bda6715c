# SPDX-License-Identifier: Apache-2.0
"""Rollback, pins, unstage: changes among deployments that are there already. No network, no downloads."""

from __future__ import annotations

from ..deploy import plan
from ..deploy.facts import kept
from ..deploy.records import pinned, unpinned
from ..errors import Refused, UsageError
from . import describe
from .last import now
from .machine import Machine
from .results import ChangeResult
from .select import select
from .session import change

_MAX_LABEL = 100


def rollback(machine: Machine, name: str | None) -> ChangeResult:
    """Promote another deployment; the image that the machine leaves is not offered again until its tag moves on."""
    with change(machine) as session:
        facts = session.facts()
        if session.completed is not None and session.completed.verb == "rollback" and facts.default is not None and (
                name is None or select(facts, name) is facts.default):
            target = facts.default  # asked for again since it was cut off: twice would lead back
        else:
            target = select(facts, name) if name is not None else plan.rollback_target(facts)
            session.run(plan.plan_rollback(facts, target, tries=session.config.boot_tries, time=now()))
        after = session.facts()
        version = f" (version {target.version})" if target.version else ""
        staged = after.staged
        waits = "" if staged is None else (f" Deployment {staged.short_id} stays staged, but is not finalized "
                                           "before 'bootcctl upgrade' asks for it.")
        if facts.resetting is not None:
            waits += " The reset that waited for the shutdown is forgotten."
        return ChangeResult("deployed", f"Deployment {target.short_id}{version} boots next.{waits}",
                            describe.deployment(after, after.records[target.id]))


def pin(machine: Machine, name: str, label: str) -> ChangeResult:
    """Keep a deployment until it is unpinned. Raises Refused when another one has that label, UsageError for a label
    that nobody could read."""
    if len(label) > _MAX_LABEL or not label.isprintable():
        raise UsageError(f"a label is at most {_MAX_LABEL} printable characters long")
    with change(machine) as session:
        facts = session.facts()
        record = select(facts, name)
        if record.generation is None:
            raise Refused(f"deployment {record.short_id} is only staged",
                          advice="It can be pinned once it has become the default.")
        for other in facts.records.values():
            if label and other.id != record.id and any(pin.label == label for pin in other.pins):
                raise Refused(f"deployment {other.short_id} is pinned as '{label}' already",
                              advice="Choose another label, or unpin it first.")
        session.records.save(pinned(record, label, now()))
        after = session.facts()
        return ChangeResult("pinned", f"Deployment {record.short_id} is pinned{f' as {label}' if label else ''}.",
                            describe.deployment(after, after.records[record.id]))


def unpin(machine: Machine, name: str, label: str | None) -> ChangeResult:
    """Take pins off. Raises Refused when there is no such pin."""
    with change(machine) as session:
        facts = session.facts()
        record = select(facts, name)
        changed = unpinned(record, label)
        if changed.pins == record.pins:
            raise Refused(f"deployment {record.short_id} is not pinned{f' as {label}' if label is not None else ''}")
        session.records.save(changed)
        after = session.facts()
        stays = record.id in kept(after, session.config.keep_previous)
        rest = "" if stays else "; the next cleanup removes it"
        return ChangeResult("unpinned", f"Deployment {record.short_id} is "
                            f"{'still pinned otherwise' if changed.pins else 'not pinned any more'}{rest}.",
                            describe.deployment(after, after.records[record.id]))


def unstage(machine: Machine) -> ChangeResult:
    """Forget the staged deployment; its files go with the next cleanup."""
    with change(machine) as session:
        facts = session.facts()
        staged = facts.staged
        if staged is None and facts.resetting is None and session.completed is not None and (
                session.completed.verb == "unstage"):
            return ChangeResult("unstaged", "No deployment is staged any more; 'bootcctl cleanup' frees the space.")
        session.run(plan.plan_unstage(facts, reset=True))
        if staged is None:
            return ChangeResult("unstaged", "The reset that waited for the shutdown is forgotten.")
        return ChangeResult("unstaged", f"Deployment {staged.short_id} is no longer staged; "
                            f"'bootcctl cleanup' frees its space.{describe.dropped_kargs(facts, staged)}")
