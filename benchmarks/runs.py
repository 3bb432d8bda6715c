# SPDX-License-Identifier: Apache-2.0
"""How long a program runs, from an empty directory, and how much memory it takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Wall seconds and peak memory in MB of a child process."""

    seconds: float
    memory: float


def run(command: list[str], *, stdin: bytes = b"") -> Run:
    """Run a program to its end. Raises CalledProcessError."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=errors)
        # ru_maxrss would count this program's own memory, which the child had for a moment before exec.
        peak = 0
        while process.poll() is None:
            peak = max(peak, _high_water(process.pid))
            time.sleep(0.002)
        if process.returncode:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise subprocess.CalledProcessError(process.returncode, command)
    return Run(time.perf_counter() - start, peak / 1024)


def _high_water(pid: int) -> int:
    """The peak of resident memory so far, in kB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def best(times: int, measure: Callable[[], Run]) -> Run:
    """The fastest of several runs: what is left is the program, not the neighbours."""
    return min((measure() for _ in range(times)), key=lambda one: one.seconds)


def fresh(path: Path) -> Path:
    """Nothing is there any more, nor on its way to the disk."""
    shutil.rmtree(path, ignore_errors=True)
    os.sync()
    return path
