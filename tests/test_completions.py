# SPDX-License-Identifier: Apache-2.0
"""The shells know what the program knows."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPLETIONS = ROOT / "data" / "completions"

LIST = """[
  {
    "id": "86ef48e13e53ad2ad7a11f8df23bad98",
    "version": "1.0",
    "pins": [
      {
        "label": "factory",
        "time": "2025-01-01T00:00:00+00:00"
      },
      {
        "label": "not one word",
        "time": "2025-01-01T00:00:00+00:00"
      }
    ],
    "kernel-version": "6.12.0"
  }
]"""


@pytest.fixture
def bootcctl(tmp_path: Path) -> Path:
    """A program that knows one deployment, but only in the sysroot `here`."""
    program = tmp_path / "bootcctl"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '--sysroot here --quiet list --json' ] && cat <<'END'\n{LIST}\nEND\n")
    program.chmod(0o755)
    return program


def bash(line: list[str], program: Path) -> set[str]:
    """What bash offers at the end of a line."""
    script = (f'source "{COMPLETIONS}/bootcctl.bash"; compopt() {{ :; }}; '
              f'COMP_WORDS=("{program}" "$@"); COMP_CWORD=$#; _bootcctl; printf "%s\\n" "${{COMPREPLY[@]}}"')
    done = subprocess.run(["bash", "-euc", script, "bash", *line], capture_output=True, text=True, check=True,
                          cwd=program.parent, env=os.environ | {"LC_ALL": "C"})
    return set(done.stdout.split())


def test_files_are_current() -> None:
    generate = runpy.run_path(str(ROOT / "tools" / "completions.py"))["generate"]
    for name, text in generate().items():
        assert (COMPLETIONS / name).read_text() == text, "out of date: make completions"


@pytest.mark.parametrize(("line", "expected"), [
    (["upg"], {"upgrade"}),
    (["--sysroot", "list", "image", "in"], {"inspect"}),
    (["upgrade", "--down"], {"--download-only"}),
    (["pin", "boo"], {"booted"}),
    (["composefs", "mkfs", "--format", "v"], {"v0", "v1", "v2"}),
    (["composefs", "mkfs", "--format", "=", "v"], {"v0", "v1", "v2"}),
    (["composefs", "mkfs", "--format", "="], {"v0", "v1", "v2"}),
    (["install", ""], {"to-disk", "to-filesystem"}),
    (["pin", "--label", ""], set()),
    (["list", ""], set()),
    (["--sysroot", ""], {"directory"}),
    (["image", "import-tar", ""], {"bootcctl", "directory", "tarball"}),
    (["image", "mount", ""], set()),
    (["image", "mount", "name", ""], {"directory"}),
    (["composefs", "measure", "tarball", "tar"], {"tarball"}),
    (["composefs", "dump", "tar"], {"tarball"}),
])
def test_bash(line: list[str], expected: set[str], bootcctl: Path) -> None:
    (bootcctl.parent / "directory").mkdir()
    (bootcctl.parent / "tarball").touch()
    assert bash(line, bootcctl) == expected


def test_bash_knows_the_deployments_of_the_sysroot_that_is_meant(bootcctl: Path) -> None:
    roles = {"booted", "default", "staged", "rollback"}
    assert bash(["--sysroot", "here", "rollback", ""], bootcctl) == roles | {"86ef48e13e53", "1.0", "factory"}
    assert bash(["--sysroot", "here", "pin", "--json", "86"], bootcctl) == {"86ef48e13e53"}
    assert bash(["rollback", ""], bootcctl) == roles


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_syntax(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", COMPLETIONS / f"bootcctl.{shell}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish(bootcctl: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    for line, expected in (("bootcctl upg", {"upgrade"}), ("bootcctl --sysroot image image ins", {"inspect"}),
                           ("bootcctl --sysroot here pin 8", {"86ef48e13e53"}), ("bootcctl unpin boo", {"booted"}),
                           ("bootcctl upgrade --soft-reboot ", {"no", "auto", "required"})):
        script = f"source {COMPLETIONS}/bootcctl.fish; complete -C '{line}'"
        done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True,
                              env=os.environ | {"PATH": f"{bootcctl.parent}:{os.environ['PATH']}"})
        assert {offer.split("\t")[0] for offer in done.stdout.splitlines()} == expected, line
