# SPDX-License-Identifier: Apache-2.0
"""The installed package under a real systemd: units, sandbox, bus activation, polkit, watchdog, timers, shutdown.

The tests of `guest/` run inside a virtual machine that is booted once, with Debian and our package installed as a
distribution would; here each of them shows how it went. Takes minutes, needs root and, the first time, the network of
packages. The files `console` and `report` in pytest's directory systemd0 show how it goes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit import guest, systemd_guest
from kit.os_images import os_image

TIMEOUT = 1200.0
"""Seconds; without KVM, and with nothing else running, it takes four to five minutes."""

GUEST = Path(__file__).parent / "guest"
TESTS = [f"{path.stem}::{name}" for path in sorted(GUEST.glob("test_*.py"))
         for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)]
PYTHON = "/usr/lib/python3/dist-packages"
"""Where Debian has the modules of its packages."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Run:
    """What the machine reported."""

    cases: dict[str, guest.Case]
    entries: list[str]
    """The boot entries after it had been turned off."""
    last: str
    """The deployment that was staged when it was turned off."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The virtual machine, which is started once."""
    reason = guest.why_not()
    if reason is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("systemd")
    files = directory / "files"
    install(directory / "build", files)
    bring(files)
    ids = {}
    for tag, version in (("latest", "1.0"), ("last", "9.0")):
        os_image(version).write_layout(files / "srv/os", tag)
        ids[tag] = deployment_id(directory / tag, f"oci:{files}/srv/os:{tag}")
    report = systemd_guest.run(systemd_guest.prepare(), files, directory, TIMEOUT,
                               f"composefs={ids['latest']} systemd.show_status=no")
    shutil.rmtree(files)
    tests, _, after = report.partition("++ after shutdown\n")
    cases = [case for suite in guest.read_report(tests).values() for case in suite]
    return Run({case.name.rpartition(".")[2]: case for case in cases}, after.split(), ids["last"])


def install(build: Path, files: Path) -> None:
    """What a distribution's package would hold."""
    meson = Path(sys.executable).with_name("meson")
    environment = {**os.environ, "PATH": f"{meson.parent}:{os.environ['PATH']}"}
    for command in (["setup", build, guest.ROOT, "--prefix=/usr", "-Dfsverity=disabled", "-Dpython.bytecompile=-1",
                     f"-Dpython.purelibdir={PYTHON}", f"-Dpython.platlibdir={PYTHON}"],
                    ["install", "--quiet", "-C", build, "--destdir", files]):
        done = subprocess.run([meson, *command], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    for program in (files / "usr/bin").iterdir():  # as dh_python3(1) does
        _, _, rest = program.read_text().partition("\n")
        program.write_text(f"#!/usr/bin/python3\n{rest}")


def bring(files: Path) -> None:
    """The tests, what runs them, and what the machine is set up with: `guest/root` and the test kit."""
    shutil.copytree(GUEST / "root", files, dirs_exist_ok=True)
    home = files / "usr/local/lib/tests"
    ignored = shutil.ignore_patterns("__pycache__", "root")
    shutil.copytree(GUEST, home, ignore=ignored)
    shutil.copytree(guest.ROOT / "tests/kit", home / "kit", ignore=ignored)


def deployment_id(sysroot: Path, image: str) -> str:
    """How the machine will call the deployment of an image. With that of its first one on the kernel command line, it
    passes for a machine that runs it."""
    deployment = DirectHost(sysroot, sysroot / "esp", Config(), SilentProgress()).install(image).deployment
    assert deployment is not None
    return deployment.id


@pytest.mark.parametrize("name", TESTS)
def test_passes_under_systemd(run: Run, name: str) -> None:
    assert name in run.cases, f"no report; there are {list(run.cases)}"
    case = run.cases[name]
    assert case.outcome == "passed", case.text


def test_what_is_staged_when_the_machine_goes_down_boots_next(run: Run) -> None:
    newest = max(run.entries)
    assert re.fullmatch(rf"bootcd-\d+-{run.last[:12]}\+3\.conf", newest), run.entries
