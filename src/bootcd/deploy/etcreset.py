# SPDX-License-Identifier: Apache-2.0
"""Set paths of a deployment's /etc back to what its image has; the old versions stay beside them.

The image's version is written out elsewhere, put under the name that the old one will have, and trades places with it,
at once. A directory is replaced as a whole, so that nothing in it is left from before.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotFound, Refused, UsageError
from ..formats.tree import Directory, Inode
from ..linux import files
from ..linux.trees import remove_tree
from ..store.repository import Repository
from .checkout import checkout
from .etctrees import EtcTrees

ASIDE = ".rpmsave"
"""What names of old versions end with, as those do which rpm makes: programs that read all files of a directory know to
leave them alone."""
_TEMPORARY = "etc.bootcd-reset"
_MAX_NAME = 255

REPLACED, RESTORED, REMOVED, UNCHANGED = "replaced", "restored", "removed", "unchanged"


@dataclass(frozen=True, slots=True)
class Reset:
    """What becomes of a path relative to /etc: `outcome` is one of the words above, `aside` where its old version is,
    empty when there is none."""

    path: bytes
    outcome: str
    aside: bytes = b""


def relative(path: str) -> bytes:
    """A path as somebody names it, relative to /etc: absolute, or relative already. Empty for /etc itself.

    Raises UsageError.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/"):
        if parts[:1] != ["etc"]:
            raise UsageError(f"'{path}' is not below /etc")
        parts = parts[1:]
    if not path or ".." in parts or "\0" in path:
        raise UsageError(f"'{path}' is no path below /etc")
    return os.fsencode("/".join(parts))


def reset(trees: EtcTrees, repository: Repository, deployment_id: str, paths: Sequence[bytes], *, dry_run: bool
          ) -> list[Reset]:
    """Set `paths`, relative to /etc, back to the image's version, or with `dry_run` only tell what would be done.

    Raises NotFound for a path that is neither here nor in the image, and Refused where it cannot be done, both before
    anything is changed.
    """
    pristine, live = trees.pristine(deployment_id), trees.live(deployment_id).root
    plans = [_plan(trees, pristine, live, path) for path in _topmost(paths)]
    if not dry_run:
        for plan in plans:
            if plan.outcome != UNCHANGED:
                _carry_out(trees, repository, deployment_id, plan, pristine, live)
    return plans


def _topmost(paths: Iterable[bytes]) -> list[bytes]:
    """Paths without those below another one."""
    found: list[bytes] = []
    for path in sorted(set(paths)):
        if not path:
            raise UsageError("this names all of /etc", advice="Name the paths below it that shall be set back.")
        if not any(path.startswith(above + b"/") for above in found):
            found.append(path)
    return found


def _plan(trees: EtcTrees, pristine: Directory, live: Directory, path: bytes) -> Reset:
    old, new = live.lookup(path), pristine.lookup(path)
    text = f"/etc/{os.fsdecode(path)}"
    if old is None and new is None:
        raise NotFound(f"{text} is neither here nor in the image")
    if old is not None and new is not None and trees.comparison.same(new, old):
        return Reset(path, UNCHANGED)
    if old is None:
        blocked = _blocked(live, path)
        if blocked:
            raise Refused(f"{text} cannot be restored: /etc/{os.fsdecode(blocked)} is no directory here",
                          advice=f"'bootcctl etc reset /etc/{os.fsdecode(blocked)}' makes it one again.")
        return Reset(path, RESTORED)
    return Reset(path, REPLACED if new is not None else REMOVED, _aside(live, path))


def _blocked(live: Directory, path: bytes) -> bytes:
    """What stands in the place of a directory above `path`; empty when nothing does."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        there = live.lookup(path)
        if there is not None and not isinstance(there, Directory):
            return path
    return b""


def _aside(live: Directory, path: bytes) -> bytes:
    """A free name beside `path`."""
    above, slash, name = path.rpartition(b"/")
    taken = live.directory(above) or Directory()
    number = 1
    while True:
        ending = f".bootcd{f'.{number}' if number > 1 else ''}{ASIDE}".encode()
        candidate = name[:_MAX_NAME - len(ending)] + ending
        if candidate not in taken.entries:
            return above + slash + candidate
        number += 1


def _carry_out(trees: EtcTrees, repository: Repository, deployment_id: str, plan: Reset, pristine: Directory,
               live: Directory) -> None:
    top, node = plan.path, pristine.lookup(plan.path)
    if plan.outcome == RESTORED:
        assert node is not None
        top, node = _with_parents(pristine, live, plan.path, node)
    above, _, name = top.rpartition(b"/")
    home = trees.path(deployment_id).parent
    work = home / _TEMPORARY
    with files.translate(f"cannot write {home}"):
        remove_tree(work)
    try:
        if node is not None:
            wrapper = Directory(0o700)
            wrapper.entries[name] = node
            checkout(wrapper, work, trees.open)
            repository.sync()  # what takes the place of the old version must not be empty after a power cut
        descriptor = _open_directory(home / "etc", above)
        try:
            # Through the descriptor: a directory that belongs to somebody else may be traded for a link meanwhile.
            parent = Path(f"/proc/self/fd/{descriptor}")
            aside = parent / os.fsdecode(plan.aside.rpartition(b"/")[2]) if plan.aside else None
            _rename(work / os.fsdecode(name) if node is not None else None, parent / os.fsdecode(name), aside, top)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        with suppress(OSError):
            remove_tree(work)


def _rename(fresh: Path | None, place: Path, aside: Path | None, path: bytes) -> None:
    text = f"/etc/{os.fsdecode(path)}"
    with files.translate(f"cannot set back {text}"):
        try:
            if aside is None:
                assert fresh is not None
                fresh.rename(place)
            elif fresh is None:
                place.rename(aside)
            else:
                fresh.rename(aside)
                try:
                    files.exchange(aside, place)
                except OSError:
                    aside.rename(fresh)
                    raise
        except PermissionError as error:
            if os.geteuid() != 0:
                raise
            raise Refused(f"{text} cannot be replaced: {error.strerror}",
                          advice="It, or its directory, may be immutable; 'chattr -i' makes it mutable.") from error


def _with_parents(pristine: Directory, live: Directory, path: bytes, node: Inode) -> tuple[bytes, Inode]:
    """What to write for a path whose directories may be missing here: the topmost missing one, with nothing but the way
    to the path in it."""
    while b"/" in path:
        above, _, name = path.rpartition(b"/")
        if live.lookup(above) is not None:
            break
        directory = pristine.directory(above)
        assert directory is not None
        way = Directory()
        way.copy_metadata(directory)
        way.entries[name] = node
        path, node = above, way
    return path, node


def _open_directory(top: Path, path: bytes) -> int:
    """Open a directory below `top` without following any link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with files.translate(f"cannot open {top / os.fsdecode(path)}"):
        descriptor = os.open(top, flags)
        for name in filter(None, path.split(b"/")):
            try:
                below = os.open(name, flags, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
    return descriptor
