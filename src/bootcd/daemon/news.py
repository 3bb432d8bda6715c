# SPDX-License-Identifier: Apache-2.0
"""Tells what `ops.news` finds: on the bus, in the journal, to hooks; and keeps the file with metrics.

What was told before, and what comes of it, is on a disk that may not answer: that is read and written beside the loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import BootcdError
from ..layout import Sysroot
from ..linux import files
from ..ops import hooks, metrics
from ..ops.last import load_told, save_told
from ..ops.news import Notice, Told, news
from ..ops.results import Status
from .inthread import in_thread
from .latest import Latest
from .wire import line

log = logging.getLogger(__name__)

METRICS = "metrics.prom"


class News:
    """Compares each status with what was told; `tell` is called with each piece of news and the status that it is
    from. Without a runtime directory, no hook is told and no metrics are written."""

    def __init__(self, sysroot: str, tell: Callable[[Notice, Status], None], directory: str | None = None,
                 root: Path = Path("/")) -> None:
        name = os.environ.get("RUNTIME_DIRECTORY") if directory is None else directory
        self._directory = Path(name) if name else None
        self._root = root
        self._sysroot = Sysroot(Path(sysroot))
        self._tell = tell
        self._told: Told | None = None
        self._loaded = False
        self._waiting: list[Status] = []
        self._to_keep: list[tuple[Status, tuple[Notice, ...]]] = []
        self._changed = False
        self._work = Latest(self._keep_all)

    def show(self, status: Status) -> None:
        """Tell what is new in a status; soon, when it is the first one."""
        self._waiting.append(status)
        if self._loaded:
            self._compare()
        self._work.ask()

    async def settled(self) -> None:
        """Returns when all is written that was shown so far."""
        await self._work.ask()

    def close(self) -> None:
        self._work.close()

    def _compare(self) -> None:
        waiting, self._waiting = self._waiting, []
        for status in waiting:
            notices, told = news(self._told, status)
            if told != self._told and status.deployments:
                self._told, self._changed = told, True
            self._to_keep.append((status, notices))
            for notice in notices:
                self._tell(notice, status)

    async def _keep_all(self) -> None:
        try:
            if not self._loaded:
                self._told = await in_thread(self._load)
                self._loaded = True
            self._compare()
            to_keep, self._to_keep = self._to_keep, []
            changed, self._changed = self._changed, False
            if to_keep and (changed or self._directory is not None):
                notices = [notice for _, found in to_keep for notice in found]
                await in_thread(partial(self._keep, to_keep[-1][0], notices, self._told, changed))
        except Exception:
            log.exception("news cannot be told")

    def _load(self) -> Told | None:
        try:
            return load_told(self._sysroot)
        except BootcdError as error:
            log.warning("what was told before is not known: %s", error)
            return None

    def _keep(self, status: Status, notices: Sequence[Notice], told: Told | None, changed: bool) -> None:
        """What comes of it on disk. Nothing that fails here is worth more than a line in the journal."""
        if self._directory is not None:
            try:
                hooks.hand_over([_clean(notice) for notice in notices], self._directory / hooks.WAITING.name,
                                self._root)
            except (BootcdError, OSError, ValueError) as error:
                log.warning("hooks are not told: %s", error)
            try:
                text = metrics.collect(status, told).encode()
                files.atomic_write(self._directory / METRICS, text, durable=False)
            except (BootcdError, OSError, ValueError) as error:
                log.warning("cannot write %s: %s", self._directory / METRICS, error)
        if told is not None and changed:
            save_told(self._sysroot, told)


def _clean(notice: Notice) -> Notice:
    """As lines that are fit for an environment."""
    return replace(notice, message=line(notice.message),
                   facts={name: line(value) for name, value in notice.facts.items()})
