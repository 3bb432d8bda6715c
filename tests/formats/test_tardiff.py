# SPDX-License-Identifier: Apache-2.0
"""The instructions of tar-diff, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import OciError
from bootcd.formats import tardiff
from bootcd.formats.tardiff import Add, Copy, Instruction, Open, Patch, Seek, instructions, version
from kit.deltas import MAGIC, MAGIC_2, added, copied, data, number, opened, sought

STREAM = data(b"header") + opened("usr/bin/a") + copied(300) + sought(7) + added(b"\1\2") + data(b"") + copied(0)
LARGE = st.integers(0, (1 << 63) - 1)
WRITTEN = st.one_of(
    st.binary(min_size=1, max_size=300).map(lambda content: (data(content), content)),
    st.binary(min_size=1, max_size=300).map(lambda content: (added(content), Add(content))),
    st.binary(max_size=300).map(lambda path: (opened(path), Open(path))),
    LARGE.map(lambda size: (copied(size), Copy(size))),
    LARGE.map(lambda position: (sought(position), Seek(position))),
)


def read(*pieces: bytes, number: int = 1) -> list[Instruction | bytes]:
    """All that is in the stream; the pieces of a long one together."""
    found: list[Instruction | bytes] = []
    for one in instructions(pieces, number):
        if isinstance(one, Patch):
            found.append(b"patch:" + b"".join(one.pieces))
            continue
        last = found[-1] if found else None
        if isinstance(one, bytes) and isinstance(last, bytes):
            found[-1] = last + one
        elif isinstance(one, Add) and isinstance(last, Add):
            found[-1] = Add(last.data + one.data)
        else:
            found.append(one)
    return found


def outcome(stream: bytes, number: int = 1) -> list[Instruction | bytes] | str:
    """The instructions, or why they are refused."""
    try:
        return read(stream, number=number)
    except OciError as error:
        return str(error)


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    return (stream[start : start + size] for start in range(0, len(stream), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_instruction(size: int) -> None:
    assert read(*cut(STREAM, size)) == [
        b"header", Open(b"usr/bin/a"), Copy(300), Seek(7), Add(b"\1\2"), Copy(0)]


@given(st.lists(WRITTEN, max_size=12), st.integers(1, 400))
def test_what_is_written_is_read(items: list[tuple[bytes, Instruction]], size: int) -> None:
    found = read(*cut(b"".join(stream for stream, _ in items), size))
    assert found == read(*(stream for stream, _ in items))
    assert b"".join(one if isinstance(one, bytes) else b"" for _, one in items) == b"".join(
        one for one in found if isinstance(one, bytes))
    kinds = [type(one) for _, one in items if not isinstance(one, bytes | Add)]
    assert [type(one) for one in found if not isinstance(one, bytes | Add)] == kinds


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(stream: bytes) -> None:
    said = outcome(stream, number=2)
    assert isinstance(said, list) or said.startswith("tar-diff, byte ")


@pytest.mark.parametrize("end", range(1, len(STREAM)))
def test_what_is_cut_off_says_so_or_ends_between_two(end: int) -> None:
    found = outcome(STREAM[:end])
    if isinstance(found, list):
        assert found == read(STREAM)[: len(found)]
    else:
        assert "it ends" in found


def test_pieces_are_handed_on_as_they_come() -> None:
    """Nothing waits for the four gigabytes that are claimed."""
    stream = instructions(iter([b"\0" + number(4 << 30), b"one", b"two"]))
    assert next(stream) == b"one"
    assert next(stream) == b"two"
    with pytest.raises(OciError, match="ends 4294967290 bytes too early"):
        next(stream)


@pytest.mark.parametrize(("stream", "why"), [
    (b"\5\1a", "byte 2: an instruction 5"),
    (b"\x80", "in the middle of a number"),
    (b"\7\0", "an instruction 7"),
    (b"\2" + b"\xff" * 9 + b"\0", "more than 63 bits"),
    (b"\1" + number(4097), "a path of 4097 bytes"),
    (b"\1" + number(4096) + b"a", "ends 4095 bytes too early"),
    (b"\3\2a", "ends 1 bytes too early"),
])
def test_what_makes_no_sense_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(OciError, match=why):
        read(stream)


def test_patches_belong_to_version_2() -> None:
    stream = b"\5\3abc" + data(b"d")
    assert read(stream, number=2) == [b"patch:abcd"]
    unread = [one for one in instructions([stream], 2) if not isinstance(one, Patch)]
    assert unread == [b"d"]


def test_there_is_an_end_to_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tardiff, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(OciError, match="more than 100 instructions"):
        read(sought(0) * 101)


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_the_version_stands_before_the_compressed_rest(size: int) -> None:
    for magic, expected in ((MAGIC, 1), (MAGIC_2, 2)):
        found, rest = version(cut(magic + b"rest", size))
        assert (found, b"".join(rest)) == (expected, b"rest")


@pytest.mark.parametrize("start", [b"", b"tardf1\n", b"tardf9\n\0", b"\x28\xb5\x2f\xfd1234"])
def test_what_is_no_tar_diff_is_refused(start: bytes) -> None:
    with pytest.raises(OciError, match="no tar-diff"):
        version(iter([start] if start else []))
