# SPDX-License-Identifier: Apache-2.0
"""/etc explained: what differs from the image, what the merge decided, by which rule, and the way back."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from ..deploy.etc import SHOWN
from ..deploy.etccompare import CHANGED, Difference
from ..deploy.etcreset import relative, reset
from ..deploy.etcrules import Rule
from ..deploy.etctrees import EtcTrees, Live
from ..deploy.facts import Facts
from ..deploy.records import Record
from ..deploy.state import States
from ..errors import DeploymentNotFound, EtcConflict
from ..formats.tree import Inode, RegularFile, Symlink
from . import describe
from .machine import Machine
from .results import EtcDiff, EtcDifference, EtcReport, EtcReset, EtcResetItem, EtcRule, EtcRules
from .select import select
from .session import Session, look, store

_MAX_TEXT = 256 << 10
"""Bytes of a file beyond which no text difference is made: the time for it grows faster than the file."""


def check_merge(session: Session, deployment_id: str, merge_from: str) -> None:
    """Find out whether /etc can be merged, before anything is done for it. Raises EtcConflict, ConfigError."""
    try:
        _, warnings = States(session.machine.sysroot, session.repository).preview(deployment_id, merge_from)
    except EtcConflict as conflict:
        if len(conflict.conflicts) > SHOWN:
            for what in conflict.conflicts:
                session.progress.note(f"Conflict in /etc: {what}.")
        raise
    for warning in warnings:
        session.progress.note(warning)


def diff(machine: Machine, name: str | None, *, text: bool) -> EtcDiff:
    """How /etc of a deployment, by default the running one, differs from that of its image."""
    with look(machine) as session:
        record = _named(session.facts(), name)
        trees = _trees(session)
        live = trees.live(record.id)
        found = trees.comparison.differences(trees.pristine(record.id), live.root)
        return EtcDiff(record.id, record.version, tuple(
            EtcDifference(os.fsdecode(one.path), one.kind, one.what, _text(trees, live, one) if text else "")
            for one in found))


def report(machine: Machine, name: str | None) -> EtcReport:
    """What the merge decided for a deployment, by default the newest: the staged one, or what runs."""
    with look(machine) as session:
        facts = session.facts()
        record = _newest(facts) if name is None else select(facts, name)
        return EtcReport(record.id, record.version, describe.etc_changes(record.etc_report))


def reset_paths(machine: Machine, paths: Sequence[str], *, dry_run: bool) -> EtcReset:
    """Set paths of the running deployment's /etc back to its image's version; the old ones stay beside them."""
    wanted = [relative(path) for path in paths]
    with look(machine) if dry_run else store(machine) as session:
        record = _named(session.facts(), None)
        done = reset(_trees(session), session.repository, record.id, wanted, dry_run=dry_run)
        return EtcReset(record.id, record.version, dry_run, tuple(
            EtcResetItem(os.fsdecode(one.path), one.outcome, os.fsdecode(one.aside)) for one in done))


def rules(machine: Machine, path: str | None) -> EtcRules:
    """The rules for the next merge, or those for one path, the deciding one first. The image's are those of the staged
    deployment, or of the one that runs."""
    wanted = relative(path) if path is not None else None
    with look(machine) as session:
        facts = session.facts()
        record = _newest(facts)
        trees = _trees(session)
        found = trees.rules(trees.image(record.id), trees.live(_named(facts, None).id))
        chosen = found.matching(wanted) if wanted is not None else tuple(reversed(found.rules))
        shown = "" if wanted is None else os.fsdecode(wanted) or "."
        return EtcRules(record.id, record.version, shown, tuple(map(_rule, chosen)), found.warnings)


def _rule(rule: Rule) -> EtcRule:
    return EtcRule(rule.pattern, rule.policy, rule.why, rule.source, "machine" if rule.machine else "image")


def _trees(session: Session) -> EtcTrees:
    return EtcTrees(session.machine.sysroot, session.repository)


def _named(facts: Facts, name: str | None) -> Record:
    """The deployment of that name, without one what runs."""
    record = facts.current if name is None else select(facts, name)
    if record is None:
        raise DeploymentNotFound("there is no deployment")
    return record


def _newest(facts: Facts) -> Record:
    return facts.staged or _named(facts, None)


def _text(trees: EtcTrees, live: Live, one: Difference) -> str:
    """A unified difference; empty where either side is no text."""
    if one.kind == CHANGED and "content" not in one.what:
        return ""
    name = os.fsdecode(one.path)
    sides = [_lines(trees, None, one.before), _lines(trees, live, one.after)]
    if None in sides:
        return ""
    before, after = (side or [] for side in sides)
    return "".join(difflib.unified_diff(before, after, f"image/etc/{name}", f"/etc/{name}"))


def _lines(trees: EtcTrees, live: Live | None, node: Inode | None) -> list[str] | None:
    """The lines of a text file, or of what a symlink says; of what is not there none. None for everything else."""
    if node is None:
        return []
    if isinstance(node, Symlink):
        return [f"-> {os.fsdecode(node.target)}\n"]
    if not isinstance(node, RegularFile) or node.size > _MAX_TEXT:
        return None
    data = node.inline if node.digest is not None or node.inline is not None else bytes(node.size)
    if data is None:
        descriptor = live.open(node) if live is not None else trees.open(node)
        assert descriptor is not None
        with open(descriptor, "rb") as file:
            data = file.read(_MAX_TEXT)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    lines = text.split("\n")
    ended = [line + "\n" for line in lines[:-1]]
    return ended if not lines[-1] else [*ended, f"{lines[-1]}\n\\ No newline at end of file\n"]
