# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal. Names, titles and messages may come from images: no control character gets through."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line, with a replacement for everything that a terminal would not simply show."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
