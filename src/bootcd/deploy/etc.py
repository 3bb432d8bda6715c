# SPDX-License-Identifier: Apache-2.0
"""The three-way merge of /etc: pure, from three trees and rules to one tree with a report.

`pristine` is /etc of the image that the machine runs, `local` is /etc as it is now, `new` is /etc of the image to come.
A path is *changed* when content, permissions, owner, xattrs or the kind of file differ; modification times do not
count. A *leaf* is anything but a directory. Every path goes by the first line that fits:

    pristine   local          new            result
    any        like pristine  any            new
    any        any            like local     new
    leaf       deleted        directory      new: a deletion never takes new files along
    directory  deleted        leaf           new, for the same reason
    directory  deleted        directory      only what the image adds to it, if anything
    any        directory      directory      each name by these lines, and the metadata
    directory  directory      absent         each name by these lines, if any is left
    any        anything else  like pristine  local
    leaf       deleted        other leaf     DECISION: deleted, unless a rule differs
    any        leaf           other leaf     DECISION: local, unless a rule differs
    any        changed        deleted        DECISION: local, unless a rule differs
    any        leaf           directory      DECISION: conflict, unless a rule differs
    any        directory      leaf           DECISION: conflict, unless a rule differs

Rules (`etcrules`) are asked where the table says DECISION, and where both sides changed the metadata of a directory,
which is local unless a rule differs. That is where both sides changed a path, and nowhere else:

    keep-local  local: what is here stays, what is deleted stays deleted
    take-image  new: what the image has comes, what it deleted goes
    both        local, and new beside it as NAME.bootcd.rpmnew
    fail        conflict: nothing is merged, and somebody has to decide

With `both`, an older NAME.bootcd.rpmnew makes way. Nothing is put beside it where new is deleted, where only the
metadata of a directory differs, and where NAME leaves no room.

Hard links, times and xattrs of the side that wins are kept, because the inodes themselves are taken over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate

from ..errors import EtcConflict
from ..formats.tree import Directory, Inode
from .etccompare import DELETED, Comparison, kind_of_file
from .etcrules import Policy, Rule, Rules
from .records import EtcDecision, EtcReport

BESIDE = b".bootcd.rpmnew"
"""What is put behind the name of the image's version that is not taken. It ends like that because programs that read
all files of a directory, such as logrotate, cronie and run-parts, know to leave alone what ends so."""
_MAX_NAME = 255
_MAX_DEPTH = 128
_MAX_REPORTED = 1000
_MAX_REPORTED_SIZE = 100_000
"""Entries in each list of the report, and their bytes as JSON: it goes into the record, which has a limit."""
SHOWN = 10
"""How many conflicts an error names."""
_ADVICE = ("A rule in /etc/bootcd/etc-rules.d decides such cases, see bootcd-etc(7); 'bootcctl etc reset PATH' takes "
           "the local version out of the way; so does moving it by hand.")


@dataclass(slots=True)
class Merge:
    """The result: `root` shares its leaves with `local` and `new`."""

    root: Directory
    report: EtcReport


def merge(pristine: Directory, local: Directory, new: Directory, *, owners: bool = True, rules: Rules | None = None
          ) -> Merge:
    """Merge. With `owners` False, owners and xattrs are not compared, since a normal user could not have set them.

    Raises EtcConflict with every path that needs a decision, and ConfigError for rules that cannot be used.
    """
    for side in (pristine, local, new):
        _check_depth(side)
    merger = _Merger(Comparison(owners), rules or Rules())
    root = merger.directories(pristine, local, new, b"")
    assert root is not None
    if merger.conflicts:
        shown = "; ".join(merger.conflicts[:SHOWN])
        more = f" and {len(merger.conflicts) - SHOWN} more" if len(merger.conflicts) > SHOWN else ""
        conflict = EtcConflict(f"/etc cannot be merged: {shown}{more}", advice=_ADVICE)
        conflict.conflicts = tuple(merger.conflicts)
        raise conflict
    public = _Public(pristine, local, new)
    decisions = [replace(decision, path=public.name(decision.path)) for decision in merger.decisions]
    return Merge(root, EtcReport(
        _bounded(public.names(merger.kept_local)), _bounded(public.names(merger.both_changed)),
        _bounded(public.names(merger.added)), _bounded(public.names(merger.deleted)),
        _bounded_decisions(list(dict.fromkeys(decisions)))))


class _Public:
    """What the report may say: everybody can read it. A directory that only some may look into is told, but not what
    is in it; `bootcctl etc diff` tells root."""

    def __init__(self, *sides: Directory) -> None:
        self._closed = {path for side in sides for path in _closed(side, b"")}

    def name(self, path: str) -> str:
        parts = path.split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            if above in self._closed:
                return f"{above}/…"
        return path

    def names(self, paths: list[str]) -> list[str]:
        return list(dict.fromkeys(map(self.name, paths)))


def _closed(directory: Directory, path: bytes) -> Iterator[str]:
    for name, child in directory.entries.items():
        if isinstance(child, Directory):
            below = path + b"/" + name if path else name
            if child.permissions & 0o005 != 0o005:
                yield _text(below)
            else:
                yield from _closed(child, below)


def _bounded(paths: list[str]) -> tuple[str, ...]:
    shown = _fitting(json.dumps(path) for path in paths[:_MAX_REPORTED])
    return tuple(paths) if shown == len(paths) else (*paths[:shown], _and_more(len(paths) - shown))


def _bounded_decisions(decisions: Sequence[EtcDecision]) -> tuple[EtcDecision, ...]:
    shown = _fitting(json.dumps(asdict(decision)) for decision in decisions[:_MAX_REPORTED])
    if shown == len(decisions):
        return tuple(decisions)
    return (*decisions[:shown], EtcDecision(_and_more(len(decisions) - shown), "", "", "", ""))


def _fitting(texts: Iterable[str]) -> int:
    return sum(size <= _MAX_REPORTED_SIZE for size in accumulate(map(len, texts)))


def _and_more(count: int) -> str:
    return f"… and {count} more"


def _check_depth(root: Directory) -> None:
    # The merge recurses, and a hostile image could make it recurse too deep; a real /etc is a dozen levels deep.
    level = [root]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in node.entries.values() if isinstance(child, Directory)]
        if not level:
            return
    raise EtcConflict(f"/etc cannot be merged: it is nested more than {_MAX_DEPTH} levels deep", advice="")


_Result = tuple[Inode | None, Inode | None]
"""What stands at a path, and what is put beside it."""


@dataclass(slots=True)
class _Merger:
    comparison: Comparison
    rules: Rules
    kept_local: list[str] = field(default_factory=list)
    both_changed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    decisions: list[EtcDecision] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def directories(
        self, pristine: Directory | None, local: Directory, new: Directory | None, path: bytes
    ) -> Directory | None:
        """Merge a directory that exists locally; None when nothing of it is left."""
        result = Directory()
        of, stays = self._metadata(pristine, local, new, path)
        result.copy_metadata(of)
        old_entries = pristine.entries if pristine else {}
        new_entries = new.entries if new else {}
        self._fill(result, path, (
            (name, old_entries.get(name), local.entries.get(name), new_entries.get(name))
            for name in sorted({*old_entries, *local.entries, *new_entries})))
        return result if new is not None or result.entries or stays else None

    def _fill(
        self, result: Directory, path: bytes, names: Iterable[tuple[bytes, Inode | None, Inode | None, Inode | None]]
    ) -> None:
        beside = {}
        for name, pristine, local, new in names:
            kept, other = self._entry(pristine, local, new, path + b"/" + name if path else name)
            if kept is not None:
                result.entries[name] = kept
            if other is not None:
                beside[name + BESIDE] = other
        result.entries.update(beside)

    def _metadata(
        self, pristine: Directory | None, local: Directory, new: Directory | None, path: bytes
    ) -> tuple[Directory, bool]:
        """Whose metadata a directory gets, and whether it stays though it is empty and the image has none."""
        if pristine is not None and self.comparison.same_metadata(pristine, local):
            return new or local, False
        if new is None:
            if self._settle(path, pristine, local, None, Policy.KEEP_LOCAL) is Policy.TAKE_IMAGE:
                return local, False
            _report(self.kept_local, path)
            return local, True
        if self.comparison.same_metadata(local, new):
            return new, True
        if pristine is not None and self.comparison.same_metadata(pristine, new):
            _report(self.kept_local, path)
            return local, True
        if self._settle(path, pristine, local, new, Policy.KEEP_LOCAL, beside=False) is Policy.TAKE_IMAGE:
            return new, True
        _report(self.both_changed, path)
        return local, True

    def _entry(self, pristine: Inode | None, local: Inode | None, new: Inode | None, path: bytes) -> _Result:
        if local is None:
            return self._deleted(pristine, new, path) if pristine is not None and new is not None else (
                new if pristine is None else None, None)
        if isinstance(local, Directory) and (
                isinstance(new, Directory) or (new is None and isinstance(pristine, Directory))):
            old = pristine if isinstance(pristine, Directory) else None
            return self.directories(old, local, new if isinstance(new, Directory) else None, path), None
        same = self.comparison.same
        if (pristine is not None and same(pristine, local)) or (new is not None and same(local, new)):
            return new, None
        if pristine is None and new is None:
            _report(self.added, path)
            return local, None
        if pristine is not None and new is not None and same(pristine, new):
            _report(self.kept_local, path)
            return local, None
        clash = new is not None and isinstance(local, Directory) != isinstance(new, Directory)
        policy = self._settle(path, pristine, local, new, Policy.FAIL if clash else Policy.KEEP_LOCAL)
        if policy is Policy.TAKE_IMAGE:
            return new, None
        if policy is not Policy.FAIL:
            _report(self.kept_local if new is None else self.both_changed, path)
        return local, new if policy is Policy.BOTH else None

    def _deleted(self, pristine: Inode, new: Inode, path: bytes) -> _Result:
        if isinstance(pristine, Directory) and isinstance(new, Directory):
            rest = Directory()
            rest.copy_metadata(new)
            self._fill(rest, path, (
                (name, pristine.entries.get(name), None, child) for name, child in new.sorted_entries()))
            if not rest.entries:
                _report(self.deleted, path)
                return None, None
            return rest, None
        if isinstance(pristine, Directory) or isinstance(new, Directory):
            self._decided(path, DELETED, self.comparison.kind(pristine, new), "image", None)
            return new, None
        policy = Policy.KEEP_LOCAL
        if not self.comparison.same(pristine, new):
            policy = self._settle(path, pristine, None, new, Policy.KEEP_LOCAL)
        if policy is Policy.TAKE_IMAGE:
            return new, None
        if policy is not Policy.FAIL:
            _report(self.deleted, path)
        return None, new if policy is Policy.BOTH else None

    def _settle(
        self, path: bytes, pristine: Inode | None, local: Inode | None, new: Inode | None, default: Policy, *,
        beside: bool = True,
    ) -> Policy:
        """What is done about a path that both sides changed; noted for the report, or as a conflict. BOTH only where
        something can be put `beside` it."""
        rule = self.rules.deciding(path)
        policy = rule.policy if rule is not None else default
        here, image = self.comparison.kind(pristine, local), self.comparison.kind(pristine, new)
        if policy is Policy.FAIL:
            self.conflicts.append(_conflict(path, local, new, here, image, rule))
        elif policy is Policy.BOTH and (
                not beside or new is None or len(path.rpartition(b"/")[2] + BESIDE) > _MAX_NAME):
            policy = Policy.KEEP_LOCAL
        taken = {Policy.KEEP_LOCAL: "local", Policy.TAKE_IMAGE: "image", Policy.BOTH: "both"}
        if policy in taken:
            self._decided(path, here, image, taken[policy], rule)
        return policy

    def _decided(self, path: bytes, here: str, image: str, taken: str, rule: Rule | None) -> None:
        self.decisions.append(EtcDecision(_text(path), here, image, taken, str(rule or "")))


def _conflict(path: bytes, local: Inode | None, new: Inode | None, here: str, image: str, rule: Rule | None) -> str:
    if rule is None:
        assert local is not None
        assert new is not None
        return f"'{_text(path)}' is a {kind_of_file(local)} here and a {kind_of_file(new)} in the new image"
    return f"'{_text(path)}' was {here} here and {image} in the new image, where {rule} says '{Policy.FAIL}'"


def _report(where: list[str], path: bytes) -> None:
    where.append(_text(path))


def _text(path: bytes) -> str:
    return os.fsdecode(path) or "."
