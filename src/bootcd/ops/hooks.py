# SPDX-License-Identifier: Apache-2.0
"""Hooks: programs that are told each piece of news. bootcd-notices(7) tells it to those who write them.

    /usr/lib/bootcd/hooks.d/    of the image
    /etc/bootcd/hooks.d/        of the machine: one takes the place of the image's with the same name, and a link to
                                /dev/null takes it away
    /run/bootcd/notices/        news that no hook has been told yet, one file for each

The daemon puts news into the last one; a path unit then starts bootcd-hooks.service, which is this module. So a hook
neither holds the daemon up nor has to do its work within the daemon's sandbox, and without systemd 'bootcctl hooks run'
does the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import BootcdError, FormatError
from ..linux import files
from ..linux.run import run_limited
from .events import hook_failed
from .news import Notice
from .resultjson import from_json, to_json

PLACES = ("usr/lib/bootcd/hooks.d", "etc/bootcd/hooks.d")
WAITING = Path("/run/bootcd/notices")
TIMEOUT = 60
"""Seconds that a hook may take. What takes longer is for a unit that it starts."""
MAX_WAITING = 64
"""News that waits; nobody takes it where bootcd-hooks.path is off."""
_MAX_SIZE = 64 << 10


def find_hooks(root: Path = Path("/")) -> list[Path]:
    """The hooks in the order of their names. What nobody may execute is none."""
    found: dict[str, Path] = {}
    for place in PLACES:
        for path in _files(root / place):
            found[path.name] = path
    return [path for name, path in sorted(found.items())
            if os.path.realpath(path) != os.devnull and os.access(path, os.X_OK)]


def hand_over(notices: Sequence[Notice], directory: Path, root: Path = Path("/")) -> None:
    """Leave news for the hooks, where there is any. Raises BootcdError, OSError."""
    if not notices or not find_hooks(root):
        return
    directory.mkdir(mode=0o755, exist_ok=True)
    for notice in notices:
        # By the time since the boot, as long as the directory lives: a clock that is put back changes no order.
        name = f"{time.monotonic_ns():020}-{notice.kind}.json"
        # Which has a hidden name at first: the path unit does not count those.
        files.atomic_write(directory / name, json.dumps(to_json(notice)).encode(), durable=False)
    for path in _files(directory)[:-MAX_WAITING]:
        path.unlink(missing_ok=True)


def run_waiting(told: Callable[[str], None], directory: Path = WAITING, root: Path = Path("/"),
                timeout: float = TIMEOUT) -> int:
    """Run all hooks for all news that waits, the oldest first; `told` gets what they say. Returns how often a hook
    failed, which has no other consequence."""
    failures = 0
    seen: set[str] = set()  # what cannot be removed is passed over once
    while waiting := [path for path in _files(directory) if path.name not in seen]:
        for path in waiting:
            seen.add(path.name)
            try:
                notice = _take(path)
            except (BootcdError, OSError, ValueError, RecursionError) as error:
                told(f"{path.name} is passed over: {error}")
                continue
            for hook in find_hooks(root):
                why = _run(hook, notice, told, timeout)
                if why:
                    failures += 1
                    hook_failed(str(hook), notice.kind, why)
    return failures


def environment(notice: Notice) -> dict[str, str]:
    """What a hook finds in its environment beside PATH and LC_ALL: facts that are not known are empty."""
    facts = {f"BOOTCD_{name.upper().replace('-', '_')}": value for name, value in notice.facts.items()}
    return {**facts, "BOOTCD_NOTICE": notice.kind, "BOOTCD_MESSAGE": notice.message}


def _take(path: Path) -> Notice:
    """Read a file and remove it, before anything is done by it: whatever happens then, it is not done for ever. Raises
    OSError, ValueError, BootcdError."""
    try:
        data = files.read_own(path, _MAX_SIZE)
    finally:
        path.unlink()
    notice = from_json(Notice, json.loads(data))
    if not all(text.isprintable() for text in (notice.kind, notice.message, *notice.facts, *notice.facts.values())):
        raise FormatError("a fact is no printable line")
    return notice


def _run(hook: Path, notice: Notice, told: Callable[[str], None], timeout: float) -> str:
    """Why it failed; empty when it did not."""
    try:
        ended = run_limited((str(hook), notice.kind), seconds=timeout, env=environment(notice))
    except BootcdError as error:
        return str(error)
    for line in ended.output.decode("utf-8", "replace").splitlines():
        if line.strip():
            told(f"{hook.name}: {line.strip()}")
    if ended.status is None:
        return f"it took longer than {timeout:g} seconds"
    if ended.status:
        return f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
    return ""


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError:
        return []
