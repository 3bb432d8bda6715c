# SPDX-License-Identifier: Apache-2.0
"""D-Bus types: whether a Python value fits one.

`fit` is the gate for everything that leaves the daemon. A value that got through it can be marshalled, so an object
whose properties were checked when they were set never fails to show them.

    y n q i u x t   int in range      b  bool       d  float, int       s  str       o g  str in their grammar
    v               Typed             aX list, tuple                    ay bytes     a{KV} dict     (...) list, tuple
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .wire import Typed

_RANGES = {
    "y": (0, 2**8 - 1), "n": (-2**15, 2**15 - 1), "q": (0, 2**16 - 1), "i": (-2**31, 2**31 - 1), "u": (0, 2**32 - 1),
    "x": (-2**63, 2**63 - 1), "t": (0, 2**64 - 1),
}
_BASIC = frozenset("ybnqiuxtdsog")
_PATH = re.compile(r"/(?:[A-Za-z0-9_]+(?:/[A-Za-z0-9_]+)*)?")
_UNSENDABLE = re.compile("[\0\ud800-\udfff]")
_MAX_SIGNATURE = 255
_MAX_DEPTH = 32
"""Of arrays, and again of structs (D-Bus specification, "Valid Signatures")."""


@lru_cache(maxsize=512)
def split(signature: str) -> tuple[str, ...]:
    """The complete types of a signature. Raises ValueError when it has none. No type is `h`: we pass no files."""
    if len(signature) > _MAX_SIGNATURE:
        raise ValueError("a signature of more than 255 characters")
    found = []
    start = 0
    while start < len(signature):
        end = _end(signature, start, 0, 0)
        found.append(signature[start:end])
        start = end
    return tuple(found)


def fit(type: str, value: Any) -> Any:
    """The value as it is sent and kept: a copy, arrays as lists, structs as tuples, no part shared with the caller.

    A character that D-Bus has no way to send (NUL, half of a surrogate pair, as in file names that are no UTF-8)
    becomes U+FFFD: such text comes from outside and must not keep an object from being shown. Raises TypeError or
    ValueError when the value is not of that type.
    """
    match type[0]:
        case "s":
            return printable(_of(str, type, value))
        case "o":
            if not is_path(_of(str, type, value)):
                raise ValueError(f"no object path: {value!r}")
            return value
        case "g":
            split(_of(str, type, value))
            return value
        case "b":
            return _of(bool, type, value)
        case "d":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{value!r} is not of the type d")
            return float(value)
        case "v":
            (inner,) = split(_of(Typed, type, value).signature)
            return Typed(inner, fit(inner, value.value))
        case "a" if type[1] == "{":
            key, item = split(type[2:-1])
            return {fit(key, name): fit(item, one) for name, one in _of(Mapping, type, value).items()}
        case "a" if type == "ay":
            return bytes(_of(bytes, type, value))
        case "a":
            return [fit(type[1:], item) for item in _of((list, tuple), type, value)]
        case "(":
            members = split(type[1:-1])
            if len(_of((list, tuple), type, value)) != len(members):
                raise TypeError(f"{value!r} is not of the type {type}")
            return tuple(fit(member, item) for member, item in zip(members, value, strict=True))
        case code:
            low, high = _RANGES[code]
            if isinstance(value, bool) or not low <= _of(int, type, value) <= high:
                raise ValueError(f"{value!r} is not of the type {type}")
            return int(value)


def plain(value: Any) -> Any:
    """The value without the types of its variants."""
    if isinstance(value, Typed):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def is_path(text: str) -> bool:
    """Whether it is an object path."""
    return _PATH.fullmatch(text) is not None


def printable(text: str) -> str:
    """The text with what D-Bus cannot send replaced."""
    return _UNSENDABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _of(kind: Any, type: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not of the type {type}")
    return value


def _end(signature: str, start: int, arrays: int, structs: int) -> int:
    """Where the complete type ends that begins at `start`."""
    code = signature[start:start + 1]
    if arrays > _MAX_DEPTH or structs > _MAX_DEPTH:
        raise ValueError(f"too deep: {signature}")
    if code in _BASIC or code == "v":
        return start + 1
    if code == "a" and signature[start + 1:start + 2] == "{":
        if signature[start + 2:start + 3] not in _BASIC:
            raise ValueError(f"no signature: {signature}")
        end = _end(signature, start + 3, arrays + 1, structs + 1)
        if signature[end:end + 1] == "}":
            return end + 1
    elif code == "a":
        return _end(signature, start + 1, arrays + 1, structs)
    elif code == "(":
        end = start + 1
        while signature[end:end + 1] != ")":
            end = _end(signature, end, arrays, structs + 1)
        if end > start + 1:
            return end + 1
    raise ValueError(f"no signature: {signature}")
