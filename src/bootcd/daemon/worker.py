# SPDX-License-Identifier: Apache-2.0
"""Starts a worker process for one job, follows it, and sees to it that nothing is left of it.

What the worker says is checked for its shape: it reads what comes from the network, and this process shall not fall
with it. See `ops.worker` for the lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..config import Config
from ..errors import BootcdError, Interrupted
from ..linux import process
from ..ops.fingerprint import Fingerprint

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-m", "bootcd.ops.worker")
MAX_LINE = 16 << 20
"""A check of a large repository may find a lot."""
KILL_AFTER = 10.0
"""Seconds that a worker has to end after SIGTERM, or after its last line."""
STALL = 15 * 60.0
"""Seconds without a sign of life after which a worker is ended."""
_LOOK = 15.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the worker shall do: a method of `ops.host.Host` and its keyword arguments, in plain values."""

    verb: str
    arguments: dict[str, Any]
    sysroot: str
    esp: str | None
    config: Config
    by: str = ""
    background: bool = False
    metered: bool = False

    def line(self) -> bytes:
        """As the worker reads it."""
        config = {field.name: getattr(self.config, field.name) for field in fields(Config)}
        return json.dumps({
            "verb": self.verb, "arguments": self.arguments, "sysroot": self.sysroot, "esp": self.esp, "config": config,
            "by": self.by, "background": self.background, "metered": self.metered, "parent": os.getpid(),
        }).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage begins; `total` is in bytes, 0 when nothing is counted."""

    text: str
    total: int


@dataclass(frozen=True, slots=True)
class Done:
    """So many bytes of the stage are done."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Note:
    text: str


@dataclass(frozen=True, slots=True)
class Switch:
    """The boot entry is about to change, or has changed. The worker waits, for some seconds, for `Worker.go`."""

    on: bool


Event = Stage | Done | Note | Switch


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it crosses the bus."""

    name: str
    message: str
    advice: str = ""

    @classmethod
    def of(cls, error: BootcdError) -> Failure:
        return cls(error.bus_name(), str(error), error.hint)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended. `result` is JSON, or None for a verb without an answer and when there is an `error`.
    `status`, the JSON of a Status, and `fingerprint` were read after the work; None where the worker could not tell.
    `killed` says that the worker ended without its last line, so nobody has written down how the job ended."""

    result: Any = None
    error: Failure | None = None
    status: dict[str, Any] | None = None
    fingerprint: Fingerprint | None = None
    killed: bool = False


class Worker:
    """One job. `on_event` is called in the loop's thread, in the order of the lines, and never after `run` is over."""

    def __init__(self, request: Request, on_event: Callable[[Event], None], *, program: Sequence[str] = PROGRAM,
                 kill_after: float = KILL_AFTER, stall: float = STALL) -> None:
        self._request = request
        self._on_event = on_event
        self._program = program
        self._kill_after = kill_after
        self._stall = stall
        self._transport: asyncio.SubprocessTransport | None = None
        self._child: _Child | None = None
        self._cancelled = asyncio.Event()
        self._low = request.background

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        if self._transport is None or self._transport.get_returncode() is not None:
            return None
        return self._transport.get_pid()

    def cancel(self) -> None:
        """Ask the worker to stop; once it does, `run` returns, with the error Interrupted as a rule. May be called at
        any time, even before `run`, and more than once."""
        if not self._cancelled.is_set():
            self._cancelled.set()
            self._signal(signal.SIGTERM)

    def go(self) -> None:
        """Answer to Switch(True): the boot entry may change now. Without it the worker goes on by itself, later."""
        self._write(b'{"go": true}\n')

    def lower_priority(self) -> None:
        """Nobody waits any more: let the worker have CPU and disk only when they are idle."""
        self._low = True
        pid = self.pid
        if pid is not None:
            try:
                process.lower_priority(pid)
            except BootcdError as error:
                log.info("%s", error)

    async def run(self) -> Outcome:
        """Do the job. Never raises because of what the worker does or says.

        When this is cancelled the worker is killed at once, with every process that it started; what it was about is
        completed or forgotten by the next one. `cancel` is the gentle way.
        """
        if self._cancelled.is_set():
            return Outcome(error=_INTERRUPTED)
        _watch_children_by_descriptor()
        loop = asyncio.get_running_loop()
        try:
            transport, child = await loop.subprocess_exec(
                lambda: _Child(self._on_event), *self._program, stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=None, start_new_session=True)
        except OSError as error:
            return Outcome(error=_failed(f"the worker cannot be started: {error}"))
        self._transport, self._child = transport, child
        try:
            self._write(self._request.line())
            if self._low:
                self.lower_priority()
            if self._cancelled.is_set():
                self._signal(signal.SIGTERM)
            stalled = await self._follow(child)
        finally:
            await self._bury(child)
        return self._outcome(child, stalled)

    async def _follow(self, child: _Child) -> bool:
        """Until the worker has ended, or has to be ended. Returns whether it did nothing for too long."""
        loop = asyncio.get_running_loop()
        pid = self.pid or 0
        seen: object = None
        alive = loop.time()
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        try:
            deadline: float | None = None
            while not child.ended.done():
                now = loop.time()
                if seen != (signs := (child.lines, process.activity(pid))):
                    seen, alive = signs, now
                if now - alive >= self._stall:
                    return True
                # In the moment in which the boot entry changes, it is not killed for being slow.
                if child.final or (self._cancelled.is_set() and not child.switching):
                    deadline = deadline if deadline is not None else now + self._kill_after
                    if now >= deadline:
                        return False
                else:
                    deadline = None
                pause = min(_LOOK, self._stall - (now - alive), *([deadline - now] if deadline is not None else []))
                waited: set[asyncio.Future[Any]] = {child.ended, child.changed()}
                if not self._cancelled.is_set():
                    waited.add(cancelled)
                await asyncio.wait(waited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancelled.cancel()
        return False

    async def _bury(self, child: _Child) -> None:
        """Leave no process, no zombie and no descriptor, even when this is cancelled."""
        transport = self._transport
        assert transport is not None
        if not child.exited.done():
            self._signal(signal.SIGKILL)
        again = False
        while not child.exited.done():
            try:
                await asyncio.wait({child.exited})
            except asyncio.CancelledError:  # it dies in a moment; only then may anybody stop waiting
                again = True
        transport.close()
        if again:
            raise asyncio.CancelledError

    def _outcome(self, child: _Child, stalled: bool) -> Outcome:
        if child.outcome is not None:
            return child.outcome
        code = self._transport.get_returncode() if self._transport is not None else None
        if self._cancelled.is_set():
            error = _INTERRUPTED
        elif child.nonsense:
            error = _failed(f"the worker said what makes no sense: {child.nonsense}")
        elif stalled:
            error = _failed(f"the worker showed no sign of life for {self._stall / 60:.0f} minutes and was ended")
        elif code is None:
            error = _failed("the worker died")
        else:
            error = _failed(f"the worker died ({f'signal {-code}' if code < 0 else f'exit status {code}'})")
        return Outcome(error=error, killed=True)

    def _write(self, data: bytes) -> None:
        pipe = self._transport.get_pipe_transport(0) if self._transport is not None else None
        if pipe is not None and not pipe.is_closing():
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(data)

    def _signal(self, number: int) -> None:
        """SIGTERM is for the worker, which ends what it started; SIGKILL for all of them."""
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)


