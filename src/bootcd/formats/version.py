# SPDX-License-Identifier: Apache-2.0
"""The order of version strings that boot loaders use (UAPI.10 Version Format Specification 1.0).

A version is read from left to right in rounds; the rules of the specification are numbered there. One of them is taken
as systemd has it, since the purpose is to foresee what systemd-boot does: rule 7 says that a missing number is 0, while
for systemd any number, `0` too, is newer than none.

Strings may be equal here and yet differ, as `1_` and `1`. Digits are compared as text: a number may be of any length.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from typing import Any

_SKIPPED = re.compile(r"[^a-zA-Z0-9~^.-]*")
_DIGITS = re.compile(r"[0-9]*")
_LETTERS = re.compile(r"[a-zA-Z]*")
_MARKS = "-^."
"""In the order of the rules 4, 5 and 6. Where only one side has the mark, that side is older."""


def compare(a: str, b: str) -> int:
    """-1, 0 or 1 as `a` is older than, equal to or newer than `b`."""
    i = j = 0
    while True:
        i += len(_segment(_SKIPPED, a, i))
        j += len(_segment(_SKIPPED, b, j))
        older = _marked("~", a, i, b, j)
        if older is not None:
            if older:
                return older
            i, j = i + 1, j + 1
        if i >= len(a) or j >= len(b):
            return (i < len(a)) - (j < len(b))
        for mark in _MARKS:
            older = _marked(mark, a, i, b, j)
            if older is not None:
                if older:
                    return older
                i, j = i + 1, j + 1
        one, two = _segment(_DIGITS, a, i), _segment(_DIGITS, b, j)
        if one or two:
            order = _sign(_number(one), _number(two))
        else:
            one, two = _segment(_LETTERS, a, i), _segment(_LETTERS, b, j)
            order = _sign(one, two)
        if order:
            return order
        i, j = i + len(one), j + len(two)


key: Callable[[str], Any] = cmp_to_key(compare)
"""For `sorted`: oldest first."""


def _segment(pattern: re.Pattern[str], text: str, start: int) -> str:
    found = pattern.match(text, start)
    return found[0] if found else ""


def _marked(mark: str, a: str, i: int, b: str, j: int) -> int | None:
    """Which side is older for having the mark alone; 0 when both have it, None when neither has."""
    left, right = a.startswith(mark, i), b.startswith(mark, j)
    return right - left if left or right else None


def _number(digits: str) -> tuple[bool, int, str]:
    significant = digits.lstrip("0")
    return bool(digits), len(significant), significant


def _sign(one: Any, two: Any) -> int:
    return bool(one > two) - bool(one < two)
