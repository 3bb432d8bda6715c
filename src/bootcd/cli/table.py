# SPDX-License-Identifier: Apache-2.0
"""Columns on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .text import printable


def table(rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the last one is free."""
    lines = [[printable(cell) for cell in row] for row in rows]
    if not lines:
        return
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    for row in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
