# SPDX-License-Identifier: Apache-2.0
"""JSON from outside, read strictly: one object, in UTF-8, without duplicate keys, with bounded numbers and depth.

What is asked for must have its type; errors name the path of what is wrong, such as `manifest.layers[2].size`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from ..errors import FormatError
from ..model import is_digest

_MAX_SIZE = 1 << 48
"""Bytes of one blob. No registry holds a larger one, and the sum of all that a manifest can list fits into 64 bits."""
_MAX_DIGITS = 20
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._/-]{1,120}")


def parse_object(data: bytes, name: str, limit: int, kind: type[FormatError]) -> JsonObject:
    """The object that a document is, whose path begins with `name`. Raises `kind`, also when it has more than `limit`
    bytes."""
    if len(data) > limit:
        raise kind(f"{name}: larger than {limit} bytes")
    try:
        value = DECODER.decode(bytes(data).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise kind(f"{name}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise kind(f"{name}: nested too deeply") from None
    except ValueError as error:  # JSONDecodeError says line and column, our hooks say what
        raise kind(f"{name}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise kind(f"{name}: expected an object")
    return JsonObject(name, value, kind)


def shown(text: str) -> str:
    """Foreign text as messages quote it."""
    return json.dumps(text if len(text) <= 120 else text[:119] + "…")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {shown(key)} appears twice in one object")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant)
"""Reads JSON as all of this is read; raises ValueError and RecursionError."""


class JsonObject:
    """A JSON object that knows its path, and the error that is raised about it. `null` counts as absent, since Go
    writes it for empty maps and slices."""

    __slots__ = ("kind", "path", "value")

    def __init__(self, path: str, value: dict[str, Any], kind: type[FormatError]) -> None:
        self.path = path
        self.value = value
        self.kind = kind

    def error(self, key: str, what: str) -> FormatError:
        return self.kind(f"{self.path}.{key}: {what}")

    def only(self, *keys: str) -> None:
        """Raises when there is any other key: what is not understood may be what matters."""
        for key in self.value:
            if key not in keys:
                name = key if _PLAIN_KEY.fullmatch(key) else shown(key)
                raise self.kind(f"{self.path}: unknown key '{name}', expected {', '.join(keys) or 'none'}")

    def string(self, key: str) -> str:
        return self._text(key, self.value.get(key), "expected a string")

    def optional_string(self, key: str) -> str | None:
        return None if self.value.get(key) is None else self.string(key)

    def decoded(self, key: str) -> bytes:
        """Bytes that are written in base64."""
        return self._decoded(key, self.string(key))

    def decoded_list(self, key: str) -> tuple[bytes, ...]:
        """A list of such; absent is empty."""
        return tuple(self._decoded(f"{key}[{i}]", text) for i, text in enumerate(self.string_list(key)))

    def integer(self, key: str) -> int:
        value = self.value.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "expected an integer")
        if not 0 <= value <= _MAX_SIZE:
            raise self.error(key, f"{value} is out of range")
        return value

    def digest(self, key: str) -> str:
        return self._digest(key, self.string(key))

    def digests(self, key: str) -> tuple[str, ...]:
        return tuple(self._digest(f"{key}[{i}]", text) for i, text in enumerate(self.string_list(key, required=True)))

    def object(self, key: str) -> JsonObject:
        value = self.value.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "expected an object")
        return JsonObject(f"{self.path}.{key}", value, self.kind)

    def optional_object(self, key: str) -> JsonObject:
        return JsonObject(f"{self.path}.{key}", {}, self.kind) if self.value.get(key) is None else self.object(key)

    def objects(self, key: str) -> list[JsonObject]:
        items = [JsonObject(f"{self.path}.{key}[{i}]", item, self.kind)
                 for i, item in enumerate(self._array(key, required=True))]
        for item in items:
            if not isinstance(item.value, dict):
                raise self.kind(f"{item.path}: expected an object")
        return items

    def strings(self, key: str) -> dict[str, str]:
        """A map of strings; absent is empty."""
        map_ = self.optional_object(key)
        return {
            map_._text(label, name, ""): map_._text(label, value, "expected a string")
            for name, value in map_.value.items()
            for label in [name if _PLAIN_KEY.fullmatch(name) else shown(name)]
        }

    def string_list(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        items = self._array(key, required=required)
        return tuple(self._text(f"{key}[{i}]", item, "expected a string") for i, item in enumerate(items))

    def _array(self, key: str, *, required: bool) -> list[Any]:
        value = self.value.get(key)
        if value is None and (key in self.value or not required):
            return []
        if not isinstance(value, list):
            raise self.error(key, "expected an array")
        return value

    def _decoded(self, key: str, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise self.error(key, "is not base64") from None

    def _digest(self, key: str, text: str) -> str:
        if not is_digest(text):
            raise self.error(key, f"{shown(text)} is no sha256 or sha512 digest")
        return text

    def _text(self, key: str, value: Any, what: str) -> str:
        if not isinstance(value, str):
            raise self.error(key, what)
        # A lone surrogate (written \ud800) is no text: it could be neither stored nor printed.
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise self.error(key, "has a lone surrogate")
        return value
