# SPDX-License-Identifier: Apache-2.0
"""Health checks: programs of the image and of the machine that say whether a boot has come up well.

    /usr/lib/bootcd/check.d/            of the image; each has to succeed
    /etc/bootcd/check.d/required.d/     of the machine; each has to succeed
    /etc/bootcd/check.d/wanted.d/       of the machine; one that fails is only told

Programs, run in the order of their names; one in /etc takes the place of one in /usr with the same name, and a
link to /dev/null takes it away. Scripts that were written for greenboot are run after them, from its directories and by
its rules: `*.sh`, by bash. Where greenboot itself is installed it runs them, and holds up boot-complete.target.
bootcd-health(7) tells it to those who write checks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..deploy.records import clipped
from ..errors import BootcdError
from ..linux.run import find, run_limited
from .results import HealthCheck, HealthReport

OURS = (("usr/lib/bootcd/check.d", True), ("etc/bootcd/check.d/required.d", True),
        ("etc/bootcd/check.d/wanted.d", False))
GREENBOOT = tuple((f"{place}/greenboot/check/{kind}.d", kind == "required")
                  for kind in ("required", "wanted") for place in ("usr/lib", "etc"))
GREENBOOT_ITSELF = "usr/lib/systemd/system/greenboot-healthcheck.service"
_AFTERWARDS = {True: "green.d", False: "red.d"}
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Check:
    """A program, how it is started, and whether a boot is only good if it succeeds."""

    path: Path
    argv: tuple[str, ...]
    required: bool


def find_checks(root: Path = Path("/")) -> list[Check]:
    """All checks of a running system, in their order, those that cannot be executed among them."""
    ours: dict[str, Check] = {}
    for directory, required in OURS:
        for path in _files(root / directory):
            ours.pop(path.name, None)
            if os.path.realpath(path) != os.devnull:
                ours[path.name] = Check(path, (str(path),), required)
    found = sorted(ours.values(), key=lambda check: (not check.required, check.path.name))
    if (root / GREENBOOT_ITSELF).exists():
        return found
    return found + [check for directory, required in GREENBOOT for check in _scripts(root / directory, required)]


def run_checks(*, timeout: int, root: Path = Path("/"), told: Callable[[str], None]) -> HealthReport:
    """Run all checks, whatever becomes of those before, and then what greenboot's red.d or green.d has for that case.
    A check that takes longer than `timeout` seconds has failed; 0 is no limit. `told` gets what they say."""
    outcomes = tuple(_run(check, timeout, told) for check in find_checks(root))
    failed = [one for one in outcomes if one.required and one.outcome != "passed"]
    if not (root / GREENBOOT_ITSELF).exists():
        for place in ("usr/lib", "etc"):
            for script in _scripts(root / place / "greenboot" / _AFTERWARDS[not failed], False):
                _run(script, timeout, told)
    reason = f"{failed[0].name}: {failed[0].reason}" if failed else ""
    if len(failed) > 1:
        reason += f" (and {len(failed) - 1} more)"
    return HealthReport(not failed, reason, outcomes)


def _run(check: Check, timeout: int, told: Callable[[str], None]) -> HealthCheck:
    begun = time.monotonic()
    try:
        ended = run_limited(check.argv, seconds=timeout or None)
        lines = [line.strip() for line in ended.output.decode("utf-8", "replace").splitlines() if line.strip()]
        if ended.status is None:
            outcome, reason = "timed-out", f"it took longer than {timeout} seconds"
        elif ended.status:
            how = f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
            outcome, reason = "failed", clipped(lines[0])[:_MAX_REASON] if lines else how
        else:
            outcome, reason = "passed", ""
    except BootcdError as error:
        lines, outcome, reason = [], "failed", str(error)
    for line in lines:
        told(f"{check.path.name}: {line}")
    what = "Check" if check.required else "Wanted check"
    told(f"{what} {check.path} {outcome.replace('-', ' ')}{f': {reason}' if reason else ''}")
    return HealthCheck(check.path.name, str(check.path), check.required, outcome, reason,
                       int((time.monotonic() - begun) * 1000))


def _scripts(directory: Path, required: bool) -> Iterator[Check]:
    shell = find("bash") or "/bin/sh"
    for path in _files(directory):
        if path.suffix == ".sh":
            yield Check(path, (shell, str(path)), required)


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and not path.is_dir())
    except OSError:
        return []
