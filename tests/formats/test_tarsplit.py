# SPDX-License-Identifier: Apache-2.0
"""tar-split."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import OciError
from bootcd.formats.tarsplit import MAX_LINE, Content, parse

PARTS = st.lists(st.binary(min_size=1) | st.builds(Content, st.binary(min_size=1), st.integers(1, 1 << 40)))


def line(part: bytes | Content) -> bytes:
    if isinstance(part, bytes):
        return json.dumps({"type": 2, "payload": base64.b64encode(part).decode()}).encode()
    try:
        name = {"name": part.name.decode()}
    except UnicodeDecodeError:
        name = {"name_raw": base64.b64encode(part.name).decode()}
    return json.dumps({"type": 1, "size": part.size, "payload": "AAAA", **name}).encode()


@given(PARTS, st.integers(1, 50))
def test_every_part_comes_out_however_it_is_cut(parts: list[bytes | Content], step: int) -> None:
    data = b"\n".join(map(line, parts))
    assert list(parse(data[at : at + step] for at in range(0, len(data), step))) == parts


def test_what_has_no_content() -> None:
    assert list(parse([b'{"type":1,"name":"a","payload":null}\n\n{"type":2,"payload":""}\n{"type":2}\n'])) == []


WORDS = [b'{"type":1,"name":"a","size":5}', b'{"type":2,"payload":"AA=="}', b"\n", b"{", b"}", b'"', b"\xff"]


@given(st.binary() | st.lists(st.sampled_from(WORDS)).map(b"".join))
def test_any_bytes_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(OciError):
        list(parse([data]))


def test_a_line_without_end() -> None:
    with pytest.raises(OciError, match="a line of more than"):
        list(parse(b"x" * (1 << 20) for _ in range(MAX_LINE >> 10)))
