# SPDX-License-Identifier: Apache-2.0
"""One installation: where it is, and its lock.

Locking contract: whoever changes anything holds the exclusive lock of `state/bootcd/lock` from before the first fact
is gathered until after the last step. Readers take no lock; every file that they read is replaced whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..boot import entries
from ..boot.booted import read_booted
from ..boot.esp import Esp
from ..boot.partitions import Partitions, find_partitions
from ..config import Config
from ..deploy.facts import Entry
from ..layout import Sysroot
from ..linux import files
from ..linux.room import Ballast
from ..model import Progress


@dataclass(frozen=True, slots=True)
class Machine:
    """What and where: the settings of one `bootcctl` call or of the daemon."""

    sysroot: Sysroot
    esp_path: Path | None
    config: Config
    progress: Progress
    switching: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered around the short moment in which the boot entry changes, so that nobody ends this process in it."""

    def boot(self) -> Partitions:
        """The boot partitions. Raises UsageError when the first has to be named, NotFound when none is there."""
        return find_partitions(self.sysroot.path, self.esp_path, self.config.boot_mirrors, self.progress.note)

    def esp(self) -> Esp:
        """The first of them that is there, which may not be the one that knows most."""
        return self.boot().first

    def booted(self) -> str | None:
        return read_booted(self.sysroot.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one writer, who has at least the ballast's room. Raises Busy."""
        with files.translate(f"cannot lock {self.sysroot.path}"):
            self.sysroot.own_state.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(self.sysroot.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            files.Lock(descriptor, f"the installation at {self.sysroot.path}").exclusive()
            ballast = Ballast(self.sysroot.ballast)
            ballast.drop()
            try:
                yield
            finally:
                ballast.take()
        finally:
            os.close(descriptor)


def boot_order(listing: entries.Listing) -> tuple[Entry, ...]:
    """Our entries in the loader's order; those that it passes over come last and count as bad."""
    shown = entries.menu(listing.ours)
    passed_over = [entry for entry in listing.ours if entry not in shown]
    return tuple(
        Entry(entry.file_name, entry.generation, entry.id_prefix,
              bad=entry.problem is not None or entry.name.tries_left == 0,
              counted=entry.name.tries_left is not None, failed=entry.name.tries_left == 0, kernel=entry.kernel)
        for entry in [*shown, *passed_over]
    )
