# SPDX-License-Identifier: Apache-2.0
"""The linters are tests. A missing one is skipped on a developer's machine and an error where CI is set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str) -> None:
    module = command[0]
    installed = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False)
    if installed.returncode and not os.environ.get("CI"):
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff() -> None:
    run("ruff", "check", "--no-fix", ".")


def test_mypy() -> None:
    run("mypy")
