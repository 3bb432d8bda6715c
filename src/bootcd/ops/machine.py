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
from ..boot.esp import KERNELS, Esp
from ..config import Config
from ..deploy.facts import Entry
from ..errors import UsageError
from ..layout import Sysroot
from ..linux import files
from ..linux.room import Ballast
from ..model import Progress

_ESP_OF_SYSROOT = ("efi", "boot/efi", "boot", "esp")
_ESP_OF_SYSTEM = ("/efi", "/boot/efi", "/boot")


@dataclass(frozen=True, slots=True)
class Machine:
    """What and where: the settings of one `bootcctl` call or of the daemon."""

    sysroot: Sysroot
    esp_path: Path | None
    config: Config
    progress: Progress
    switching: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered around the short moment in which the boot entry changes, so that nobody ends this process in it."""

    def esp(self) -> Esp:
        """The boot partition. Raises UsageError when it has to be named, NotFound when it is not there."""
        return Esp(self.esp_path or self._find_esp())

    def _find_esp(self) -> Path:
        if self.sysroot.path == Path("/sysroot"):
            mounted = [Path(name) for name in _ESP_OF_SYSTEM if os.path.ismount(name)]
            # A second disk may have one, too; and beside an XBOOTLDR partition there is an ESP.
            ours = [path for path in mounted if os.path.isdir(path / KERNELS)]
            if len(ours) > 1:
                raise UsageError(f"{' and '.join(map(str, ours))} are boot partitions with kernels of bootcd",
                                 advice="Unmount all but the one that the machine boots from, or name it by --esp.")
            if mounted:
                return (ours or mounted)[0]
        for name in _ESP_OF_SYSROOT:
            if (self.sysroot.path / name / "loader").is_dir():
                return self.sysroot.path / name
        raise UsageError(f"the EFI system partition of {self.sysroot.path} was not found",
                         advice="Mount it, or name it with --esp DIR.")

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
