# SPDX-License-Identifier: Apache-2.0
"""What the rest of the system finds in /run/bootcd while the machine waits for a reboot.

`staged` is what bootcd-staged.path waits for; it pulls in bootcd-staged.target, where anybody may hook in, and
/run/reboot-required. `motd` is a line for those who log in; tmpfiles.d links it into /run/motd.d.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..errors import BootcdError
from ..linux import files
from ..ops.news import is_failure
from ..ops.results import Status
from .wire import line

log = logging.getLogger(__name__)

_MAX_SIZE = 1 << 16


class Notices:
    """Files in the runtime directory that systemd made for us; without one, nothing is written."""

    def __init__(self, directory: str | None = None) -> None:
        name = os.environ.get("RUNTIME_DIRECTORY") if directory is None else directory
        self._directory = Path(name) if name else None

    def show(self, status: Status) -> None:
        """Make the files say what holds now."""
        if self._directory is None:
            return
        texts = {"staged": "", "motd": ""}
        info = status.awaited()
        if info is not None:
            version = line(info.version or info.id[:12])
            ready = f"Version {version} is ready: it runs after the next reboot.\n"
            texts = {"staged": f"{info.id}\n", "motd": ready if "booted" not in info.roles else ""}
        reset = next((info.reset for info in status.deployments if info.reset), "")
        if reset:
            texts["motd"] += (f"The next reboot resets {'/etc' if reset == 'etc' else '/etc and /var'}; 'bootcctl "
                              "unstage' takes that back.\n")
        left = next((info for info in status.deployments if info.id == status.fell_back_from), None)
        if left is not None:
            texts["motd"] += line(f"Version {left.version or left.id[:12]} does not work here, so an older one runs: "
                                  f"{left.health_reason}") + "\n"
        last = status.last
        if last is not None and is_failure(last):
            texts["motd"] += line(f"The last {last.verb} failed: {last.message}") + "\n"
        for name, text in texts.items():
            try:
                self._write(self._directory / name, text)
            except (BootcdError, OSError, ValueError) as error:
                log.warning("cannot write %s: %s", self._directory / name, error)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        data = text.encode()
        if not data:
            path.unlink(missing_ok=True)
        elif _content(path) != data:  # or bootcd-staged.path would see news where there is none
            files.atomic_write(path, data, durable=False)


def _content(path: Path) -> bytes | None:
    try:
        return files.read_own(path, _MAX_SIZE)
    except (OSError, BootcdError):
        return None
