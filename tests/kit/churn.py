# SPDX-License-Identifier: Apache-2.0
"""Many jobs, one after the other, that come to nothing."""

from __future__ import annotations

from kit.caller import Caller


class Churn:
    """Most are cancelled as soon as they have started, which takes a moment; one of `failing` runs until it fails."""

    def __init__(self, caller: Caller, failing: int = 20) -> None:
        self._caller = caller
        self._failing = failing
        self.states: set[str] = set()
        """The ways in which they have ended."""
        self.paths: list[str] = []

    def run(self, count: int) -> None:
        """So many jobs, and wait for the end of each."""
        for number in range(count):
            job = self._caller.manager("Unpin", "nothing")
            self.paths.append(job)
            if number % self._failing:
                self._caller.cancel(job)
            self.states.add(self._caller.wait_over(job))
