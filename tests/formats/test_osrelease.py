# SPDX-License-Identifier: Apache-2.0
"""os-release files, well-made and otherwise."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.formats.osrelease import OsRelease, unquote

DEBIAN = b"""\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
VERSION="13 (trixie)"
ID=debian
# a comment = nothing
  HOME_URL='https://www.debian.org/'
"""


def test_debian() -> None:
    release = OsRelease.parse(DEBIAN)
    assert release.title == "Debian GNU/Linux 13 (trixie)"
    assert release.version == "13"
    assert release.label == "Debian GNU/Linux 13 (trixie) 13"
    assert release.values["HOME_URL"] == "https://www.debian.org/"


def test_what_is_missing_is_replaced() -> None:
    assert OsRelease.parse(b"").title == "Linux"
    assert OsRelease.parse(b"").version is None
    assert OsRelease.parse(b"PRETTY_NAME=\nID=x\nVERSION=9 nine\n").label == "x 9 nine"
    assert OsRelease.parse(b"IMAGE_VERSION=2026.1\nVERSION_ID=13\n").version == "2026.1"


def test_the_last_assignment_counts_even_if_it_is_broken() -> None:
    assert OsRelease.parse(b"NAME=a\nNAME=b\n").title == "b"
    assert OsRelease.parse(b"NAME=a\nID=i\nNAME=\"b\n").title == "i"


@pytest.mark.parametrize(("text", "value"), [
    ('"a b"', "a b"), ("'a \\ b'", "a \\ b"), ('"a\\"b\\$c"', 'a"b$c'), ("a'b c'\"d\"", "ab cd"), ("plain", "plain"),
    ("a\\ b", "a b"), ('"a', None), ("'a", None), ("a\\", None), ("", ""),
])
def test_quotes(text: str, value: str | None) -> None:
    assert unquote(text) == value


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert OsRelease.parse(data).title


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30))
def test_quoted_by_a_shell(text: str) -> None:
    assert unquote(shlex.quote(text)) == text
