# SPDX-License-Identifier: Apache-2.0
"""Where the trees and rules that the merge of /etc needs come from: images, and /etc of deployments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import Refused
from ..formats.tree import Directory, RegularFile
from ..layout import Sysroot
from ..store.repository import Repository
from ..store.scan import scan_directory
from .etccompare import Comparison
from .etcrules import IMAGE_DIRECTORY, MACHINE_DIRECTORY, Rules, read_rules


class Live:
    """/etc of a deployment as it is now: `root`, and what its files hold."""

    def __init__(self, path: Path, root: Directory) -> None:
        self.path = path
        self.root = root
        self._paths = {id(node): path / os.fsdecode(name[1:]) for name, node in root.walk()}

    def open(self, node: RegularFile) -> int | None:
        """A descriptor of a file of this tree, for the caller to close; None for one of another. Raises OSError."""
        path = self._paths.get(id(node))
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC) if path is not None else None


class EtcTrees:
    """Reads one installation; changes nothing."""

    def __init__(self, sysroot: Sysroot, repository: Repository) -> None:
        self._sysroot = sysroot
        self._repository = repository

    @property
    def comparison(self) -> Comparison:
        """What can be compared by who we are."""
        return Comparison(owners=os.geteuid() == 0)

    def path(self, deployment_id: str) -> Path:
        return self._sysroot.deployment(deployment_id) / "etc"

    def image(self, deployment_id: str) -> Directory:
        """The whole tree of a deployment's image. Raises what reading a damaged one raises."""
        return self._repository.images.read(bytes.fromhex(deployment_id)).root()

    def pristine(self, deployment_id: str) -> Directory:
        """/etc of a deployment's image."""
        return self.image(deployment_id).directory(b"etc") or Directory()

    def live(self, deployment_id: str) -> Live:
        """/etc of a deployment. Raises Refused when there is none, and BootcdError when it changes meanwhile."""
        path = self.path(deployment_id)
        if not path.is_dir():
            raise Refused(f"/etc of deployment {deployment_id[:12]} is missing: {path}",
                          advice="Its local changes would be lost. Put it back, or boot another deployment.")
        return Live(path, scan_directory(path, None, self._repository.algorithm))

    def open(self, node: RegularFile) -> int:
        """A descriptor of a file of an image, for the caller to close."""
        assert node.digest is not None
        return self._repository.objects.open_verified(node.digest)

    def rules(self, image: Directory, live: Live) -> Rules:
        """Those of an image, from its root, and those of the machine, from its /etc. Raises ConfigError."""
        return read_rules(
            image.lookup(IMAGE_DIRECTORY), lambda node: _read(self.open(node)),
            live.root.lookup(MACHINE_DIRECTORY), _reader(live),
        )


def _reader(live: Live) -> Callable[[RegularFile], bytes]:
    def read(node: RegularFile) -> bytes:
        descriptor = live.open(node)
        assert descriptor is not None
        return _read(descriptor)

    return read


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
