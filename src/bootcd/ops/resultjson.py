# SPDX-License-Identifier: Apache-2.0
"""The JSON form of results, there and back: what `--json` prints, workers answer and files keep.

Field names become keys with dashes, tuples lists; the rest is as JSON has it.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import FormatError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The JSON form of a result."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name.replace("_", "-"): to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], document: object) -> T:
    """The result of class `kind` whose JSON form is `document`. Unknown keys are ignored, since a newer version may
    have written them; keys with a default may be missing. Raises FormatError."""
    value: T = _read(kind, document, kind.__name__)
    return value


def _read(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (one for one in get_args(kind) if one is not types.NoneType)
        return None if value is None else _read(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(get_args(kind)[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_read(str, key, where): _read(get_args(kind)[1], item, where) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_fields(kind, value, where)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise FormatError(f"{where}: unexpected {type(value).__name__}")


def _read_fields(kind: Any, document: dict[str, object], where: str) -> Any:
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):
        key = field.name.replace("_", "-")
        if key in document:
            values[field.name] = _read(hints[field.name], document[key], f"{where}: {key}")
        elif types.NoneType in get_args(hints[field.name]):
            values[field.name] = None  # what cannot be told is left out on D-Bus, which has no null
        elif field.default is MISSING and field.default_factory is MISSING:
            raise FormatError(f"{where}: '{key}' is missing")
    return kind(**values)
