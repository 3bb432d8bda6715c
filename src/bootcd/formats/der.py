# SPDX-License-Identifier: Apache-2.0
"""DER, as far as signatures need it: elements of one-byte tags with definite lengths (ITU-T X.690, section 10).

Nothing here calls itself: whoever reads a format goes down as far as the format does, whatever the bytes pretend.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass

BOOLEAN, INTEGER, OCTETS, OID, UTF8, TIME = 0x01, 0x02, 0x04, 0x06, 0x0C, 0x18
SEQUENCE, SET = 0x30, 0x31
MAX_ELEMENTS = 4096
"""In one element: many more than any signature has."""


class DerError(ValueError):
    """What is malformed, in words. Who reads a format says it with an error of its own."""


def context(number: int) -> int:
    """The tag of a constructed element that is called [number]."""
    return 0xA0 | number


def primitive(number: int) -> int:
    """The tag of an element that is called [number] and has no children."""
    return 0x80 | number


@dataclass(frozen=True, slots=True)
class Element:
    """An element: `content` is what is in it, `whole` is that with tag and length."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> list[Element]:
        """What a constructed element consists of. Raises DerError."""
        return list(elements(self.content))

    def child(self, number: int, tag: int) -> Element:
        """The child with that number, which has to have the tag. Raises DerError."""
        found = self.children()
        if number >= len(found) or found[number].tag != tag:
            raise DerError(f"element {number} is not of type {tag:#04x}")
        return found[number]

    def fields(self) -> Fields:
        """The children, to be taken one after the other. Raises DerError."""
        return Fields(self.children())

    def oid(self) -> str:
        """An object identifier, as 1.2.840.113549. Raises DerError."""
        data = self.content
        if self.tag != OID or not data or data[-1] & 0x80:
            raise DerError("an object identifier is malformed")
        numbers, number = [], 0
        for at, byte in enumerate(data):
            if byte == 0x80 and (at == 0 or not data[at - 1] & 0x80):
                raise DerError("an object identifier is malformed")
            number = number << 7 | byte & 0x7F
            if number.bit_length() > 64:
                raise DerError("an object identifier has a number of more than 64 bits")
            if not byte & 0x80:
                numbers.append(number)
                number = 0
        first_two = min(numbers[0] // 40, 2)
        return ".".join(map(str, (first_two, numbers[0] - 40 * first_two, *numbers[1:])))

    def integer(self, size: int = 8) -> int:
        """A number, of at most `size` bytes. Raises DerError."""
        if not 1 <= len(self.content) <= size:
            raise DerError(f"a number has {len(self.content)} bytes")
        if len(self.content) > 1 and self.content[0] in (0, 0xFF) and (self.content[0] ^ self.content[1]) & 0x80 == 0:
            raise DerError("a number is longer than it needs to be")
        return int.from_bytes(self.content, "big", signed=True)

    def time(self) -> int:
        """A GeneralizedTime, in whole seconds since 1970. Raises DerError."""
        text = self.content.decode("ascii", "replace")
        whole, dot, fraction = text.removesuffix("Z").partition(".")
        digits = whole + (fraction or "0" if dot else "0")
        if (self.tag != TIME or not text.endswith("Z") or len(whole) != 14 or len(fraction) > 9 or text.endswith(".Z")
                or not (digits.isascii() and digits.isdecimal())):
            raise DerError("a time is malformed")
        year, month, day = int(whole[:4]), int(whole[4:6]), int(whole[6:8])
        hour, minute, second = (int(whole[at:at + 2]) for at in (8, 10, 12))
        if not (year and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
                and hour < 24 and minute < 60 and second < 60):
            raise DerError("there is no such time")
        return calendar.timegm((year, month, day, hour, minute, second))


class Fields:
    """The children of a sequence, of which some may be missing."""

    def __init__(self, children: list[Element]) -> None:
        self._rest = children[::-1]

    def take(self, tag: int) -> Element:
        """The next one, which has to have the tag. Raises DerError."""
        found = self.maybe(tag)
        if found is None:
            raise DerError(f"there is no element of type {tag:#04x} where one has to be")
        return found

    def maybe(self, tag: int) -> Element | None:
        """The next one, if it has the tag."""
        return self._rest.pop() if self._rest and self._rest[-1].tag == tag else None

    def end(self) -> None:
        """Raises DerError when one is left."""
        if self._rest:
            raise DerError(f"an element of type {self._rest[-1].tag:#04x} is where none belongs")


def elements(data: bytes) -> Iterator[Element]:
    """The elements that lie one behind the other in `data`. Raises DerError."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        if at == len(data):
            return
        element = _element(data, at)
        yield element
        at += len(element.whole)
    raise DerError(f"more than {MAX_ELEMENTS} elements")


def first(data: bytes) -> Element:
    """The element at the beginning of `data`, whatever follows. Raises DerError."""
    return _element(data, 0)


def only(data: bytes, tag: int) -> Element:
    """The element that `data` is, which has to have the tag. Raises DerError."""
    element = _element(data, 0)
    if len(element.whole) != len(data):
        raise DerError("something follows the end")
    if element.tag != tag:
        raise DerError(f"it is not of type {tag:#04x}")
    return element


def _element(data: bytes, at: int) -> Element:
    if len(data) < at + 2 or data[at] & 0x1F == 0x1F:
        raise DerError("an element has no tag or no length")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        start += count
        length = int.from_bytes(data[at + 2:start], "big")
        if not 1 <= count <= 4 or start > len(data) or length < 0x80 or length >> 8 * (count - 1) == 0:
            raise DerError("a length cannot be understood")
    if start + length > len(data):
        raise DerError("an element is longer than what it is in")
    return Element(data[at], data[start : start + length], data[at : start + length])
