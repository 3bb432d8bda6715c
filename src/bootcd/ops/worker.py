# SPDX-License-Identifier: Apache-2.0
"""The program that does one job for the daemon: `python -m bootcd.ops.worker`.

One request comes as a line of JSON on standard input, lines of JSON go to standard output:

    request   {"verb": "upgrade", "arguments": {"download_only": false}, "sysroot": "/sysroot", "esp": null,
               "config": {"keep_previous": 1, …}, "by": "uid 1000 gnome-software", "background": false,
               "metered": false, "parent": PID, "log": LEVEL}
    lines     {"stage": TEXT, "total": BYTES}     a stage begins
              {"done": BYTES}                     of this stage so far, at most ten times a second
              {"note": TEXT}
              {"switch": true}, {"switch": false} around the moment in which the boot entry changes; after the first
                                                  the line {"go": true} on standard input is awaited, for 3 s at most
    the last  {"result": JSON, "status": STATUS}, or
              {"error": {"name": TEXT, "message": TEXT, "advice": TEXT}, "status": STATUS}
              STATUS is {"status": JSON, "fingerprint": LIST}, read after the work, or null

A verb is a method of `ops.host.Host`, `arguments` are its keyword arguments, `config` holds the fields of
`config.Config`. SIGTERM ends the work as Ctrl-C does, but waits while the boot entry changes. The process ends with its
parent, sees mounts of its own, and has the sysroot writable where everybody else has it read-only.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ..config import Config
from ..errors import BootcdError, Interrupted
from ..layout import Sysroot
from ..linux import files, process
from ..model import SilentProgress
from .direct import DirectHost
from .fingerprint import fingerprint
from .last import LOST, lost
from .machine import Machine
from .resultjson import from_json, to_json
from .results import LastResult
from .rules import FLEETLOCK

VERBS = frozenset({"status", "explain", "check", "upgrade", "switch", "rollback", "pin", "unpin", "unstage", "reset",
                   "finalize", "boot_complete", "cleanup", "fsck", "image_pull", "image_list", "image_inspect",
                   "image_remove", "image_verify", "kargs_show", "kargs_add", "kargs_remove", "kargs_replace",
                   "kargs_reload"})
"""What may be asked. Mounting is not among them: nobody else would see the mount."""

GO_WAIT = 3.0
"""Seconds that a change of the boot entry waits for the parent to hold back a shutdown."""
DONE_INTERVAL = 0.1
ORPHAN_PATIENCE = 30
"""Seconds that a worker has to end when its parent has died."""
_MAX_REQUEST = 1 << 20


class Interruption:
    """SIGTERM and SIGINT as KeyboardInterrupt in the main thread, except where they have to wait.

    A blocked signal mask would not do: the signal would go to any other thread that has it open, and Python raises in
    the main thread all the same.
    """

    def __init__(self) -> None:
        self._held = 0
        self._pending = False
        self.parent = 0
        """The process that started this one, as soon as it is known."""

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        sys.unraisablehook = self._ignored

    def ignore(self) -> None:
        """Not any more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.parent and os.getppid() != self.parent:
            signal.alarm(ORPHAN_PATIENCE)  # nobody else would end it if it hangs, and it holds the lock
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt

    def _ignored(self, what: sys.UnraisableHookArgs) -> None:
        """A signal that comes during a callback of a weak reference, or `__del__`, is raised there, where Python passes
        over it: it waits, too."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            self._pending = True
        else:
            sys.__unraisablehook__(what)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Not now. What comes meanwhile is raised by the next `deliver`, not here: work that came to its end in the
        meantime has succeeded."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def deliver(self) -> None:
        """Raise what had to wait."""
        if self._pending and not self._held and threading.current_thread() is threading.main_thread():
            self._pending = False
            raise KeyboardInterrupt


class Lines:
    """Writes to the parent; a `Progress`. A parent that reads no more is no reason to give up the work: whoever wants
    that sends a signal."""

    def __init__(self, descriptor: int, interruption: Interruption) -> None:
        self._descriptor = descriptor
        self._interruption = interruption
        self._lock = threading.Lock()
        self._done = self._told = 0
        self._when = 0.0

    def begin(self, stage: str, total: int = 0) -> None:
        with self._interruption.held(), self._lock:
            self._tell_done()
            self._done = self._told = 0
            self._write({"stage": stage, "total": total})
        self._interruption.deliver()

    def advance(self, count: int) -> None:
        with self._interruption.held(), self._lock:
            self._done += count
            if time.monotonic() - self._when >= DONE_INTERVAL:
                self._tell_done()
        self._interruption.deliver()

    def note(self, message: str) -> None:
        self.send({"note": message})
        self._interruption.deliver()

    def send(self, document: dict[str, Any]) -> None:
        with self._interruption.held(), self._lock:
            self._tell_done()
            self._write(document)

    def _tell_done(self) -> None:
        if self._done != self._told:
            self._write({"done": self._done})
            self._told, self._when = self._done, time.monotonic()

    def _write(self, document: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            files.write_all(self._descriptor, json.dumps(document).encode() + b"\n")


class Parent:
    """The parent's end of standard input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""

    def line(self, wait: float | None = None) -> bytes:
        """The next line, without its end; empty when there is none within `wait` seconds, or no more."""
        deadline = None if wait is None else time.monotonic() + wait
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._descriptor], [], [], left)[0]:
                return b""
            data = os.read(self._descriptor, 65536)
            if not data or len(self._buffer) > _MAX_REQUEST:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def main() -> int:
    """Do the job, and return an exit status that only a reader of the journal cares about."""
    interruption = Interruption()
    interruption.install()
    lines, parent = _protocol(interruption)
    machine: Machine | None = None
    try:
        request = json.loads(parent.line())
        logging.basicConfig(level=request.get("log", logging.INFO), format="%(message)s")
        interruption.parent = request.get("parent", 0)
        if "parent" in request and not process.die_with_parent(signal.SIGTERM, request["parent"]):
            return Interrupted.exit_status  # nobody wants it any more
        host, machine = _prepare(request, lines, _switching(lines, parent, interruption))
        work = _work(host, machine, request["verb"], request["arguments"])
        answer: dict[str, Any] = {"result": to_json(work())}
        status = 0
    except KeyboardInterrupt:
        answer, status = _failure(Interrupted("interrupted; what was finished is kept"))
    except BootcdError as error:
        answer, status = _failure(error)
    except OSError as error:
        answer, status = _failure(files.error_of(f"cannot use {error.filename}" if error.filename else "failed", error))
    except BaseException as error:
        traceback.print_exc()
        answer, status = _failure(BootcdError(f"internal error ({type(error).__name__}); the journal tells more"))
    interruption.ignore()  # it is over, whatever it was: too late to be stopped
    lines.send({**answer, "status": _status(machine)})
    return status


