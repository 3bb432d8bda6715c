# SPDX-License-Identifier: Apache-2.0
"""A tar made of a tar-diff and old files."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import DeltaUnusable, OciError
from bootcd.registry import tarpatch
from bootcd.registry.tarpatch import patched
from kit.deltas import MAGIC, MAGIC_2, added, copied, data, difference, number, opened, sought, tar_diff
from kit.deltas import patched as as_patch
from kit.images import Dir, File, Layer

ONE = bytes(range(256)) * 200
TWO = b"two"


class Memory:
    """Files in memory, and how many of them are open."""

    def __init__(self, **files: bytes) -> None:
        self._files = {name.encode(): content for name, content in files.items()}
        self.open_files = 0

    def open(self, path: bytes) -> _File:
        if path not in self._files:
            raise DeltaUnusable(f"no {path!r}")
        self.open_files += 1
        return _File(self, self._files[path])


class _File:
    def __init__(self, memory: Memory, content: bytes) -> None:
        self._memory = memory
        self._content = content
        self.size = len(content)

    def read(self, size: int, position: int) -> bytes:
        assert 0 <= position <= position + size <= self.size
        return self._content[position : position + size]

    def close(self) -> None:
        self._memory.open_files -= 1


def made(*instructions: bytes, magic: bytes = MAGIC, files: Memory | None = None) -> bytes:
    memory = files or Memory(one=ONE, two=TWO)
    try:
        return b"".join(patched(iter([tar_diff(instructions, magic)]), memory))
    finally:
        assert memory.open_files == 0


def test_bytes_of_both() -> None:
    assert made(data(b"start "), opened("one"), sought(65), copied(3), added(b"\1\1\377"), opened("two"), copied(3),
                data(b" end"), sought(1), copied(1)) == b"start ABCEFEtwo endw"


@given(st.binary(max_size=40_000), st.binary(max_size=40_000))
def test_sums_are_of_single_bytes(left: bytes, right: bytes) -> None:
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]
    assert made(opened("f"), added(left), files=Memory(f=right)) == bytes(
        (a + b) % 256 for a, b in zip(left, right, strict=True))


def test_sums_where_much_is_the_same() -> None:
    change = bytearray(len(ONE))
    change[40_000] = 255
    expected = bytearray(ONE)
    expected[40_000] = (expected[40_000] + 255) % 256
    assert made(opened("one"), added(bytes(change))) == expected


def test_a_layer() -> None:
    rng = random.Random(1)
    content = rng.randbytes(3 << 20)
    files = {"usr/a": content, "usr/b": content[:5000], "usr/c": b"the end"}
    layer = Layer([Dir("usr"), File("usr/a", content), File("usr/b", bytes(5000)), File("usr/c", b"another end"),
                   File("usr/d", b"new")])
    memory = Memory()
    memory._files = {name.encode(): one for name, one in files.items()}
    stream = difference(files, layer.tar)
    pieces = (stream[start : start + 1000] for start in range(0, len(stream), 1000))
    assert b"".join(patched(pieces, memory)) == layer.tar
    assert memory.open_files == 0


@pytest.mark.parametrize(("instructions", "why"), [
    ([copied(1)], "before it names one"),
    ([added(b"a")], "before it names one"),
    ([opened("two"), copied(4)], r"4 bytes from byte 0 of 'two', which has 3"),
    ([opened("two"), copied(1 << 62)], "bytes from byte 0 of 'two'"),
    ([opened("two"), sought(4), copied(0)], "0 bytes from byte 4 of 'two'"),
    ([opened("two"), sought((1 << 63) - 1), copied((1 << 63) - 1)], "bytes from byte"),
    ([opened("two"), copied(3), added(b"\0")], "1 bytes from byte 3 of 'two'"),
    ([opened("two"), opened("one"), sought(51200), copied(1)], "of 'one', which has 51200"),
])
def test_what_is_not_there_is_refused(instructions: list[bytes], why: str) -> None:
    with pytest.raises(OciError, match=why):
        made(*instructions)


@pytest.mark.parametrize("path", ["three", "", "../one", "/one", "one/", "one\0", b"\xff", "x" * 4096])
def test_other_files_are_refused(path: str | bytes) -> None:
    with pytest.raises(DeltaUnusable):
        made(opened("one"), opened(path), copied(1))


@pytest.mark.parametrize(("stream", "why"), [
    (b"", "no tar-diff"),
    (MAGIC, "zstd"),
    (MAGIC + b"not zstd at all", "zstd"),
    (tar_diff([data(b"x" * 5000)])[:-3], "zstd data ends"),
    (tar_diff([data(b"x")]) + b"more", "zstd"),
    (tar_diff([b"\0" + number(10) + b"123"]), "ends 7 bytes too early"),
    (tar_diff([b"\5\1a"]), "instruction 5"),
])
def test_streams_that_are_wrong_are_refused(stream: bytes, why: str) -> None:
    with pytest.raises(OciError, match=why):
        list(patched(iter([stream] if stream else []), Memory()))


def test_a_small_delta_gives_a_large_tar_a_piece_at_a_time() -> None:
    stream = tar_diff([opened("one"), *[sought(0), copied(len(ONE))] * 2000])
    assert len(stream) < 1000
    pieces = patched(iter([stream]), Memory(one=ONE))
    assert max(len(piece) for piece in pieces) <= 1 << 20


@pytest.mark.parametrize(("limit", "unit", "why"), [
    ("MAX_FILES", opened("one"), "names files more than 1000 times"),
    ("MAX_FILES", as_patch(ONE, b""), "names files more than 1000 times"),
    ("MAX_DICTIONARIES", as_patch(ONE, b""), "more than 1000 bytes together"),
])
def test_work_that_gives_nothing_has_an_end(monkeypatch: pytest.MonkeyPatch, limit: str, unit: bytes, why: str,
                                            ) -> None:
    """A million of either is a few hundred bytes, and would take minutes to years."""
    monkeypatch.setattr(tarpatch, limit, 1000)
    assert len(tar_diff([opened("one"), unit * 2000], MAGIC_2)) < 2000
    with pytest.raises(OciError, match=why):
        made(opened("one"), unit * 2000, magic=MAGIC_2)


def test_files_are_closed_when_nobody_reads_on() -> None:
    memory = Memory(one=ONE)
    pieces = patched(iter([tar_diff([opened("one"), *[sought(0), copied(len(ONE))] * 100])]), memory)
    next(pieces)
    assert memory.open_files == 1
    del pieces
    assert memory.open_files == 0


class TestVersion2:
    OLD = random.Random(1).randbytes(200_000)
    NEW = OLD[:100_000] + b"something new" + OLD[100_000:]

    def made(self, *instructions: bytes, old: bytes = OLD) -> bytes:
        return made(*instructions, magic=MAGIC_2, files=Memory(old=old))

    def test_a_patch(self) -> None:
        patch = as_patch(self.OLD, self.NEW, level=19)
        assert len(patch) < 1000
        assert self.made(data(b"<"), opened("old"), patch, data(b">")) == b"<" + self.NEW + b">"

    @pytest.mark.parametrize(("patch", "why"), [
        (b"\5\1a", "is not valid"), (b"\5\5abcde", "is not valid"), (b"\5" + number(1 << 40), "too early"),
    ])
    def test_what_is_none_is_refused(self, patch: bytes, why: str) -> None:
        with pytest.raises(OciError, match=why):
            self.made(opened("old"), patch)

    def test_nothing_may_follow_the_frame(self) -> None:
        frame = zstandard.ZstdCompressor().compress(b"new")
        assert self.made(opened("old"), b"\5" + number(len(frame)) + frame, data(b"!")) == b"new!"
        with pytest.raises(OciError, match="is not valid"):
            self.made(opened("old"), b"\5" + number(len(frame) + 4) + frame + b"more", data(b"!"))

    def test_without_a_file_it_is_refused(self) -> None:
        with pytest.raises(OciError, match="before it names one"):
            self.made(as_patch(b"a", b"b"))

    def test_a_file_that_is_too_large_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tarpatch, "MAX_DICTIONARY", 100_000)
        with pytest.raises(OciError, match="which has 200000 bytes, more than 100000"):
            self.made(opened("old"), as_patch(self.OLD, self.NEW))

    def test_a_window_that_is_too_large_is_refused(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        frame = stream.compress(bytes(1000)) + stream.flush()
        with pytest.raises(OciError, match="is not valid"):
            self.made(opened("old"), b"\5" + number(len(frame)) + frame)

    def test_one_dictionary_at_a_time(self) -> None:
        """The layers of an image are made together, and each dictionary may take 128 MiB."""
        first, second = (patched(iter([tar_diff([opened("old"), as_patch(self.OLD, self.NEW * 20)], MAGIC_2)]),
                                 Memory(old=self.OLD)) for _ in range(2))
        next(first)
        made: list[bytes] = []
        other = threading.Thread(target=lambda: made.extend(second))
        other.start()
        other.join(0.2)
        assert not made
        for _ in first:
            pass
        other.join()
        assert b"".join(made) == self.NEW * 20

    def test_what_is_left_unread_of_a_patch_is_skipped(self) -> None:
        def pieces() -> Iterator[bytes]:
            yield tar_diff([opened("old"), as_patch(self.OLD, self.NEW), data(b"!")], MAGIC_2)

        assert b"".join(patched(pieces(), Memory(old=self.OLD))).endswith(b"!")
