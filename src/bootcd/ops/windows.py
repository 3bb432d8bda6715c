# SPDX-License-Identifier: Apache-2.0
"""Weekly windows in time. Pure.

A moment is inside a window when the clock on the wall of the time zone shows a time inside. So where clocks are put
forward, an hour that does not exist is in no window, and where they are put back, one that comes twice is inside both
times: nobody who looks at a clock sees anything happen outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from ..schedule import Window

_HORIZON = 15
"""Days to look ahead: a weekly window that a change of the clock swallows is there a week later."""
_MINUTE = timedelta(minutes=1)


def is_open(windows: Sequence[Window], zone: tzinfo, moment: datetime) -> bool:
    """Whether one of the windows is open; where there are none, it always is."""
    wall = moment.astimezone(zone)
    minute = wall.hour * 60 + wall.minute + wall.second / 60
    return not windows or any((wall.weekday(), minute) in window for window in windows)


def next_open(windows: Sequence[Window], zone: tzinfo, moment: datetime,
              lasting: timedelta = timedelta()) -> datetime | None:
    """The first moment from `moment` on at which a window is open, and one is open `lasting` later as well; None when
    there is none in two weeks."""
    def fits(when: datetime) -> bool:
        return is_open(windows, zone, when) and is_open(windows, zone, when + lasting)

    if fits(moment):
        return moment
    # It can only become so at a beginning, or `lasting` before one, or where the clock jumps.
    day = moment.astimezone(zone).date() - timedelta(days=1)
    found: datetime | None = None
    spare = lasting.days + 2  # what begins on a later day may end, or be `lasting` ahead, on this one
    for _ in range(_HORIZON + spare):
        for begin in _openings(windows, zone, datetime(day.year, day.month, day.day)):
            for when in (begin, begin - lasting):
                if moment <= when and (found is None or when < found) and fits(when):
                    found = when
        day += timedelta(days=1)
        spare -= found is not None
        if not spare:
            break
    return found


def _openings(windows: Sequence[Window], zone: tzinfo, midnight: datetime) -> Iterator[datetime]:
    """Moments of a day at which a window may begin, in no order."""
    for begin in {window.begin for window in windows if midnight.weekday() in window.days} | {0}:
        for fold in (0, 1):
            yield (midnight + begin * _MINUTE).replace(tzinfo=zone, fold=fold).astimezone(UTC)
    yield from _jump(zone, midnight)


def _jump(zone: tzinfo, midnight: datetime) -> Iterator[datetime]:
    """The moment in a day at which the clock is put forward or back, to the second."""
    low = midnight.replace(tzinfo=zone).astimezone(UTC)
    high = (midnight + timedelta(days=1)).replace(tzinfo=zone).astimezone(UTC)
    before = low.astimezone(zone).utcoffset()
    if high.astimezone(zone).utcoffset() == before:
        return
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    yield high
