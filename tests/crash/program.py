# SPDX-License-Identifier: Apache-2.0
"""`bootcctl` as a program, started fast and often, and a world that can be copied and compared."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.images import ImageBuilder

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
CONFIG = "bootcd.toml"
_GENERATION = re.compile(r"(bootcd-|\.before-)[0-9]{10}")


@contextmanager
def fast_directory() -> Iterator[Path]:
    """A directory in memory where there is one: thousands of flushes take their time on a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


@dataclass(frozen=True)
class Done:
    """How a run ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Program:
    """Starts `bootcctl` by way of the fork server. A context manager."""

    def __init__(self, scratch: Path, path: Path | None = None) -> None:
        """`path` is a directory of programs that come before others."""
        self.clock = 0
        """Seconds by which the clock is wrong."""
        self._out = scratch / "program"
        self._server = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "crash.forkserver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=ENVIRONMENT | ({"PATH": f"{path}:{os.environ['PATH']}"} if path is not None else {}))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(10)

    def __call__(self, directory: Path, *arguments: str, action: str = "", at: int = 0) -> Done:
        """Run in `directory`, on its sysroot and esp, by its configuration if it has one; see `crash.forkserver` for
        `action` and `at`."""
        settings = ("--config", CONFIG) if (directory / CONFIG).exists() else ()
        return self.run(directory, "--sysroot", "sysroot", "--esp", "esp", *settings, *arguments, action=action, at=at)

    def run(self, directory: Path, *arguments: str, action: str = "", at: int = 0, stdin: Path | None = None) -> Done:
        """Run with these arguments and no others."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {"directory": str(directory), "out": str(self._out), "action": action, "at": at,
                   "clock": self.clock, "arguments": arguments, "stdin": str(stdin or os.devnull)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        out, err = (Path(f"{self._out}{suffix}").read_bytes().decode(errors="surrogateescape")
                    for suffix in (".out", ".err"))
        assert "Traceback" not in err, err
        assert status != 98, err
        return Done(status, out, err)

    def steps(self, directory: Path, *arguments: str) -> list[str]:
        """The names of all steps of a run, which must succeed."""
        done = self(directory, *arguments, action="trace")
        assert done.status == 0, done.err
        steps: list[str] = json.loads(Path(f"{self._out}.steps").read_text())
        return steps


def publish(directory: Path, image: ImageBuilder, tag: str = "latest") -> None:
    """Let a tag of the layout in `directory` name another image."""
    image.write_layout(directory / "layout", tag)


def copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)


def snapshot(directory: Path) -> dict[str, str]:
    """Every path with its type, mode, owner and content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        state = path.lstat()
        if stat.S_ISREG(state.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = os.readlink(path) if stat.S_ISLNK(state.st_mode) else ""
        found[str(path.relative_to(directory))] = f"{state.st_mode:o} {state.st_uid}:{state.st_gid} {content}"
    return found


def names(directory: Path) -> list[str]:
    """Every path below the sysroot and the ESP, without the numbers of generations, which may be higher after a
    second try, and without what the repository's own collection leaves for a day."""
    paths = [str(path.relative_to(directory)) for part in ("sysroot", "esp") for path in (directory / part).rglob("*")]
    return sorted(_GENERATION.sub(r"\1N", path) for path in paths
                  if not re.search(r"composefs/.*/\.symlink-[0-9a-f]+$", path))
