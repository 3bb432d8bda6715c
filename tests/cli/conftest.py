# SPDX-License-Identifier: Apache-2.0
"""The program, and a machine with 1.0 and 1.1 on it, made once and copied for every test; a daemon that serves it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from crash.program import ENVIRONMENT, Done, Program, copy, fast_directory, publish
from kit.bus import Daemon, SystemBus, available
from kit.images import ImageBuilder
from kit.os_images import os_image
from kit.scripted_server import Reply, ScriptedServer

IMAGE = "oci:layout:latest"

BOOTCCTL = [sys.executable, "-W", "error", "-m", "bootcd.cli"]
PATIENCE = 20.0
STALLS = Reply(body=bytes(1000), cut_after=10, stall=600)
"""An answer of which only the beginning ever comes."""


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


@pytest.fixture(scope="session")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemBus]:
    """Where the daemons of tests are, one at a time."""
    if not available():
        pytest.skip("dbus-daemon is not installed")
    with SystemBus(tmp_path_factory.mktemp("bus")) as bus:
        yield bus


class Client:
    """`bootcctl` in the directory of a machine, with a daemon to ask."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.path = directory
        self.environment = {**ENVIRONMENT, **environment, "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def __call__(self, *arguments: str, before: Sequence[str] = ()) -> Done:
        done = subprocess.run([*before, *BOOTCCTL, *arguments], cwd=self.path, env=self.environment,
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen([*BOOTCCTL, *arguments], cwd=self.path, env=self.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()

    def is_running(self, what: str) -> None:
        """Wait until the daemon does `what`."""
        deadline = time.monotonic() + PATIENCE
        while f"Running: {what}" not in (said := self("status").out):
            assert time.monotonic() < deadline, said


@pytest.fixture
def client(bus: SystemBus, machine: Machine) -> Iterator[Client]:
    """1.1 is the default, 1.0 the previous one; see conftest."""
    with daemon(bus, machine.path):
        yield Client(machine.path, bus.environment)


@contextmanager
def daemon(bus: SystemBus, directory: Path, *insecure: str) -> Iterator[Daemon]:
    config = directory / "bootcd.toml"
    config.write_text(f"[registry]\ninsecure = {json.dumps(insecure)}\n")
    with Daemon(bus, directory / "sysroot", directory / "esp", config) as started:
        yield started


@pytest.fixture
def stalled(bus: SystemBus, machine: Machine) -> Iterator[tuple[Client, str]]:
    """A client, and an image at a registry that does not answer."""
    with ScriptedServer() as server, daemon(bus, machine.path, server.host):
        server.serve("/v2/os/manifests/latest", STALLS)
        yield Client(machine.path, bus.environment), f"{server.host}/os:latest"
