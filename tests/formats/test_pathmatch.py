# SPDX-License-Identifier: Apache-2.0
"""What expressions mean, and that none of them can take much time or memory."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.formats import pathmatch
from bootcd.formats.pathmatch import Matcher, TooMuchWork
from bootcd.formats.pathregex import RegexError, parse


def matches(expression: str, path: bytes) -> bool:
    matcher = Matcher()
    matcher.add(expression)
    return matcher.feed(matcher.start(), path).matches == (0,)


@pytest.mark.parametrize(
    ("expression", "yes", "no"),
    [
        ("/a.b", [b"/a.b", b"/a\nb", b"/a\xffb"], [b"/ab", b"/a.bc", b"x/a.b"]),
        (r"/a\.b", [b"/a.b"], [b"/axb"]),
        ("/usr(/.*)?", [b"/usr", b"/usr/", b"/usr/a/b"], [b"/usrlocal"]),
        ("(^/a)", [b"/a"], [b"/b"]),
        ("/a$", [], [b"/a"]),
        ("/a*+", [b"/", b"/a", b"/aa"], [b"/b"]),
        ("/a+?b?", [b"/a", b"/aab"], [b"/b"]),
        ("/a{2}", [b"/aa"], [b"/a", b"/aaa"]),
        ("/a{2,}", [b"/aa", b"/aaaa"], [b"/a"]),
        ("/a{,2}b", [b"/b", b"/aab"], [b"/aaab"]),
        ("/a{x", [b"/a{x"], [b"/ax"]),
        ("/%{ID}.", [b"/%{ID}x"], [b"/%{ID}\n"]),
        ("/[[:alpha:]_]+", [b"/aZ_"], [b"/1", b"/\xe4"]),
        ("/[[:^digit:]]", [b"/a"], [b"/1"]),
        ("/[]a]", [b"/]", b"/a"], [b"/b"]),
        ("/[^]a]", [b"/b", b"/["], [b"/]", b"/a"]),
        (r"/[a\-c-e-]", [b"/a", b"/-", b"/d"], [b"/b"]),
        (r"/\w\d\S", [b"/_1\xff"], [b"/_1 ", b"/_x\xff"]),
        ("/é?", [b"/", b"/\xc3\xa9"], [b"/\xc3"]),
        (r"/\xff\t", [b"/\xff\t"], [b"/\xfft"]),
        ("/a|/b|", [b"/a", b"/b", b""], [b"/c"]),
        ("/(?:a|b)c", [b"/ac", b"/bc"], [b"/a"]),
    ],
)
def test_the_dialect(expression: str, yes: list[bytes], no: list[bytes]) -> None:
    assert [path for path in yes if not matches(expression, path)] == []
    assert [path for path in no if matches(expression, path)] == []


@pytest.mark.parametrize(
    "expression",
    ["*", "a|*", "(", ")", "(a", "a)", "[", "[a", "[]", "[^]", "[z-a]", "[a[b]]", "[[:foo:]]",
     "[a&&b]", "[a--b]", "[é]", "a{2,1}",
     "a{9999}", "a{1,x}", "\\", r"\1", r"\b", r"\<", r"\pL", r"\x", r"\x{ff}", r"\Q", "(?i)a", "(?=a)", "(?P<n>a)",
     "(?", "(a|^b)", "a****", "(" * 100 + ")" * 100, "a" * 5000, "(a{1000}){1000}", "(((){1000}){1000}){1000}"],
)  # fmt: skip
def test_what_is_not_supported_is_refused(expression: str) -> None:
    with pytest.raises(RegexError):
        Matcher().add(expression)


_simple = st.recursive(
    st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a]", r"\.", ""]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}"])),
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(_simple, st.lists(st.text("ab/.c", max_size=8).map(str.encode), min_size=1, max_size=10))
def test_simple_expressions_mean_what_they_mean_elsewhere(expression: str, paths: list[bytes]) -> None:
    known = re.compile(expression.encode(), re.DOTALL)
    for path in paths:
        assert matches(expression, path) == (known.fullmatch(path) is not None)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab/.*+?()[]{}|^$\\-,:=19é \n&dQx"), max_size=15))
def test_any_text_is_an_expression_or_an_error(expression: str) -> None:
    try:
        parse(expression)
        matches(expression, b"/a/b")
    except RegexError:
        pass


def test_the_last_rule_wins_within_each_kind() -> None:
    matcher = Matcher()
    for expression, kind in [("/.*", 0), ("/a.*", 7), ("/a", 0), ("/ab", 0), ("/ab", 7), ("/abc", 8)]:
        matcher.add(expression, kind)
    start = matcher.start()
    assert matcher.feed(start, b"/x").matches == (0,)
    assert matcher.feed(start, b"/a").matches == (2,)
    assert matcher.feed(start, b"/ab").matches == (4, 3)
    assert matcher.feed(matcher.feed(start, b"/ab"), b"c").matches == (5, 1, 0)


@pytest.mark.parametrize("expression", ["(a+)+b", "(a*)*b", "(.*)*x", "(a|a)*b", ".*.*.*.*.*.*.*x", "(a|aa)+" * 10])
def test_no_expression_backtracks(expression: str) -> None:
    begin = time.process_time()
    assert not matches(expression, b"a" * 5000 + b"c")
    assert time.process_time() - begin < 5


def test_states_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathmatch, "WORK_MAX", 1_000_000)
    monkeypatch.setattr(pathmatch, "CACHE_MAX", 10_000)
    matcher = Matcher()
    for i in range(60):
        matcher.add(f".*{chr(97 + i % 26)}.{{{900 - i}}}")
    path = bytes((i * i * i + 7 * i) % 26 + 97 for i in range(4000))
    with pytest.raises(TooMuchWork):
        matcher.feed(matcher.start(), path)


def test_a_small_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathmatch, "CACHE_MAX", 30)
    matcher = Matcher()
    for expression in ("/.*", "/[a-f]+", "/.*x", "/(ab|cd)*"):
        matcher.add(expression)
    start = matcher.start()
    directory = matcher.feed(start, b"/a")
    for i in range(300):
        matcher.feed(start, b"/%d" % i)
    assert matcher.feed(directory, b"b").matches == (3,)
    assert matcher.feed(directory, b"c").matches == (1,)
    assert matcher.feed(directory, b"7x").matches == (2,)
