# SPDX-License-Identifier: Apache-2.0
"""A fleet takes an image as fast as the image says, each machine knows its place, and no place is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.ops import rollout
from bootcd.ops.rollout import DURATION, PERCENT, PREFIX, START, Rollout, RolloutError

BEGIN = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
FLEET = [f"{number:032x}" for number in range(2000)]


def taking(plan: Rollout, image: str, when: datetime, wariness: float = 0.5) -> set[str]:
    """The machines of the fleet whose turn has come."""
    return {one for one in FLEET if plan.takes(rollout.place(one, image, wariness), when)}


def test_the_share_grows_evenly() -> None:
    plan = rollout.read({START: BEGIN.isoformat(), DURATION: "2d"}, None)
    assert plan is not None
    assert [plan.share(BEGIN + DAY * days) for days in (-1, 0, 0.5, 1, 2, 9)] == [0, 0, 0.25, 0.5, 1, 1]
    shares = [len(taking(plan, "a", BEGIN + DAY * days)) / len(FLEET) for days in (-1, 0.5, 1, 1.5, 2)]
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.04)


def test_who_has_it_keeps_its_turn_and_another_image_has_another_order() -> None:
    small, large = (rollout.read({PERCENT: percent}, None) for percent in ("10", "50"))
    assert small is not None
    assert large is not None
    first = taking(small, "a", BEGIN)
    assert len(first) == pytest.approx(200, abs=50)
    assert first < taking(large, "a", BEGIN), "published again for more"
    others = taking(small, "b", BEGIN)
    assert len(first & others) == pytest.approx(20, abs=20), "no machine is always the first"


def test_wariness_moves_a_machine() -> None:
    plan = rollout.read({START: BEGIN.isoformat(), DURATION: "100h"}, None)
    assert plan is not None
    hours = {wariness: [len(taking(plan, "a", BEGIN + timedelta(hours=hour), wariness)) for hour in (0, 1, 50, 99, 100)]
             for wariness in (0.0, 0.25, 0.75, 1.0)}
    assert hours[0.0] == [0, 2000, 2000, 2000, 2000], "as soon as the share is not nothing"
    assert hours[1.0] == [0, 0, 0, 0, 2000]
    assert hours[0.25][2] == 2000
    assert hours[0.75][2] == 0
    assert hours[0.25][1] == pytest.approx(1020, abs=80), "half of them are among the first"


def test_nobody_and_everybody() -> None:
    for percent, count in (("0", 0), ("100", len(FLEET))):
        plan = rollout.read({PERCENT: percent}, BEGIN)
        assert plan is not None
        assert len(taking(plan, "a", BEGIN)) == count
        assert len(taking(plan, "a", BEGIN, 0.0)) == count
    assert rollout.read({}, BEGIN) is None
    assert rollout.read({START: "", PERCENT: ""}, BEGIN) is None


def test_it_begins_when_the_image_was_created_or_when_it_says() -> None:
    assert rollout.read({DURATION: "1d"}, BEGIN) == Rollout(BEGIN, DAY, 1.0)
    assert rollout.read({DURATION: "1d", START: "2026-11-30T13:00:00+01:00"}, BEGIN) == Rollout(BEGIN + DAY, DAY, 1.0)
    with pytest.raises(RolloutError, match="nor a time of creation"):
        rollout.read({DURATION: "1d"}, None)


@given(st.dictionaries(st.sampled_from([START, DURATION, PERCENT, PREFIX + "x"]), st.text(max_size=40)))
def test_whatever_an_image_says_it_is_understood_or_refused(said: dict[str, str]) -> None:
    try:
        plan = rollout.read(said, BEGIN)
    except RolloutError as error:
        complaint = str(error)
        plan = None
    else:
        complaint = ""
    assert complaint.isprintable()
    assert plan is None or 0 <= plan.share(BEGIN) <= 1


@given(st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 100))
def test_the_turn_that_is_told_is_the_one(place: float, seconds: int, percent: int) -> None:
    plan = Rollout(BEGIN, timedelta(seconds=seconds), percent / 100)
    turn = plan.turn(place)
    if turn is None:
        assert not plan.takes(place, BEGIN + 1000 * DAY)
    elif not plan.takes(place, BEGIN - DAY):
        assert plan.takes(place, turn)
        assert not plan.takes(place, turn - timedelta(seconds=3))


def test_a_machine_without_an_id_waits_for_the_end() -> None:
    assert rollout.place("", "a", 0.0) == 1.0


def test_what_is_kept_of_annotations_is_little() -> None:
    said = {f"{PREFIX}{number:03}": "x" * 1000 for number in range(100)} | {"org.example": "y"}
    kept = rollout.sayings(said)
    assert len(kept) == 8
    assert all(len(text) == 100 for text in kept.values())
    assert rollout.unknown(kept) == tuple(kept)
