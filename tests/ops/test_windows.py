# SPDX-License-Identifier: Apache-2.0
"""Weekly windows are those of the clock on the wall, whatever happens to that clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import UsageError
from bootcd.ops.windows import is_open, next_open
from bootcd.schedule import Window, parse_duration, parse_window

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [UTC, BERLIN, ZoneInfo("America/St_Johns"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kathmandu"),
         ZoneInfo("Africa/Casablanca"), timezone(timedelta(hours=-12))]
"""Half hours, a change by half an hour, one at midnight, one that pauses for a month."""

windows = st.builds(
    lambda days, begin, length: Window(frozenset(days), begin, (begin + length) % 1440 or 1440),
    st.sets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(1, 1439))
moments = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 1)).map(lambda when: when.replace(tzinfo=UTC))


def at(text: str, zone: tzinfo = BERLIN) -> datetime:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=zone)).astimezone(UTC)


def opening(text: str, after: str, zone: tzinfo = BERLIN, lasting: str = "0") -> str:
    when = next_open([parse_window(text)], zone, at(after, zone), parse_duration(lasting))
    return when.astimezone(zone).isoformat(timespec="minutes") if when is not None else "never"


@pytest.mark.parametrize(("text", "days", "begin", "end"), [
    ("02:00-06:00", "0123456", 120, 360),
    ("Sat,Sun 02:00-06:00", "56", 120, 360),
    ("Mon..Fri 22:00-04:00", "01234", 1320, 240),
    ("fri..mon 00:00-24:00", "0456", 0, 1440),
    ("Mon,Wed..Thu 10:15 - 10:16", "023", 615, 616),
    ("Sun 23:00-00:00", "6", 1380, 0),
])
def test_windows_as_they_are_written(text: str, days: str, begin: int, end: int) -> None:
    assert parse_window(text) == Window(frozenset(map(int, days)), begin, end)


@pytest.mark.parametrize("text", [
    "", "Sat", "2:00-4:00", "02:00", "02:00-02:00", "24:00-01:00", "00:00-24:01", "02:60-03:00", "Son 02:00-03:00",
    "Mon.. 02:00-03:00", ",Mon 02:00-03:00", "Mon...Tue 02:00-03:00", "Mon Tue 02:00-03:00", "02:00-03:00 Mon",
    "Sat 02:00-06:00\nSun 02:00-06:00", "Sat ٠٢:٠٠-٠٣:٠٠", "02:00–03:00",
])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(UsageError):
        parse_window(text)


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0), ("90min", 5400), ("6h", 21600), ("1d 12h", 129600), ("2w", 1209600), ("30s", 30), ("1h30min", 5400)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "6", "h", "-1h", "1.5h", "6 hours", "1y", "9999999h", "٦h", "0h0", "5218w",
                                  "999999w " * 1000])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_a_window_may_cross_midnight_and_belongs_to_the_day_on_which_it_begins() -> None:
    night = [parse_window("Fri 22:00-04:00")]
    assert is_open(night, BERLIN, at("2026-11-27 22:00"))
    assert is_open(night, BERLIN, at("2026-11-28 03:59:59"))
    assert not is_open(night, BERLIN, at("2026-11-28 04:00"))
    assert not is_open(night, BERLIN, at("2026-11-28 22:00"))
    assert opening("Fri 22:00-04:00", "2026-11-28 04:00") == "2026-12-04T22:00+01:00"
    assert opening("Fri 22:00-04:00", "2026-11-28 01:30") == "2026-11-28T01:30+01:00", "it is open"


def test_no_windows_are_always_open() -> None:
    assert is_open([], BERLIN, at("2026-11-28 01:30"))


def test_an_hour_that_does_not_exist_is_in_no_window() -> None:
    """On 29 March 2026 clocks in Berlin go from 02:00 to 03:00."""
    assert opening("Sun 02:00-03:00", "2026-03-28 12:00") == "2026-04-05T02:00+02:00"
    assert opening("Sun 02:30-04:00", "2026-03-28 12:00") == "2026-03-29T03:00+02:00", "what is left of it"
    assert opening("Sun 01:00-02:30", "2026-03-28 12:00") == "2026-03-29T01:00+01:00"
    assert not is_open([parse_window("Sun 01:00-02:30")], BERLIN, at("2026-03-29T01:30+00:00")), "the wall says 03:30"


def test_an_hour_that_comes_twice_is_in_it_both_times() -> None:
    """On 25 October 2026 clocks in Berlin go from 03:00 back to 02:00."""
    window = [parse_window("Sun 02:00-03:00")]
    begin = at("2026-10-25T00:00+00:00")
    assert opening("Sun 02:00-03:00", "2026-10-24 12:00") == "2026-10-25T02:00+02:00"
    assert all(is_open(window, BERLIN, begin + timedelta(minutes=minutes)) for minutes in range(120))
    assert not is_open(window, BERLIN, begin + timedelta(minutes=120))
    # One that has gone by opens again when the clock is put back into it.
    assert opening("Sun 02:30-02:40", "2026-10-25T02:45+02:00") == "2026-10-25T02:30+01:00"


def test_the_warning_before_a_reboot_is_in_the_window_as_well() -> None:
    assert opening("Sun 02:00-03:00", "2026-11-29 02:50", lasting="10min") == "2026-12-06T02:00+01:00"
    assert opening("Sun 02:00-03:00", "2026-11-29 02:49", lasting="10min") == "2026-11-29T02:49+01:00"
    assert opening("Sun 02:00-02:05", "2026-11-29 01:00", lasting="10min") == "never"


@given(windows, st.sampled_from(ZONES), moments, st.sampled_from(["0", "10min", "3h"]))
def test_what_is_found_is_the_first_moment_in_a_window(
        window: Window, zone: tzinfo, moment: datetime, lasting: str) -> None:
    length = parse_duration(lasting)

    def fits(when: datetime) -> bool:
        return is_open([window], zone, when) and is_open([window], zone, when + length)

    found = next_open([window], zone, moment, length)
    if found is None:
        assert not any(fits(moment + timedelta(minutes=10 * number)) for number in range(14 * 144))
        return
    assert found >= moment
    assert fits(found)
    if found > moment:
        assert not fits(found - timedelta(seconds=1))
        steps = max((found - moment) // timedelta(minutes=97), 1)
        assert not any(fits(moment + (found - moment) * number / steps) for number in range(steps))
