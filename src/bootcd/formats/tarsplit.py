# SPDX-License-Identifier: Apache-2.0
"""tar-split: what is needed beside the files of an unpacked tar to make the same bytes of it again.

JSON objects, one a line:

    {"type": 2, "payload": BASE64}                        bytes as they are: headers, padding, the end
    {"type": 1, "name": NAME, "size": N, "payload": …}    the content of a file; "name_raw" (base64) where the name is
                                                          not UTF-8; without size for what has no content

Nothing here is trusted: memory is bounded by the longest line that is permitted.

Source: github.com/vbatts/tar-split, tar/storage/entry.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import OciError
from .documents import JsonObject, parse_object

MAX_LINE = 16 << 20
"""Bytes. A header with all its extensions is one line; 1 MiB is what `tarheader` permits it to have."""
_FILE, _SEGMENT = 1, 2


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: `size` bytes, more than 0."""

    name: bytes
    size: int


def parse(pieces: Iterable[bytes]) -> Iterator[bytes | Content]:
    """What follows what. Raises OciError."""
    for number, line in enumerate(_lines(pieces), 1):
        entry = parse_object(line, f"tar-split, line {number}", MAX_LINE, OciError)
        kind = entry.integer("type")
        if kind == _SEGMENT:
            data = _decoded(entry, "payload")
            if data:
                yield data
        elif kind == _FILE:
            size = 0 if entry.value.get("size") is None else entry.integer("size")
            if size:
                raw = entry.value.get("name_raw")
                yield Content(_decoded(entry, "name_raw") if raw else entry.string("name").encode(), size)
        else:
            raise entry.error("type", f"{kind} is not known")


def _decoded(entry: JsonObject, key: str) -> bytes:
    try:
        return base64.b64decode(entry.optional_string(key) or "", validate=True)
    except (binascii.Error, ValueError):
        raise entry.error(key, "is not base64") from None


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from filter(None, whole)
        if len(rest) > MAX_LINE:
            raise OciError(f"tar-split: a line of more than {MAX_LINE} bytes")
    if rest.strip():
        yield rest
