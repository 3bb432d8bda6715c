# SPDX-License-Identifier: Apache-2.0
"""Which values fit which D-Bus types: compared with the library that has to marshal them."""

from __future__ import annotations

from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.daemon.signatures import fit, is_path, plain, printable, split
from bootcd.daemon.wire import Typed

BASIC = st.sampled_from("ybnqiuxtdsog")
TYPES = st.recursive(
    BASIC | st.just("v"),
    lambda inner: inner.map(lambda one: "a" + one) | st.lists(inner, min_size=1, max_size=3).map(
        lambda some: f"({''.join(some)})") | st.tuples(BASIC, inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}"),
    max_leaves=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2**65, 2**65) | st.floats() | st.text() | st.binary(max_size=3)
    | st.just("/a") | st.builds(Typed, st.sampled_from(["s", "u", "", "ss", "as", "x("]), st.text() | st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(
        st.text() | st.integers(0, 300), inner, max_size=3), max_leaves=5)


@settings(deadline=None)
@given(st.lists(TYPES, max_size=5))
def test_split(types: list[str]) -> None:
    assert split("".join(types)) == tuple(types)
    assert [kind.signature for kind in SignatureTree("".join(types)).types] == types


@pytest.mark.parametrize("signature", ["a", "(", ")", "()", "(s", "a{", "a{s}", "a{sv", "a{vs}", "a{(s)s}", "{sv}", "h",
                                       "ah", "z", "s ", "a{svs}", "s" * 256, "a" * 40 + "s", "(" * 40 + "s" + ")" * 40])
def test_no_signatures(signature: str) -> None:
    with pytest.raises(ValueError, match=r"signature|deep"):
        split(signature)


def library(value: Any) -> Any:
    if isinstance(value, Typed):
        return Variant(value.signature, library(value.value))
    if isinstance(value, list | tuple):
        return [library(item) for item in value]
    return {key: library(item) for key, item in value.items()} if isinstance(value, dict) else value


@settings(deadline=None)
@given(TYPES, ANYTHING)
def test_what_fits_can_be_sent(kind: str, value: Any) -> None:
    try:
        fitted = fit(kind, value)
    except (TypeError, ValueError):
        return
    message = Message(path="/a", member="A", signature=kind, body=[library(fitted)], serial=1)
    assert message._marshall()
    assert fit(kind, fitted) == fitted or "nan" in repr(fitted)


@pytest.mark.parametrize(("kind", "value", "fitted"), [
    ("s", "a\0b\udc80c", "a\ufffdb\ufffdc"), ("s", "ä€\U0001f600", "ä€\U0001f600"),
    ("d", 1, 1.0), ("as", ("a", "b"), ["a", "b"]), ("(su)", ["a", 1], ("a", 1)), ("a(ss)", [["a", "b"]], [("a", "b")]),
    ("a{sv}", {"x": Typed("as", ("a",))}, {"x": Typed("as", ["a"])}), ("ay", b"x", b"x"),
    ("v", Typed("u", 1), Typed("u", 1)),
])
def test_fit(kind: str, value: Any, fitted: Any) -> None:
    assert fit(kind, value) == fitted


@pytest.mark.parametrize(("kind", "value"), [
    ("s", b"x"), ("s", None), ("s", 1), ("b", 1), ("b", 0), ("u", True), ("u", -1), ("u", 2**32), ("t", 2**64),
    ("y", 256), ("n", 2**15), ("u", "1"), ("u", 1.0), ("o", ""), ("o", "a"), ("o", "/a/"), ("o", "//a"), ("o", "/a\n"),
    ("o", "/ä"), ("g", "a"), ("as", "text"), ("as", ["a", 1]), ("as", {"a"}), ("(su)", ["a"]), ("(su)", ["a", 1, 2]),
    ("a{sv}", {"x": 1}), ("a{sv}", [("x", Typed("u", 1))]), ("a{sv}", {1: Typed("u", 1)}), ("v", 1),
    ("v", Typed("ss", "x")), ("v", Typed("", "x")), ("v", Typed("u", "x")), ("ay", [1]), ("d", True),
])
def test_misfits(kind: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fit(kind, value)


def test_a_fitted_value_is_a_copy() -> None:
    mine = {"x": Typed("as", ["a"])}
    kept = fit("a{sv}", mine)
    mine["x"].value.append("b")
    mine["y"] = Typed("u", 1)
    assert kept == {"x": Typed("as", ["a"])}


def test_plain() -> None:
    assert plain([Typed("v", Typed("a{sv}", {"x": Typed("(su)", ("a", 1))}))]) == [{"x": ["a", 1]}]


@settings(deadline=None)
@given(st.text(st.characters()))
def test_printable(text: str) -> None:
    assert "\0" not in printable(text)
    printable(text).encode()
    assert len(printable(text)) == len(text)


def test_is_path() -> None:
    assert is_path("/")
    assert is_path("/org/bootcd1/job/_1")
    assert not any(map(is_path, ("", "a", "/a/", "//", "/a-b", "/a\n", "/a b")))
