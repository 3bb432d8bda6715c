# SPDX-License-Identifier: Apache-2.0
"""The program, and a machine with 1.0 and 1.1 on it, made once and copied for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.program import Done, Program, copy, fast_directory, publish
from kit.images import ImageBuilder
from kit.os_images import os_image

IMAGE = "oci:layout:latest"


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def program(scratch: Path) -> Iterator[Program]:
    with Program(scratch) as started:
        yield started


class Machine:
    """A sysroot, an ESP and an OCI layout in one directory, and `bootcctl` to work on them."""

    def __init__(self, directory: Path, program: Program) -> None:
        self.path = directory
        self.program = program

    def __call__(self, *arguments: str) -> Done:
        return self.program(self.path, *arguments)

    def publish(self, image: ImageBuilder, tag: str = "latest") -> None:
        publish(self.path, image, tag)

    def versions(self) -> list[str]:
        done = self("status", "--json")
        assert done.status == 0, done.err
        return [info["version"] for info in done.json["deployments"]]

    def sound(self) -> None:
        """Nothing is wrong with the repository."""
        done = self("fsck")
        assert done.status == 0, done.out


@pytest.fixture(scope="session")
def installed(scratch: Path, program: Program) -> Path:
    directory = scratch / "installed"
    directory.mkdir()
    machine = Machine(directory, program)
    for version, command in (("1.0", ("install", "to-filesystem", IMAGE)), ("1.1", ("upgrade",))):
        machine.publish(os_image(version))
        done = machine(*command)
        assert done.status == 0, done.err
    return directory


@pytest.fixture
def machine(scratch: Path, program: Program, installed: Path) -> Machine:
    """1.1 is the default, 1.0 the previous one."""
    copy(installed, scratch / "machine")
    return Machine(scratch / "machine", program)


@pytest.fixture
def empty(scratch: Path, program: Program) -> Machine:
    """1.0 is published, and nothing is installed."""
    copy(Path("/var/empty") if False else _made(scratch / "nothing"), scratch / "empty")
    machine = Machine(scratch / "empty", program)
    machine.publish(os_image("1.0"))
    return machine


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
