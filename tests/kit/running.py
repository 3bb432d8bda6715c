# SPDX-License-Identifier: Apache-2.0
"""What starts when a block begins, and is gone when it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Running(ABC):
    """A program, or several of them, that a test may also start and stop by itself."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it is of use."""

    @abstractmethod
    def stop(self) -> None:
        """End it and remove its files. Nothing happens where it does not run."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *about: object) -> None:
        self.stop()
