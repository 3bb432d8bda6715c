# SPDX-License-Identifier: Apache-2.0
"""The three-way merge of /etc: pure, from three trees to one tree with a report.

`pristine` is /etc of the image that the machine runs, `local` is /etc as it is now, `new` is /etc of the image to come.
A path is *changed* when content, permissions, owner or xattrs differ; modification times do not count.

    pristine   local               new            result
    any        unchanged           any            new
    any        changed leaf        leaf, absent   local ("both changed" is reported when new differs from pristine)
    absent     added leaf          leaf, absent   local
    leaf       deleted             leaf           deleted
    leaf       deleted             directory      new: a deletion never takes new files of the image along
    directory  deleted             directory      only what the image adds to it
    directory  changed inside      directory      each name by itself; the directory's metadata by these rules, too
    directory  changed inside      absent         only the local changes
    any        changed to or from a directory,
               or changed inside   pristine       local
    any        changed to or from a directory,
               or changed inside   other kind     conflict: somebody has to decide

Hard links, times and xattrs of the side that wins are kept, because the inodes themselves are taken over.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from itertools import accumulate

from ..errors import EtcConflict
from ..formats.tree import Device, Directory, Inode, RegularFile, Symlink
from .records import EtcReport

_MAX_DEPTH = 128
_MAX_REPORTED = 1000
_MAX_REPORTED_SIZE = 100_000
"""Paths in each list of the report, and their bytes as JSON: it goes into the record, which has a limit."""


@dataclass(slots=True)
class Merge:
    """The result: `root` shares its leaves with `local` and `new`."""

    root: Directory
    report: EtcReport


@dataclass(slots=True)
class _State:
    owners: bool
    kept_local: list[str] = field(default_factory=list)
    both_changed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def merge(pristine: Directory, local: Directory, new: Directory, *, owners: bool = True) -> Merge:
    """Merge. With `owners` False, owners and xattrs are not compared, since a normal user could not have set them.

    Raises EtcConflict with every path that needs a decision.
    """
    for side in (pristine, local, new):
        _check_depth(side)
    state = _State(owners)
    root = _directories(state, pristine, local, new, b"")
    assert root is not None
    if state.conflicts:
        raise EtcConflict(
            f"/etc cannot be merged: {'; '.join(state.conflicts[:10])}"
            + (f" and {len(state.conflicts) - 10} more" if len(state.conflicts) > 10 else ""),
            advice="Move the named local files away, or remove them, and try again.",
        )
    return Merge(root, EtcReport(_bounded(state.kept_local), _bounded(state.both_changed), _bounded(state.added),
                                 _bounded(state.deleted)))


def _bounded(paths: list[str]) -> tuple[str, ...]:
    sizes = accumulate(len(json.dumps(path)) for path in paths[:_MAX_REPORTED])
    shown = sum(size <= _MAX_REPORTED_SIZE for size in sizes)
    return tuple(paths) if shown == len(paths) else (*paths[:shown], f"… and {len(paths) - shown} more")


def _check_depth(root: Directory) -> None:
    # The merge recurses, and a hostile image could make it recurse too deep; a real /etc is a dozen levels deep.
    level = [root]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in node.entries.values() if isinstance(child, Directory)]
        if not level:
            return
    raise EtcConflict(f"/etc cannot be merged: it is nested more than {_MAX_DEPTH} levels deep", advice="")


def _directories(
    state: _State, pristine: Directory | None, local: Directory, new: Directory | None, path: bytes
) -> Directory | None:
    """Merge a directory that exists locally; None when nothing of it is left."""
    changed = pristine is None or not _same_metadata(state, pristine, local)
    result = Directory()
    result.copy_metadata(local if new is None or changed else new)
    old_entries = pristine.entries if pristine else {}
    new_entries = new.entries if new else {}
    for name in sorted({*old_entries, *local.entries, *new_entries}):
        child = _entry(state, old_entries.get(name), local.entries.get(name), new_entries.get(name),
                       path + b"/" + name if path else name)
        if child is not None:
            result.entries[name] = child
    if new is None and not result.entries and not changed:
        return None
    return result


def _entry(
    state: _State, pristine: Inode | None, local: Inode | None, new: Inode | None, path: bytes
) -> Inode | None:
    if local is None:
        return _deleted(state, pristine, new, path) if pristine is not None else new
    if (pristine is not None and new is not None and isinstance(local, Directory) != isinstance(pristine, Directory)
            and _unchanged(state, pristine, new)):
        _report(state.kept_local, path)
        return local
    if isinstance(local, Directory):
        if isinstance(new, Directory) or (new is None and isinstance(pristine, Directory)):
            old = pristine if isinstance(pristine, Directory) else None
            return _directories(state, old, local, new, path)
        if new is None:
            _report(state.added if pristine is None else state.kept_local, path)
            return local
        if isinstance(pristine, Directory) and not _changed_inside(state, pristine, local):
            return new
        state.conflicts.append(f"'{_text(path)}' is a directory here and none in the new image")
        return None
    if pristine is not None and _same(state, pristine, local):
        return new
    if new is None:
        _report(state.added if pristine is None else state.kept_local, path)
        return local
    if isinstance(new, Directory):
        state.conflicts.append(f"'{_text(path)}' is a directory in the new image and none here")
        return None
    if _same(state, local, new):
        return new
    untouched = pristine is not None and _same(state, pristine, new)
    _report(state.kept_local if untouched else state.both_changed, path)
    return local


def _deleted(state: _State, pristine: Inode, new: Inode | None, path: bytes) -> Inode | None:
    if new is None:
        return None
    if not isinstance(new, Directory):
        _report(state.deleted, path)
        return None
    if not isinstance(pristine, Directory):
        return new
    rest = Directory()
    rest.copy_metadata(new)
    for name, child in new.entries.items():
        old = pristine.entries.get(name)
        kept = child if old is None else _deleted(state, old, child, path + b"/" + name)
        if kept is not None:
            rest.entries[name] = kept
    if not rest.entries:
        _report(state.deleted, path)
        return None
    return rest


def _unchanged(state: _State, one: Inode, other: Inode) -> bool:
    if isinstance(one, Directory) and isinstance(other, Directory):
        return not _changed_inside(state, one, other)
    return _same(state, one, other)


def _changed_inside(state: _State, pristine: Directory, local: Directory) -> bool:
    if not _same_metadata(state, pristine, local) or pristine.entries.keys() != local.entries.keys():
        return True
    return any(not _unchanged(state, pristine.entries[name], child) for name, child in local.entries.items())


def _same(state: _State, one: Inode, other: Inode) -> bool:
    """Whether two leaves are alike in all that counts."""
    if type(one) is not type(other) or not _same_metadata(state, one, other):
        return False
    if isinstance(one, RegularFile) and isinstance(other, RegularFile):
        return (one.size, one.inline, one.digest) == (other.size, other.inline, other.digest)
    if isinstance(one, Symlink) and isinstance(other, Symlink):
        return one.target == other.target
    if isinstance(one, Device) and isinstance(other, Device):
        return one.rdev == other.rdev
    return not isinstance(one, Directory)


def _same_metadata(state: _State, one: Inode, other: Inode) -> bool:
    if not isinstance(one, Symlink) and one.permissions != other.permissions:
        return False
    return not state.owners or (one.uid, one.gid, one.xattrs) == (other.uid, other.gid, other.xattrs)


def _report(where: list[str], path: bytes) -> None:
    where.append(_text(path))


def _text(path: bytes) -> str:
    return os.fsdecode(path)
