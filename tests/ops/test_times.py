# SPDX-License-Identifier: Apache-2.0
"""What is a time, and what stands for none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bootcd.ops.times import LATEST, moment


@pytest.mark.parametrize("text", [
    "2026-11-29T12:00:00Z", "2026-11-29T13:00:00+01:00", "2026-11-29T12:00:00.000000Z", "2026-11-29T12:00:00",
    "2026-11-29T12:00:00.000000001Z"])
def test_one_time_may_be_written_in_many_ways(text: str) -> None:
    assert moment(text) == datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", [
    "", "soon", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z",
    "1970-01-01T00:00:01Z", "1969-12-31T19:00:00-05:00", "1970-01-01T12:00:00"])
def test_what_is_none(text: str) -> None:
    assert moment(text) is None


def test_the_first_that_counts_and_the_last() -> None:
    assert moment("1970-01-02T00:00:00Z") == datetime(1970, 1, 2, tzinfo=UTC)
    for text in ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00"):
        assert moment(text) in (LATEST, None), "and no error"
    assert moment("9999-12-31T23:59:59Z") == LATEST
