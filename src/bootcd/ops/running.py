# SPDX-License-Identifier: Apache-2.0
"""Who is at work, so that work which was cut off can be told from work that goes on.

    state/bootcd/running/<pid>.json   {"boot": …, "start": …, "verb": …, "by": …, "started": …}

One file for each operation that changes something, for as long as it runs. A process is known by the boot, its id and
the time of its start; a file whose process is not there any more is what a kill or a power cut has left. Nothing
depends on these files but what people are told, so whatever is wrong with them is passed over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BootcdError
from ..linux.process import boot_id
from .machine import Machine
from .results import LastResult

log = logging.getLogger(__name__)

_MAX_SIZE = 1 << 16


@contextmanager
def told(machine: Machine, verb: str, by: str, started: str) -> Iterator[None]:
    """While this process does `verb`."""
    directory = machine.sysroot.running
    path = directory / f"{os.getpid()}.json"
    document = {**_identity(os.getpid()), "verb": verb, "by": by, "started": started}
    try:
        if directory.parent.is_dir():  # one that is not there is that of a mistyped --sysroot
            directory.mkdir(mode=0o755, exist_ok=True)
            path.write_text(json.dumps(document))
    except OSError as error:
        log.info("that this runs is not told: %s", error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def cut_off(machine: Machine) -> list[tuple[Path, LastResult]]:
    """What was cut off, oldest first, each with its file."""
    found = []
    with contextlib.suppress(OSError):
        for path in machine.sysroot.running.glob("*.json"):
            try:
                result = _read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.info("%s is passed over: %s", path, error)
                continue
            if result is not None:
                found.append((path, result))
    return sorted(found, key=lambda pair: pair[1].started)


def _read(path: Path) -> LastResult | None:
    with path.open("rb") as file:
        document = json.loads(file.read(_MAX_SIZE))
    verb, by, started = (str(document[name]) for name in ("verb", "by", "started"))
    identity = _identity(int(path.stem))
    if all(document[name] == value for name, value in identity.items()):
        return None  # it runs
    return LastResult(verb, "failed", BootcdError.bus_name(), f"'{verb}' was cut off: its process died, or the machine "
                      "lost power", "What it had finished is kept; the next change completes or undoes the rest.",
                      started, "", by)


def _identity(pid: int) -> dict[str, str]:
    """What no other process has; empty strings for one that is not there, which no file says of itself."""
    boot, start = boot_id(), ""
    with contextlib.suppress(OSError, IndexError):
        # proc_pid_stat(5): the name, in parentheses, may hold anything; the start is the 22nd field.
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return {"boot": boot, "start": start}
