# SPDX-License-Identifier: Apache-2.0
"""Elements of DER, and bytes that are none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.formats import der
from bootcd.formats.der import DerError, Element
from kit.timestamping import integer, oid, sequence, tlv


@pytest.mark.parametrize(("data", "says"), [
    ("", "no tag or no length"), ("30", "no tag or no length"), ("1f8100", "no tag or no length"),
    ("3080", "a length cannot be understood"), ("308500000000", "a length cannot be understood"),
    ("308105", "a length cannot be understood"), ("30820080" + "00" * 128, "a length cannot be understood"),
    ("3082", "a length cannot be understood"), ("3005", "longer than what it is in"),
    ("3084ffffffff", "longer than what it is in"), ("300000", "something follows the end"),
    ("3100", "is not of type"),
])
def test_what_is_none(data: str, says: str) -> None:
    with pytest.raises(DerError, match=says):
        der.only(bytes.fromhex(data), der.SEQUENCE)


@given(st.recursive(st.binary(max_size=200).map(lambda content: tlv(0x04, content)),
                    lambda inner: st.lists(inner, max_size=5).map(lambda parts: sequence(*parts)), max_leaves=20))
def test_what_is_written_is_read(data: bytes) -> None:
    element = der.first(data + b"more")
    assert element.whole == data
    assert b"".join(one.whole for one in der.elements(data * 3)) == data * 3
    if element.tag == der.SEQUENCE:
        assert b"".join(one.whole for one in element.children()) == element.content


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_numbers(number: int) -> None:
    shortest = number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True)
    assert Element(der.INTEGER, shortest, b"").integer() == number
    with pytest.raises(DerError):
        Element(der.INTEGER, (b"\xff" if number < 0 else b"\0") + shortest, b"").integer()


def test_numbers_are_bounded() -> None:
    assert der.first(integer(1 << 62)).integer() == 1 << 62
    for content in (b"", bytes([1] + [0] * 8)):
        with pytest.raises(DerError, match="a number has"):
            Element(der.INTEGER, content, b"").integer()
    assert Element(der.INTEGER, bytes([1] + [0] * 8), b"").integer(32) == 1 << 64


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, (1 << 64) - 1), max_size=5))
def test_object_identifiers(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.first(oid(dotted)).oid() == dotted


@pytest.mark.parametrize("data", ["0600", "060180", "06028001", "06032a8001", "0601ff", "0400",
                                  "060c2a" + "ff" * 10 + "7f"])
def test_what_is_no_object_identifier(data: str) -> None:
    with pytest.raises(DerError, match=r"object identifier"):
        der.first(bytes.fromhex(data)).oid()


def test_times() -> None:
    for text in (b"20260513192333Z", b"20260513192333.5Z", b"20260513192333.123456Z"):
        assert der.first(tlv(der.TIME, text)).time() == 1778700213
    for text in (b"20260513192333", b"260513192333Z", b"20260513192333+0100", b"2026051319233Z", b"20260513192333.Z",
                 b"20260513192333.5.5Z", b"20260513 19233Z", b"+0260513192333Z", b"20261313192333Z", b"20260230000000Z",
                 b"20260513240000Z", b"00000101000000Z", b"20260513192333.1234567890Z", b"\xff" * 15, b"ZZ", b""):
        with pytest.raises(DerError):
            der.first(tlv(der.TIME, text)).time()
    with pytest.raises(DerError):
        der.first(tlv(0x17, b"20260513192333Z")).time()


def test_sequences_in_order() -> None:
    fields = der.first(sequence(integer(5), tlv(der.OCTETS, b"x"))).fields()
    assert fields.maybe(der.OCTETS) is None
    assert fields.take(der.INTEGER).integer() == 5
    with pytest.raises(DerError, match="there is no element of type 0x30"):
        fields.take(der.SEQUENCE)
    with pytest.raises(DerError, match="an element of type 0x04 is where none belongs"):
        fields.end()
    fields.take(der.OCTETS)
    fields.end()


def test_elements_are_bounded() -> None:
    with pytest.raises(DerError, match="more than 4096 elements"):
        der.first(sequence(*[b"\x05\0"] * (der.MAX_ELEMENTS + 1))).children()


@given(st.binary(max_size=60))
def test_anything_is_read_or_refused(data: bytes) -> None:
    try:
        for element in der.elements(data):
            element.children()
    except DerError:
        pass
    for read in (Element.oid, Element.integer, Element.time):
        with contextlib.suppress(DerError):
            read(der.first(data))
