# SPDX-License-Identifier: Apache-2.0
"""bootcd-setup-root, built for tests and run in a mount namespace that a test can look into."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "initramfs"
PROGRAM = os.environ.get("BOOTCD_SETUP_ROOT")
"""A program that is there already: tests/vm brings one to a machine without a compiler."""

WARNINGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes",
            "-Wmissing-prototypes", "-Wvla", "-Wformat=2", "-Werror")
HARDENED = ("-O2", "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong", "-fPIE", "-pie", "-Wl,-z,relro,-z,now")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(target: Path, *flags: str, sources: Sequence[Path] | None = None) -> Path:
    """Compile the program, or other sources, with every warning an error."""
    command = compiler()
    assert command is not None
    files = sorted(SOURCE.glob("*.c")) if sources is None else sources
    done = subprocess.run([command, *WARNINGS, *flags, f"-I{SOURCE}", *files, "-o", target], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@dataclass(frozen=True)
class Mount:
    """One line of a mount table: where, what is shown as source, type, options of the mount and of the file system."""

    place: str
    source: str
    type: str
    options: tuple[str, ...]
    filesystem_options: tuple[str, ...]


class Namespace:
    """A mount namespace of its own, as a context manager: what is mounted in it goes with it."""

    def __enter__(self) -> Namespace:
        self._holder = subprocess.Popen(["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; exec cat"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._holder.communicate()

    def run(self, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it."""
        return subprocess.run(["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", *command], capture_output=True,
                              text=True, check=False, stdin=subprocess.DEVNULL, env=os.environ | environment)

    def path(self, path: Path) -> Path:
        """A path as seen there, for use from here."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def mounts(self) -> list[Mount]:
        """The mount table (proc_pid_mountinfo(5))."""
        found = []
        for line in Path(f"/proc/{self._holder.pid}/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, source, options) = before.split(), after.split(" ", 2)
            found.append(Mount(fields[4], source, kind, tuple(fields[5].split(",")), tuple(options.split(","))))
        return found
