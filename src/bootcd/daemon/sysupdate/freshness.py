# SPDX-License-Identifier: Apache-2.0
"""Asking the source: when what is in memory is too old, once for all who wait, and never for longer than they wait.

GNOME Software drops a target whose CheckNew takes more than 10 seconds, and says nothing.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable
from functools import partial

from ...errors import Busy
from ...ops.results import Status
from ..exports import apart
from ..jobs import Job, Jobs, Starter
from ..verbs import VERBS
from ..worker import Failure
from .versions import age

log = logging.getLogger(__name__)

FRESH = 60.0
"""Seconds for which an answer of the source is good enough for those who only look."""
JUST_NOW = 10.0
"""The same for those who insist."""
RETRY = 60.0
"""Seconds after which a source that did not answer is asked again by those who do not insist."""
UNREACHED = Failure("org.bootcd1.Error.SourceUnreachable", "the source of the image has not answered yet",
                    "Try again in a moment.")


class Freshness:
    """Knows when the source was asked. `status` is what is in memory."""

    def __init__(self, jobs: Jobs, status: Callable[[], Status]) -> None:
        self._jobs = jobs
        self._status = status
        self._job: Job | None = None
        self._asked = -RETRY
        self._failure: Failure | None = None

    async def look(self, starter: Starter, patience: float, *, insist: bool = False) -> Failure | None:
        """Return when what is in memory is good enough, or after `patience` seconds; and why it is not, then. Who does
        not `insist` is content with an older answer, and with none when the source failed a moment ago."""
        seconds = age(self._status(), datetime.datetime.now(datetime.UTC))
        if seconds is not None and seconds < (JUST_NOW if insist else FRESH):
            return None
        job = self._job
        if job is None or job.over.is_set():
            if not insist and time.monotonic() - self._asked < RETRY:
                return self._failure
            try:
                job = apart(partial(self._jobs.begin, starter, VERBS["Check"], {}))
            except Busy as error:
                return Failure.of(error)
            self._job, self._asked, self._failure = job, time.monotonic(), UNREACHED
        if not insist:  # one that hangs makes only the first wait
            patience -= time.monotonic() - self._asked
        try:
            async with asyncio.timeout(max(patience, 0)):
                await job.over.wait()
        except TimeoutError:
            log.info("the source has not answered yet; an older answer is taken, if there is one")
            return UNREACHED
        self._failure = Failure(*job.error) if job.state != "succeeded" else None
        return self._failure
