# SPDX-License-Identifier: Apache-2.0
"""State made anew: /etc of a deployment, and the shared /var, as an image has them; the old ones are kept aside.

    state/deploy/<id>/etc.before-<generation>      what /etc was until then
    state/os/default/var.before-<generation>       what /var was until then

The new directory is complete under a name of its own before the two trade places. From then on that name holds the old
one, until it gets the name that says since when: which of the two it holds is told by the inode number of the old one.
A running system goes on with what it has mounted, under whatever name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import NotBootable
from ..formats.tree import Directory
from ..layout import Sysroot
from ..linux import files
from ..linux.trees import remove_tree
from ..store.repository import Repository
from .checkout import checkout
from .etctrees import EtcTrees
from .facts import Aside
from .records import is_id

_FRESH = ".bootcd-fresh"
_ASIDE = re.compile(r"(?:etc|var)\.before-([0-9]{10})")


class FreshState:
    """The state directories of one installation, as far as resets are about them."""

    def __init__(self, sysroot: Sysroot, repository: Repository) -> None:
        self._sysroot = sysroot
        self._repository = repository
        self._trees = EtcTrees(sysroot, repository)

    def inodes(self, deployment_id: str) -> tuple[int, int]:
        """The inode numbers of /etc and /var, by which `prepare` and `take` know them. Raises NotFound."""
        etc = self._sysroot.deployment(deployment_id) / "etc"
        with files.translate(f"cannot use {etc} and {self._sysroot.var}"):
            return os.stat(etc).st_ino, os.stat(self._sysroot.var).st_ino

    def prepare(self, deployment_id: str, etc: int, var: int | None) -> Path:
        """Write /etc as the image has it, and /var unless that is None, beside those that are there, which have these
        inode numbers. Returns the path of the new /etc. Raises NotBootable, ObjectMismatch, NoSpace."""
        root = self._trees.image(deployment_id)
        new = root.directory(b"etc")
        if new is None:
            raise NotBootable(f"image {deployment_id[:12]} has no directory /etc")
        fresh = self._write(self._sysroot.deployment(deployment_id) / "etc", etc, new)
        if var is not None:
            self._write(self._sysroot.var, var, root.directory(b"var") or Directory(0o755))
        self._repository.sync()
        files.step("reset-prepared")
        return fresh

    def take(self, deployment_id: str, generation: int, etc: int, var: int | None) -> None:
        """Let what was prepared take the place of what is there, which is kept aside as from before `generation`."""
        _exchange(self._sysroot.deployment(deployment_id) / "etc", etc, generation)
        if var is not None:
            _exchange(self._sysroot.var, var, generation)

    def asides(self) -> frozenset[Aside]:
        """What earlier resets have kept aside, except what runs: until the next boot the system is still in it."""
        used = set(_identities("/etc", "/var"))
        found = set()
        for home in self._homes():
            with files.translate(str(home)), suppress(FileNotFoundError):
                for name in os.listdir(home):
                    named = _ASIDE.fullmatch(name)
                    if named and used.isdisjoint(_identities(home / name)):
                        found.add(Aside(int(named[1]), home.name if is_id(home.name) else ""))
        return frozenset(found)

    def remove(self, aside: Aside) -> None:
        """Remove what was kept aside; it is no error when it is not there."""
        place = self._sysroot.deployment(aside.id) / "etc" if aside.id else self._sysroot.var
        with files.translate(str(place)):
            remove_tree(_aside(place, aside.generation))

    def _homes(self) -> Iterator[Path]:
        yield self._sysroot.var.parent
        with files.translate(str(self._sysroot.deployments)), suppress(FileNotFoundError):
            for name in os.listdir(self._sysroot.deployments):
                if is_id(name):
                    yield self._sysroot.deployments / name

    def _write(self, place: Path, inode: int, content: Directory) -> Path:
        """Returns where the new directory is."""
        fresh = _named(place, _FRESH)
        with files.translate(str(place)):
            if os.stat(place).st_ino != inode:
                return place  # done before: that name holds the old one now
            remove_tree(fresh)
        try:
            checkout(content, fresh, self._trees.open)
        except BaseException:
            with suppress(OSError):
                remove_tree(fresh)
            raise
        files.step("fresh-written")
        return fresh


def _exchange(place: Path, inode: int, generation: int) -> None:
    fresh = _named(place, _FRESH)
    with files.translate(f"cannot replace {place}"):
        if os.stat(place).st_ino == inode:
            files.exchange(fresh, place)
            files.fsync_dir(place.parent)
            files.step("fresh-exchanged")
        if fresh.exists():
            fresh.rename(_aside(place, generation))
            files.fsync_dir(place.parent)
            files.step("aside-named")


def _aside(place: Path, generation: int) -> Path:
    return _named(place, f".before-{generation:010}")


def _named(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)


def _identities(*paths: str | Path) -> Iterator[tuple[int, int]]:
    for path in paths:
        with suppress(OSError):
            found = os.stat(path)
            yield found.st_dev, found.st_ino
