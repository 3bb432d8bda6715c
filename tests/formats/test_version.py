# SPDX-License-Identifier: Apache-2.0
"""The examples of UAPI.10, and agreement with systemd where it is installed."""

from __future__ import annotations

import random
import shutil
import subprocess
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.formats import version

ASCENDING = ["122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1",
             "123a-1", "124-1"]

EXAMPLES = [
    ("11", "==", "11"), ("systemd-123", "==", "systemd-123"), ("bar-123", "<", "foo-123"), ("123a", ">", "123"),
    ("123.a", ">", "123"), ("123.a", "<", "123.b"), ("123a", ">", "123.a"), ("11α", "==", "11β"), ("B", "<", "a"),
    ("", "<", "0"), ("0.", ">", "0"), ("0.0", ">", "0"), ("0", ">", "~"), ("", ">", "~"), ("1_", "==", "1"),
    ("_1", "==", "1"), ("1_", "<", "1.2"), ("1_2_3", ">", "1.3.3"), ("1+", "==", "1"), ("+1", "==", "1"),
    ("1+", "<", "1.2"), ("1+2+3", ">", "1.3.3"),
    ("007", "==", "7"), ("1.010", ">", "1.9"), ("", "==", ""), ("~~", ">", "~"), ("1~", "<", "1"), ("1^", ">", "1"),
    ("0", "==", "00"), ("0", ">", "a"), ("0a", ">", "a"),
    ("1-.", "<", "1-"), ("9" * 5000, "<", "1" + "0" * 5000), ("1.2", "<", "1.10"), ("a", "<", "ab"),
]
SIGNS = {-1: "<", 0: "==", 1: ">"}

texts = st.text("019aBz~^.-_+ é", max_size=12)


@pytest.mark.parametrize(("a", "sign", "b"), EXAMPLES)
def test_examples_of_the_specification(a: str, sign: str, b: str) -> None:
    assert SIGNS[version.compare(a, b)] == sign


def test_ascending_series_of_the_specification() -> None:
    for a, b in combinations(ASCENDING, 2):
        assert version.compare(a, b) == -1
        assert version.compare(b, a) == 1
    assert sorted(random.Random(1).sample(ASCENDING, len(ASCENDING)), key=version.key) == ASCENDING


@settings(deadline=None, max_examples=100)
@given(texts, texts, texts)
def test_is_an_order(a: str, b: str, c: str) -> None:
    assert version.compare(a, b) == -version.compare(b, a)
    assert version.compare(a, a) == 0
    x, y, z = sorted([a, b, c], key=version.key)
    assert version.compare(x, y) <= 0
    assert version.compare(y, z) <= 0
    assert version.compare(x, z) <= 0


@settings(deadline=None, max_examples=80)
@given(st.text("0129aBz~^.-_+", min_size=1, max_size=10), st.text("0129aBz~^.-_+", min_size=1, max_size=10))
def test_agrees_with_systemd(a: str, b: str) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    # The leading letter keeps an argument from being taken for an option.
    done = subprocess.run([program, "compare-versions", f"v{a}", f"v{b}"], capture_output=True, check=False)
    assert {0: 0, 11: 1, 12: -1}[done.returncode] == version.compare(f"v{a}", f"v{b}")
