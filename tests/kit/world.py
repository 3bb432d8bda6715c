# SPDX-License-Identifier: Apache-2.0
"""A machine to be: an empty directory to install into, a source whose images move on, and somebody who answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bootcd.config import Config
from bootcd.ops.host import Host
from bootcd.ops.results import DeploymentInfo
from kit.images import ImageBuilder

FAT = os.environ.get("BOOTCD_TEST_FAT")
"""A directory for boot partitions, elsewhere than everything else; tests/vm has a real FAT file system there."""


@dataclass
class World:
    """An empty directory to install into, and an OCI layout whose tag `latest` moves from version to version."""

    directory: Path
    connect: Callable[[World], Host]
    boot: Path
    config: Config = field(default_factory=Config)

    @property
    def sysroot(self) -> Path:
        return self.directory / "sysroot"

    @property
    def esp(self) -> Path:
        return self.boot / "esp"

    @property
    def image(self) -> str:
        return f"oci:{self.directory}/layout:latest"

    @property
    def host(self) -> Host:
        return self.connect(self)

    def publish(self, image: ImageBuilder, tag: str = "latest") -> str:
        """Make `tag` name another image; returns its manifest digest."""
        image.write_layout(self.directory / "layout", tag)
        return image.manifest_digest

    def install(self, image: ImageBuilder) -> DeploymentInfo:
        self.publish(image)
        deployment = self.host.install(self.image).deployment
        assert deployment is not None
        return deployment

    def upgrade(self, image: ImageBuilder, *, allow_downgrade: bool = False) -> DeploymentInfo:
        self.publish(image)
        deployment = self.host.upgrade(allow_downgrade=allow_downgrade).deployment
        assert deployment is not None
        return deployment

    def entries(self) -> list[str]:
        return sorted(os.listdir(self.esp / "loader" / "entries"))

    def kernels(self) -> list[str]:
        return sorted(os.listdir(self.esp / "EFI" / "bootcd"))

    def etc(self, deployment: DeploymentInfo) -> Path:
        return self.sysroot / "state" / "deploy" / deployment.id / "etc"

    def files(self) -> set[Path]:
        """All that the machine and its source consist of, but for what a daemon has told: it writes that down later,
        under another name at first."""
        told = self.sysroot / "state" / "bootcd" / "told.json"
        return {path for path in self.directory.rglob("*")
                if path != told and not (path.parent == told.parent and path.name.startswith(f".{told.name}."))}

    def versions(self) -> list[str]:
        """Versions in boot order."""
        return [deployment.version for deployment in self.host.status().deployments]
