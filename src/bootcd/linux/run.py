# SPDX-License-Identifier: Apache-2.0
"""The one door to other programs.

A program is started from an argument list, never through a shell, with a clean environment (so that its messages are
in English and nothing of the caller's session changes what it does), with standard input closed unless data is given,
and with its output captured. A program that is missing or fails becomes one error that carries its last words.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import BootcdError, Unsupported
from .files import step

log = logging.getLogger(__name__)

_KEPT = ("PATH", "HOME", "TMPDIR", "SYSTEMD_RELAX_ESP_CHECKS", "SYSTEMD_ESP_PATH")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_WORDS = 2000
_MAX_OUTPUT = 64 << 10
_CHUNK = 16 << 10
_END_SECONDS = 5.0


def find(program: str) -> str | None:
    """Where `run` would find a program; None when it would not."""
    return shutil.which(program, path=_environment(None)["PATH"])


def run(
    argv: Sequence[str | bytes | os.PathLike[str]], *, input: bytes | None = None, check: bool = True,
    env: Mapping[str, str] | None = None, cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return its status, standard output and standard error.

    `env` is added to the clean environment. Raises Unsupported when the program does not exist, BootcdError when it
    fails and `check` is set.
    """
    words = [os.fsdecode(word) for word in argv]
    log.debug("run: %s", shlex.join(words))
    environment = _environment(env)
    stdin = subprocess.DEVNULL if input is None else None
    step("run.before")
    try:
        done = subprocess.run(words, input=input, stdin=stdin, capture_output=True, check=False, env=environment,
                              cwd=cwd)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if cwd is not None and not os.path.isdir(cwd):
            raise BootcdError(f"cannot run {words[0]}: no directory {os.fspath(cwd)}") from error
        raise Unsupported(f"cannot run {words[0]}: {error.strerror}", advice=f"Install {words[0]}.") from error
    except (OSError, ValueError) as error:
        raise BootcdError(f"cannot run {words[0]}: {error}") from error
    step("run.after")
    if check and done.returncode:
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        words_said = (done.stderr.strip() or done.stdout.strip())[-_LAST_WORDS:].decode("utf-8", "replace")
        raise BootcdError(f"{shlex.join(words)} failed ({how}){': ' if words_said else ''}{words_said}")
    return done


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended that had its time. `status` is negative for a signal, None when its time was over; `output`
    the beginning of what it wrote to standard output and standard error."""

    status: int | None
    output: bytes


def run_limited(argv: Sequence[str], *, seconds: float | None, env: Mapping[str, str] | None = None) -> Ended:
    """Run somebody else's program, which may hang or write without end. It and all that it has started are killed
    when it ends, or after `seconds`. Raises Unsupported when it cannot be started."""
    log.debug("run: %s", shlex.join(argv))
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 env=_environment(env), cwd="/", start_new_session=True)
    except OSError as error:
        raise Unsupported(f"cannot run {argv[0]}: {error.strerror}") from error
    assert child.stdout is not None
    output, out = b"", child.stdout.fileno()
    deadline = None if seconds is None else time.monotonic() + seconds
    ended = os.pidfd_open(child.pid)
    try:
        os.set_blocking(out, False)
        waiting = [out, ended]
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = select.select(waiting, [], [], left)[0]
            if out in ready:
                data = os.read(out, _CHUNK)
                output = (output + data)[:_MAX_OUTPUT]
                if not data:
                    waiting.remove(out)
            elif ready:
                return Ended(child.wait(), output)
            if deadline is not None and time.monotonic() >= deadline:
                return Ended(None, output)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        os.close(ended)


@contextlib.contextmanager
def background(
    argv: Sequence[str], *, ready: str = "", env: Mapping[str, str] | None = None, patience: float = 5.0,
) -> Iterator[None]:
    """Let a program run beside the block, and end it afterwards.

    `ready` is its option for the number of a descriptor that it closes as soon as it is ready: the block begins then,
    when the program has ended, or after `patience` seconds. Raises Unsupported when the program does not exist.
    """
    reading, writing = os.pipe()
    try:
        words = [*argv, *([ready, str(writing)] if ready else [])]
        log.debug("run beside: %s", shlex.join(words))
        try:
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, pass_fds=[writing] if ready else [],
                                     env=_environment(env))
        except OSError as error:
            raise Unsupported(f"cannot run {words[0]}: {error.strerror}", advice=f"Install {words[0]}.") from error
        finally:
            os.close(writing)
        try:
            if ready:
                select.select([reading], [], [], patience)
            yield
        finally:
            child.terminate()
            try:
                child.wait(patience)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    finally:
        os.close(reading)


class Served:
    """A program of our own that serves whoever started it, over a socket that it has inherited."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def how(self) -> str:
        """How it ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_END_SECONDS)
        status = self._child.returncode
        return "not yet" if status is None else f"exit status {status}" if status >= 0 else f"signal {-status}"

    def end(self) -> None:
        """Wait for its end, which the end of the socket should have brought about."""
        try:
            self._child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def serve(argv: Sequence[str], descriptor: int) -> Served:
    """Start a program of our own, with our environment, and with one descriptor more. Raises Unsupported."""
    # Modules are looked for where ours came from, which a path relative to our directory may have said.
    places = dict.fromkeys(os.path.abspath(path) for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    try:
        return Served(subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[descriptor], cwd="/",
                                       env=environment))
    except OSError as error:
        raise Unsupported(f"cannot run {argv[0]}: {error.strerror}") from error


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
    environment.update((name, os.environ[name]) for name in _KEPT if name in os.environ)
    environment.update(more or {})
    return environment
