# SPDX-License-Identifier: Apache-2.0
"""Durations and weekly windows, the way they are written in bootcd.toml(5). What they mean in time is `ops.windows`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from .errors import UsageError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY = 24 * 60
"""Minutes on the clock."""
LONGEST = timedelta(days=36525)
"""A century: whoever writes more than that has made a mistake, and the calendar ends in the year 9999."""

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(?:\d{1,6}(?:s|min|h|d|w)\s*)+", re.ASCII)
_WINDOW = re.compile(r"(?:(\S+)\s+)?(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of some days of the week. `begin` and `end` are minutes since midnight on the clock on the wall; an
    `end` that is not later than `begin` is on the day after, and `days`, 0 for Monday, are those of the beginning."""

    days: frozenset[int]
    begin: int
    end: int

    def __contains__(self, moment: tuple[int, float]) -> bool:
        """Whether a day of the week and the minutes since its midnight lie inside; the end does not."""
        day, minute = moment
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


def parse_duration(text: str) -> timedelta:
    """A time such as `90min`, `6h` or `1d 12h`, at most LONGEST; `0` is none at all. Raises UsageError."""
    if text.strip() == "0":
        return timedelta()
    if not _DURATION.fullmatch(text.strip()):
        raise UsageError(f"'{text}' is no duration; write for example 90min, 6h or 1d 12h")
    pairs = re.findall(r"(\d+)(s|min|h|d|w)", text)
    seconds = sum(int(number) * _UNITS[unit] for number, unit in pairs)
    if seconds > LONGEST.total_seconds():
        raise UsageError(f"'{text[:60]}' is more than a century")
    return timedelta(seconds=seconds)


def parse_window(text: str) -> Window:
    """A window such as `Sat,Sun 02:00-06:00`, `Mon..Fri 22:00-04:00` or, for every day, `03:00-05:00`. Raises
    UsageError."""
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"'{text}' is no window; write for example 'Sat,Sun 02:00-06:00' or 'Mon..Fri 22:00-04:00'")
    begin, end = (int(hour) * 60 + int(minute) if int(minute) < 60 else DAY + 1
                  for hour, minute in (found.group(2, 3), found.group(4, 5)))
    if begin >= DAY or end > DAY:
        raise UsageError(f"'{text}': times are from 00:00 to 24:00")
    if begin == end:
        raise UsageError(f"'{text}' begins where it ends; a whole day is 00:00-24:00")
    return Window(_days(found[1], text) if found[1] else frozenset(range(7)), begin, end)


def _days(words: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for word in words.split(","):
        first, _, last = word.partition("..")
        begin = _day(first, text)
        end = _day(last, text) if ".." in word else begin
        days |= {(begin + number) % 7 for number in range((end - begin) % 7 + 1)}
    return frozenset(days)


def _day(word: str, text: str) -> int:
    name = word.capitalize()
    if name not in DAYS:
        raise UsageError(f"'{text}': '{word}' is no day; they are {', '.join(DAYS)}")
    return DAYS.index(name)
