# SPDX-License-Identifier: Apache-2.0
"""Results of operations as D-Bus values: dictionaries with the same keys as the JSON form.

D-Bus has no null, so what cannot be told is left out; `ops.resultjson.from_json` takes it so. Integers are `t`: all of
ours are counts, sizes and numbers.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with its D-Bus type: what a variant holds."""

    signature: str
    value: Any


_PLAIN = {str: "s", bool: "b", int: "t"}
_MAX_NUMBER = 2**64 - 1


def text(value: str) -> str:
    """A string as D-Bus can carry it: names of files may hold bytes that are no UTF-8, and nothing may hold NUL."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def line(words: str) -> str:
    """One printable line of what may hold words from outside, such as the name of an image: for places where a line is
    an assignment of its own (sd_notify), or where people read it on a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in words).split())


def encode(result: Any) -> dict[str, Typed]:
    """A result, which is a dataclass, as `a{sv}`."""
    hints = get_type_hints(type(result))
    found = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if value is not None:
            found[field.name.replace("_", "-")] = _typed(hints[field.name], value)
    return found


def encode_list(results: tuple[Any, ...]) -> list[dict[str, Typed]]:
    """Several results as `aa{sv}`."""
    return [encode(result) for result in results]


def _typed(hint: Any, value: Any) -> Typed:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not types.NoneType)
        return _typed(hint, value)
    if origin is tuple:
        inner = get_args(hint)[0]
        if is_dataclass(inner):
            return Typed("aa{sv}", encode_list(value))
        return Typed("a" + _PLAIN[inner], [_plain(item) for item in value])
    if origin is dict:
        key, item = get_args(hint)
        return Typed(f"a{{{_PLAIN[key]}{_PLAIN[item]}}}", {_plain(name): _plain(one) for name, one in value.items()})
    if is_dataclass(hint):
        return Typed("a{sv}", encode(value))
    return Typed(_PLAIN[hint], _plain(value))


def _plain(value: Any) -> Any:
    """Numbers come from outside as well; one that does not fit is told as the largest that does."""
    if isinstance(value, str):
        return text(value)
    return value if isinstance(value, bool) or not isinstance(value, int) else min(max(value, 0), _MAX_NUMBER)
