# SPDX-License-Identifier: Apache-2.0
"""DER, as far as signatures need it: elements of one-byte tags with definite lengths (ITU-T X.690)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import PeError

INTEGER, OCTETS, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
MAX_ELEMENTS = 4096
"""In one element: many more than any signature has."""


def context(number: int) -> int:
    """The tag of a constructed element that is called [number]."""
    return 0xA0 | number


@dataclass(frozen=True, slots=True)
class Element:
    """An element: `content` is what is in it, `whole` is that with tag and length."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> list[Element]:
        """What a constructed element consists of. Raises PeError."""
        return list(elements(self.content))

    def child(self, number: int, tag: int) -> Element:
        """The child with that number, which has to have the tag. Raises PeError."""
        found = self.children()
        if number >= len(found) or found[number].tag != tag:
            raise PeError(f"the signature is malformed: element {number} is not of type {tag:#04x}")
        return found[number]


def elements(data: bytes) -> Iterator[Element]:
    """The elements that lie one behind the other in `data`. Raises PeError."""
    at = 0
    for _ in range(MAX_ELEMENTS):
        if at == len(data):
            return
        element = first(data[at:])
        yield element
        at += len(element.whole)
    raise PeError(f"the signature is malformed: more than {MAX_ELEMENTS} elements")


def first(data: bytes) -> Element:
    """The element at the beginning of `data`. Raises PeError."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise PeError("the signature is malformed: an element has no tag or no length")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        if not 1 <= length & 0x7F <= 4 or start > len(data):
            raise PeError("the signature is malformed: a length cannot be understood")
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise PeError("the signature is malformed: an element is longer than what it is in")
    return Element(data[0], data[start : start + length], data[: start + length])
