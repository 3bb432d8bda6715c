# SPDX-License-Identifier: Apache-2.0
"""The writable half of a deployment: its own /etc, and the link to the shared /var.

    state/deploy/<id>/etc            complete, writable copy
    state/deploy/<id>/var            -> ../../os/default/var
    state/deploy/<id>/<id>.origin    what bootc reads

A new /etc is built beside its place and renamed into it, so that a directory with the right name is always complete.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import NotBootable, Refused
from ..formats.tree import Directory, RegularFile
from ..layout import Sysroot
from ..linux import files
from ..store.repository import Repository
from ..store.scan import scan_directory
from . import etc
from .checkout import checkout
from .records import EtcReport, Record, is_id

_NEW = "etc.bootcd-new"
_SHARED_VAR = "../../os/default/var"


class States:
    """The state directories of one installation."""

    def __init__(self, sysroot: Sysroot, repository: Repository) -> None:
        self._sysroot = sysroot
        self._repository = repository

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
        root = self._tree(deployment_id)
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
            report = self._write_etc(self._tree(deployment_id), home, deployment_id, merge_from)
        self._repository.sync()
        files.step("etc-merged")
        return report

    def write_origin(self, record: Record) -> None:
        """What bootc needs to adopt the deployment (its `.origin` file)."""
        transport, _, rest = record.image.partition(":") if record.image.startswith("oci") else ("registry", "", "")
        name = rest if rest else record.image
        text = (
            f"[origin]\ncontainer-image-reference=ostree-unverified-image:{transport}:{name}\n\n"
            f"[boot]\nboot_type={record.boot_type}\ndigest={record.boot_digest}\n\n"
            f"[image]\nmanifest_digest={record.manifest_digest}\n"
        )
        path = self._sysroot.deployment(record.id) / f"{record.id}.origin"
        files.atomic_write(path, text.encode("utf-8", "surrogateescape"))

    def remove(self, deployment_id: str) -> None:
        """Remove a state directory. The shared /var is only linked to and stays."""
        home = self._sysroot.deployment(deployment_id)
        with files.translate(str(home)):
            _remove_tree(home)

    def _tree(self, deployment_id: str) -> Directory:
        return self._repository.images.read(bytes.fromhex(deployment_id)).root()

    def _write_etc(self, root: Directory, home: Path, deployment_id: str, merge_from: str | None) -> EtcReport:
        new = root.directory(b"etc")
        if new is None:
            raise NotBootable(f"image {deployment_id[:12]} has no directory /etc")
        report = EtcReport()
        local: dict[int, Path] = {}
        if merge_from is not None:
            source = self._sysroot.deployment(merge_from) / "etc"
            if not source.is_dir():
                raise Refused(f"/etc of deployment {merge_from[:12]} is missing: {source}",
                              advice="Its local changes would be lost. Put it back, or boot another deployment.")
            pristine = self._tree(merge_from).directory(b"etc") or Directory()
            live = scan_directory(source, None, self._repository.algorithm)
            local = {id(node): source / os.fsdecode(path[1:]) for path, node in live.walk()}
            merged = etc.merge(pristine, live, new, owners=os.geteuid() == 0)
            new, report = merged.root, merged.report

        def content(node: RegularFile) -> int:
            path = local.get(id(node))
            if path is not None:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            assert node.digest is not None
            return self._repository.objects.open_verified(node.digest)

        _remove_tree(home / _NEW)
        try:
            checkout(new, home / _NEW, content)
            # The content must be on disk before the name is: a boot entry may lead here already.
            self._repository.sync()
            files.step("etc-written")
            if (home / "etc").exists():
                files.exchange(home / _NEW, home / "etc")
                files.step("etc-exchanged")
            else:
                (home / _NEW).rename(home / "etc")
        finally:
            _remove_tree(home / _NEW)
        return report

    def _seed_var(self, root: Directory) -> None:
        """Fill the shared /var from the first image, and never again: later content belongs to the machine."""
        var = self._sysroot.var
        if var.exists():
            return
        var.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = var.with_name("var.bootcd-new")
        _remove_tree(fresh)

        def content(node: RegularFile) -> int:
            assert node.digest is not None
            return self._repository.objects.open_verified(node.digest)

        checkout(root.directory(b"var") or Directory(0o755), fresh, content)
        self._repository.sync()
        files.step("var-written")
        fresh.rename(var)


def _remove_tree(path: Path) -> None:
    # rmtree does not follow symlinks and works by descriptors, so that content cannot lead it astray.
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
