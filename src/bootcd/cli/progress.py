# SPDX-License-Identifier: Apache-2.0
"""Progress for whoever watches: bars with rate and time left on a terminal, a line for each stage otherwise.

Both write to standard error, so that results on standard output stay clean.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..model import Progress, SilentProgress, size_text
from .text import printable

if TYPE_CHECKING:
    import rich.progress


@contextlib.contextmanager
def watching(quiet: bool) -> Iterator[Progress]:
    """The progress that fits where standard error goes."""
    if quiet:
        yield SilentProgress()
        return
    if sys.stderr.isatty():
        try:
            bars = _Bars()
        except ImportError:
            pass
        else:
            with bars:
                yield bars
            return
    yield _Lines()


class _Lines:
    """One line when a counted stage starts and one when it is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = ""
        self._done = self._total = 0
        self._since = 0.0

    def begin(self, stage: str, total: int = 0) -> None:
        with self._lock:
            self._finish()
            self._stage, self._total, self._done, self._since = stage, total, 0, time.monotonic()
            _print(f"{stage}{f' ({size_text(total)})' if total else ''}")

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._total and self._done >= self._total:
                self._finish()

    def note(self, message: str) -> None:
        _print(message)

    def _finish(self) -> None:
        if self._total and self._done:
            seconds = max(time.monotonic() - self._since, 0.001)
            _print(f"{self._stage}: {size_text(self._done)} in {seconds:.1f} s, {size_text(self._done / seconds)}/s")
        self._total = 0


def _print(line: str) -> None:
    # That nobody reads the progress any more is no reason to give up the work.
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


class _Bars:
    """A live bar by rich; imported only here, since it takes a while."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._progress: rich.progress.Progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
            progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn(),
            console=Console(stderr=True), transient=False,
        )
        self._task: rich.progress.TaskID | None = None
        self._started = False

    def __enter__(self) -> None:
        pass  # not yet: what is drawn again and again would wipe away a question of polkit

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._started:
            self._progress.stop()

    def begin(self, stage: str, total: int = 0) -> None:
        self._close()
        if total:
            if not self._started:
                self._progress.start()
                self._started = True
            self._task = self._progress.add_task(stage, total=total)
        else:  # a bar that cannot move says less than a line
            self.note(stage)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._progress.advance(self._task, count)

    def note(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def _close(self) -> None:
        # Left as it is: a bar that did not reach its end shows how far a failed stage came.
        if self._task is not None:
            self._progress.stop_task(self._task)
            self._task = None