def _protocol(interruption: Interruption) -> tuple[Lines, Parent]:
    """Take standard input and output away from everything else: what prints, prints to standard error."""
    out, into = os.dup(1), os.dup(0)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    return Lines(out, interruption), Parent(into)


def _prepare(
    request: dict[str, Any], lines: Lines, switching: Callable[[], Any],
) -> tuple[DirectHost, Machine]:
    if request["background"]:
        process.lower_priority(os.getpid())
    sysroot, esp = Path(request["sysroot"]), Path(request["esp"]) if request["esp"] is not None else None
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                for name, value in request["config"].items()}
    config = Config(**settings)
    if process.private_mounts():
        process.make_all_writable([sysroot, *map(Path, config.boot_mirrors)])
    host = DirectHost(sysroot, esp, config, lines, by=request["by"], switching=switching,
                      unattended=request["background"], metered=request.get("metered", False))
    return host, Machine(Sysroot(sysroot), esp, config, SilentProgress())


def _work(host: DirectHost, machine: Machine, verb: str, arguments: dict[str, Any]) -> Callable[[], Any]:
    if verb == FLEETLOCK:
        from .fleetlock import ask

        return lambda: ask(machine.config, **arguments)
    if verb == LOST:
        return lambda: lost(machine, from_json(LastResult, arguments["result"]))
    if verb not in VERBS:
        raise ValueError(f"no verb '{verb}'")
    return lambda: getattr(host, verb)(**arguments)


def _switching(lines: Lines, parent: Parent, interruption: Interruption) -> Callable[[], Any]:
    @contextmanager
    def switching() -> Iterator[None]:
        try:
            lines.send({"switch": True})
            interruption.deliver()
            parent.line(GO_WAIT)
            with interruption.held():
                yield
        finally:
            lines.send({"switch": False})

    return switching


def _failure(error: BootcdError) -> tuple[dict[str, Any], int]:
    told = {"name": error.bus_name(), "message": str(error), "advice": error.hint}
    return {"error": told}, error.exit_status


def _status(machine: Machine | None) -> dict[str, Any] | None:
    if machine is None:
        return None
    try:
        from .status import status

        # First: what changes while the status is read then makes a difference later.
        seen = fingerprint(machine)
        return {"status": to_json(status(machine)), "fingerprint": seen}
    except Exception:
        traceback.print_exc()
        return None


if __name__ == "__main__":
    sys.exit(main())
