# SPDX-License-Identifier: Apache-2.0
"""All that tests of whole machines share: images, a registry that the machines reach, disks with an installation."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from kit import guest, installer, registry_server, setup_root
from kit.images import ImageBuilder
from kit.machine_images import Workshop
from kit.push import push
from kit.registry_server import RegistryServer
from kit.tpm import start as start_tpm
from kit.virtual_machine import HOST, VirtualMachine

REPOSITORY = "example/os"


def why_not() -> str | None:
    """Why there can be no such machines here, or None."""
    reason = guest.why_not()
    if reason is None and not registry_server.available():
        reason = "docker-registry is not installed"
    if reason is None and setup_root.compiler() is None:
        reason = "there is no C compiler"
    if reason is None and shutil.which("busybox") is None:
        reason = "busybox is not installed"
    return reason


class Room:
    """A context manager; its registry ends with it. Machines are the callers' to end. Entering it skips the test where
    there can be none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workshop = Workshop(directory / "workshop")
        self._registry = RegistryServer(directory / "registry")
        self._stack = ExitStack()

    def __enter__(self) -> Room:
        reason = why_not()
        if reason is not None:
            pytest.skip(reason)
        self._stack.enter_context(self._registry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def registry(self) -> str:
        """Host and port, as machines call it."""
        return f"{HOST}:{self._registry.port}"

    def reference(self, tag: str) -> str:
        return f"{self.registry}/{REPOSITORY}:{tag}"

    def published_as(self, tag: str) -> str:
        """The same as this machine calls it."""
        return f"{self._registry.address}/{REPOSITORY}:{tag}"

    def publish(self, tag: str, image: ImageBuilder) -> None:
        push(image, self.published_as(tag))

    def install(
        self, name: str, tag: str, *options: str, tpm: Path | None = None, cut_at: float = inf,
        size: int = installer.DISK_BYTES,
    ) -> Path:
        """A disk called `name` of that size, installed from the registry by `install to-disk` on a machine with that
        TPM. What it said is in `name`.installer/said. Raises GuestError, and PowerCutError when the disk holds `cut_at`
        bytes."""
        disk = self.directory / name
        one = installer.Installation(disk, self.reference(tag), options, size)
        said = installer.install([one], self._registry.port, self.directory / f"{name}.installer",
                                 more=start_tpm(tpm) if tpm is not None else (),
                                 cut_when=lambda: disk.stat().st_blocks * 512 > cut_at)
        (self.directory / f"{name}.installer" / "said").write_text(said)
        return disk

    def machine(self, disk: Path, *more: str, tpm: Path | None = None) -> VirtualMachine:
        """A machine with that disk, not started; its firmware is in setup mode."""
        firmware = self.workshop.secure_boot.firmware
        return VirtualMachine(self.directory / f"{disk.name}.machine", disk, firmware, guest.prepare(), more=more,
                              tpm=tpm)


def status(machine: VirtualMachine) -> dict[str, Any]:
    """What `bootcctl status` tells."""
    found = json.loads(machine.check("bootcctl status --json"))
    assert isinstance(found, dict)
    return found


def deployment(machine: VirtualMachine, role: str) -> dict[str, Any]:
    """The deployment with this role: booted, default, staged, rollback."""
    found = [one for one in status(machine)["deployments"] if role in one["roles"]]
    assert len(found) == 1, found
    assert isinstance(found[0], dict)
    return found[0]


def settle(machine: VirtualMachine) -> None:
    """Wait until everything has started that starts at boot."""
    machine.run("systemctl is-system-running --wait")
