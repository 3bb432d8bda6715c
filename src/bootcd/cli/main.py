# SPDX-License-Identifier: Apache-2.0
"""`bootcctl`: from arguments to one operation, from its result or error to text and exit status.

Modules of a verb are imported only when it runs, since `status` has to answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from ..errors import BootcdError, Interrupted, NoSpace
from .parser import build_parser
from .text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    _open_streams()
    try:
        return _run(arguments)
    finally:
        _flush_for_good()


def _run(arguments: Sequence[str] | None) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the locale cannot say shall not end the program
            stream.reconfigure(errors="backslashreplace")
    options = argparse.Namespace(debug=False)
    try:
        try:
            build_parser().parse_args(arguments, options)
        finally:
            _flush()  # --help leaves by SystemExit, and its reader may be gone
        if options.debug:
            import logging

            logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        module, _, function = options.command.partition(":")
        command = getattr(importlib.import_module(f".{module}", __package__), function)
        status: int = command(options) or 0
        _flush()
        return status
    except BootcdError as error:
        return _report(error, options.debug)
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted; what was finished is kept"), options.debug)
    except BrokenPipeError:
        return 141  # the reader of our output went away, which is its right
    except OSError as error:
        from ..linux.files import error_of

        return _report(error_of(f"cannot use {error.filename}" if error.filename else "failed", error), options.debug)
    except (MemoryError, RecursionError) as error:
        return _report(BootcdError(f"{type(error).__name__}: {error}"), options.debug)


def _open_streams() -> None:
    """What a caller has closed becomes /dev/null, or the next file that is opened would be taken for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from ..linux.files import error_of

        raise error_of("cannot write the output", error, full=NoSpace) from error


def _flush_for_good() -> None:
    """Leave nothing for the interpreter to flush at exit, which ends in status 120 where a reader has gone away."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _report(error: BootcdError, debug: bool) -> int:
    with contextlib.suppress(OSError):  # nobody may be reading it any more
        if debug:
            import traceback

            traceback.print_exception(error)
        print(f"bootcctl: {printable(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"  {printable(error.hint)}", file=sys.stderr)
        sys.stderr.flush()
    return error.exit_status


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