class _Child(asyncio.SubprocessProtocol):
    """The worker's end of the pipes."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._on_event = on_event
        self._buffer = bytearray()
        self._changed: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        """Nothing more is to be expected: it has exited, and its output is read; or it said nonsense."""
        self.lines = 0
        self.switching = False
        self.final = False
        self.outcome: Outcome | None = None
        self.nonsense = ""
        self._output_open = True

    def changed(self) -> asyncio.Future[None]:
        """Done when the worker enters or leaves its critical section, or has said its last line."""
        if self._changed.done():
            self._changed = self._loop.create_future()
        return self._changed

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.final or self.ended.done():
            return
        scanned = len(self._buffer)
        self._buffer += data
        while not self.final and (end := self._buffer.find(b"\n", scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[:end + 1]
            scanned = 0
            try:
                self._take(line)
            except _NonsenseError as error:
                self._give_up(f"{error}: {line[:100]!r}")
                return
        if len(self._buffer) > MAX_LINE:
            self._give_up(f"a line of more than {MAX_LINE} bytes")

    def _take(self, line: bytes) -> None:
        self.lines += 1
        said = parse(line)
        if isinstance(said, Outcome):
            self.outcome, self.final = said, True
            self._buffer.clear()
        elif isinstance(said, Switch):
            self.switching = said.on
        if not isinstance(said, Outcome):
            self._on_event(said)
        if isinstance(said, (Outcome, Switch)) and not self._changed.done():
            self._changed.set_result(None)

    def _give_up(self, why: str) -> None:
        self._buffer.clear()
        self.nonsense = why
        self._end()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._output_open = False
            if self.exited.done():
                self._end()

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)
        if not self._output_open:
            self._end()
        else:  # what it said last is still in the pipe; but somebody whom it started may hold that open
            self._loop.call_later(_LINGER, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


_LINGER = 1.0
_INTERRUPTED = Failure.of(Interrupted("interrupted; what was finished is kept"))


def _failed(message: str) -> Failure:
    return Failure.of(BootcdError(message))


class _NonsenseError(Exception):
    """A line that is none of ours."""


def parse(line: bytes) -> Event | Outcome:
    """What a line of the worker says. Raises _NonsenseError."""
    try:
        document: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _NonsenseError("no JSON") from error
    if not isinstance(document, dict):
        raise _NonsenseError("no line of a worker")
    match document:
        case {"stage": str(text), "total": total} if _is_count(total) and len(document) == 2:
            return Stage(text, total)
        case {"done": done} if _is_count(done) and len(document) == 1:
            return Done(done)
        case {"note": str(text)} if len(document) == 1:
            return Note(text)
        case {"switch": bool(on)} if len(document) == 1:
            return Switch(on)
        case {"result": result, "status": status} if len(document) == 2:
            return Outcome(result, None, *_status(status))
        case {"error": {"name": str(name), "message": str(message), "advice": str(advice)}, "status": status} if (
                len(document) == 2):
            return Outcome(None, Failure(name, message, advice), *_status(status))
    raise _NonsenseError("no line of a worker")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _status(document: Any) -> tuple[dict[str, Any] | None, Fingerprint | None]:
    match document:
        case None:
            return None, None
        case {"status": dict(status), "fingerprint": list(fingerprint)} if len(document) == 2:
            return status, fingerprint
    raise _NonsenseError("no status")


def _watch_children_by_descriptor() -> None:
    """Python 3.11 starts a thread for every child unless it is told to use pidfds; later ones do by themselves."""
    if sys.version_info < (3, 12) and hasattr(os, "pidfd_open"):
        policy = asyncio.get_event_loop_policy()
        watcher = policy.get_child_watcher()
        if not isinstance(watcher, asyncio.PidfdChildWatcher):
            watcher = asyncio.PidfdChildWatcher()
            policy.set_child_watcher(watcher)
        if not watcher.is_active():
            watcher.attach_loop(asyncio.get_running_loop())
