# SPDX-License-Identifier: Apache-2.0
"""The generation that was used last: a decimal number in `state/bootcd/generation`.

Records and entries tell their own generations, but those of deployments that are gone must not come back either: two
entries with one number, one of them perhaps in somebody's notes or logs, would be told apart by nothing.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import RecordError
from ..linux import files

_DIGITS = 10


def last_generation(path: Path) -> int:
    """0 when none was noted, or what was noted makes no sense; records and entries then decide alone."""
    with files.translate(f"cannot read {path}"):
        try:
            text = files.read_own(path, _DIGITS + 2).strip()
        except (FileNotFoundError, RecordError):
            return 0
    return int(text) if text.isdigit() and len(text) <= _DIGITS else 0


def note_generation(path: Path, generation: int) -> None:
    """Note durably that a generation is used, before its entry is written."""
    if generation > last_generation(path):
        files.atomic_write(path, b"%d\n" % generation)
