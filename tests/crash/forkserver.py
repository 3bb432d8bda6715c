# SPDX-License-Identifier: Apache-2.0
"""Runs `bootcctl` in a forked child for each line of standard input: all modules are imported once, and no thread of
the test runner is there to be forked along.

A request is a JSON object: `arguments`, `directory`, `out` (prefix of the files for what it prints), and optionally
`stdin` (a file), `clock` (seconds by which it is wrong), `action` and `at`: what happens at the `at`-th step, counted
from 1.

    crash       the process is gone, as by SIGKILL or a power cut that lost nothing
    interrupt   SIGINT, as by Ctrl-C
    full        ENOSPC
    stays-full  ENOSPC, and again at every later step that needs room
    trace       nothing; the names of all steps are written to `out`.steps at the end

The answer is the exit status, negative for a signal. If `directory` holds a file `booted`, it names the deployment
that runs; what really runs on this machine is nothing of it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import bootcd
from bootcd.cli.main import main
from bootcd.linux import files
from bootcd.ops.machine import Machine

FULL = frozenset({"atomic_write.before_rename", "esp-temporary-made", "esp-before-fsync", "esp-before-rename",
                  "objects.before_link", "replace_symlink.before_rename"})
"""Steps where a write may find the file system full."""


class Observer:
    """Counts steps, of all threads together."""

    def __init__(self, action: str, at: int) -> None:
        self.seen: list[str] = []
        self._action = action
        self._at = at
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            self.seen.append(name)
            here = len(self.seen) == self._at
            later = self._action == "stays-full" and len(self.seen) >= self._at and name in FULL
        if later:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not here:
            return
        if self._action == "crash":
            os._exit(files.CRASH_STATUS)
        if self._action == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if self._action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class WrongClock(datetime.datetime):
    """The time of day as a machine has it whose clock is wrong by so much."""

    offset = datetime.timedelta(0)

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> WrongClock:
        return super().now(tz) + cls.offset


def set_clock(seconds: int) -> None:
    """Let this process believe that it is so much later."""
    WrongClock.offset = datetime.timedelta(seconds=seconds)
    right = time.time
    datetime.datetime = WrongClock  # type: ignore[misc]
    time.time = lambda: right() + seconds


def boot(world: Path) -> None:
    """Let this process believe that a deployment runs, if the world says so."""
    if (world / "booted").exists():
        running = (world / "booted").read_text()
        Machine.booted = lambda self: running  # type: ignore[method-assign]


def child(request: dict[str, Any]) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["directory"])
    set_clock(request.get("clock", 0))
    boot(Path())
    os.dup2(os.open(request.get("stdin", os.devnull), os.O_RDONLY), 0)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(request["out"] + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    observer = Observer(request.get("action", ""), request.get("at", 0))
    files.observe = observer
    try:
        status = main(request["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    if request.get("action") == "trace":
        with open(request["out"] + ".steps", "w") as file:
            json.dump(observer.seen, file)
    return status


def preload() -> None:
    """Import everything for the children, which import only what they use."""
    for module in pkgutil.walk_packages(bootcd.__path__, "bootcd."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # what the bus needs, in a virtual machine that has none
                importlib.import_module(module.name)


def serve() -> None:
    preload()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                status = child(json.loads(line))
            except BaseException:
                traceback.print_exc()
                status = 98
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()
