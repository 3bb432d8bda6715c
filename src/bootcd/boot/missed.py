# SPDX-License-Identifier: Apache-2.0
"""Boot entries that were removed while a boot partition was away, so that it loses them, too, when it is back.

    state/bootcd/missed-entries      one name of an entry in each line, without counter and suffix

Such an entry leads to no deployment any more, and so could as well be that of another installation; hence the list.
"""

from __future__ import annotations

from pathlib import Path

from ..linux import files

_MAX_ENTRIES = 1000
_MAX_SIZE = 1 << 20


class Missed:
    """The file with the list."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> frozenset[str]:
        """The names; none when there is no file."""
        return frozenset(self._lines())

    def add(self, stem: str) -> None:
        """Remember one more; the oldest is forgotten beyond a thousand."""
        lines = self._lines()
        if stem not in lines:
            files.atomic_write(self._path, "".join(f"{line}\n" for line in [*lines, stem][-_MAX_ENTRIES:]).encode())

    def clear(self) -> None:
        """Every partition has them removed."""
        with files.translate(f"cannot remove {self._path}"):
            self._path.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        with files.translate(f"cannot read {self._path}"):
            try:
                return files.read_own(self._path, _MAX_SIZE).decode("ascii", "replace").split()
            except FileNotFoundError:
                return []
