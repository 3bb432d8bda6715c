# SPDX-License-Identifier: Apache-2.0
"""The writable half of a deployment: its own /etc, and the link to the shared /var.

    state/deploy/<id>/etc            complete, writable copy
    state/deploy/<id>/var            -> ../../os/default/var
    state/deploy/<id>/<id>.origin    what bootc reads

A new /etc is built beside its place and renamed into it, so that a directory with the right name is always complete.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import NotBootable, PolicyError
from ..formats import selabel
from ..formats.origin import Origin
from ..formats.tree import Directory, RegularFile
from ..layout import Sysroot
from ..linux import files
from ..linux.trees import remove_tree
from ..store.repository import Repository
from . import etc
from .checkout import checkout
from .etctrees import EtcTrees, Live
from .records import EtcReport, Record, is_id

log = logging.getLogger(__name__)

_NEW = "etc.bootcd-new"
_SHARED_VAR = "../../os/default/var"


class States:
    """The state directories of one installation."""

    def __init__(self, sysroot: Sysroot, repository: Repository) -> None:
        self._sysroot = sysroot
        self._repository = repository
        self._trees = EtcTrees(sysroot, repository)

    def ids(self) -> frozenset[str]:
        """Every state directory there is, complete or not. What is not called like one is none of ours."""
        with files.translate(str(self._sysroot.deployments)):
            try:
                return frozenset(filter(is_id, os.listdir(self._sysroot.deployments)))
            except FileNotFoundError:
                return frozenset()

    def prepare(self, deployment_id: str, merge_from: str | None) -> EtcReport:
        """Make the state directory of a deployment, or make it anew: /etc of its image, with the local changes of
        `merge_from` when given. Raises EtcConflict, ObjectMismatch, and Refused when that has no /etc."""
        root = self._trees.image(deployment_id)
        home = self._sysroot.deployment(deployment_id)
        with files.translate(str(home)):
            home.mkdir(mode=0o755, parents=True, exist_ok=True)
            report = self._write_etc(root, home, deployment_id, merge_from)
            if not (home / "var").is_symlink():
                (home / "var").symlink_to(_SHARED_VAR)
            self._seed_var(root)
        self._repository.sync()
        files.step("state-prepared")
        return report

    def merge(self, deployment_id: str, merge_from: str) -> EtcReport:
        """Merge the local changes of `merge_from` once more."""
        home = self._sysroot.deployment(deployment_id)
        with files.translate(str(home)):
            report = self._write_etc(self._trees.image(deployment_id), home, deployment_id, merge_from)
        self._repository.sync()
        files.step("etc-merged")
        return report

    def preview(self, deployment_id: str, merge_from: str) -> tuple[EtcReport, tuple[str, ...]]:
        """What a merge would find, and what was passed over in the rules; nothing is written. Raises what `prepare`
        raises."""
        root = self._trees.image(deployment_id)
        live = self._trees.live(merge_from)
        with files.translate(str(live.path)):
            return self._merged(root, deployment_id, live, merge_from).report, self._trees.rules(root, live).warnings

    def write_origin(self, record: Record) -> None:
        """What bootc needs to adopt the deployment (its `.origin` file)."""
        transport, _, rest = record.image.partition(":") if record.image.startswith("oci") else ("registry", "", "")
        name = rest if rest else record.image
        origin = Origin(f"{transport}:{name}", record.boot_type, record.boot_digest, record.manifest_digest)
        path = self._sysroot.deployment(record.id) / f"{record.id}.origin"
        files.atomic_write(path, origin.format())

    def remove(self, deployment_id: str) -> None:
        """Remove a state directory. The shared /var is only linked to and stays."""
        home = self._sysroot.deployment(deployment_id)
        with files.translate(str(home)):
            remove_tree(home)

    def _merged(self, root: Directory, deployment_id: str, live: Live | None, merge_from: str | None) -> etc.Merge:
        """The tree of a new /etc: that of the image at `root`, with the local changes when there are any."""
        new = root.directory(b"etc")
        if new is None:
            raise NotBootable(f"image {deployment_id[:12]} has no directory /etc")
        if live is None or merge_from is None:
            return etc.Merge(new, EtcReport())
        return etc.merge(self._trees.pristine(merge_from), live.root, new, owners=self._trees.comparison.owners,
                         rules=self._trees.rules(root, live))

    def _label(self, merged: Directory, live: Live, content: Callable[[RegularFile], int]) -> None:
        """Local files go over to the policy of the new /etc, whatever became of that in the merge. A policy that cannot
        be read is no reason to stay at the old version: labels are then what they were."""
        def read(node: RegularFile) -> bytes:
            if node.inline is not None:
                return node.inline
            with open(content(node), "rb") as file:
                return file.read()

        try:
            selabel.move(merged, live.root, read)
        except PolicyError as error:
            log.warning("local files in /etc keep their labels: %s", error)

    def _write_etc(self, root: Directory, home: Path, deployment_id: str, merge_from: str | None) -> EtcReport:
        live = self._trees.live(merge_from) if merge_from is not None else None
        merged = self._merged(root, deployment_id, live, merge_from)

        def content(node: RegularFile) -> int:
            descriptor = live.open(node) if live is not None else None
            return descriptor if descriptor is not None else self._trees.open(node)

        if live is not None:
            self._label(merged.root, live, content)
        remove_tree(home / _NEW)
        try:
            checkout(merged.root, home / _NEW, content)
            # The content must be on disk before the name is: a boot entry may lead here already.
            self._repository.sync()
            files.step("etc-written")
            if (home / "etc").exists():
                files.exchange(home / _NEW, home / "etc")
                files.step("etc-exchanged")
            else:
                (home / _NEW).rename(home / "etc")
        finally:
            remove_tree(home / _NEW)
        return merged.report

    def _seed_var(self, root: Directory) -> None:
        """Fill the shared /var from the first image, and never again: later content belongs to the machine."""
        var = self._sysroot.var
        if var.exists():
            return
        var.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = var.with_name("var.bootcd-new")
        remove_tree(fresh)

        checkout(root.directory(b"var") or Directory(0o755), fresh, self._trees.open)
        self._repository.sync()
        files.step("var-written")
        fresh.rename(var)
