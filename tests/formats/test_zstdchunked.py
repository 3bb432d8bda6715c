# SPDX-License-Identifier: Apache-2.0
"""zstd:chunked: what containers/storage wrote is read, and lies are OciErrors."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import OciError
from bootcd.formats import zstdchunked
from bootcd.formats.zstdchunked import Content, Run, find_tables, parse_contents, parse_tar_split, plan
from kit.memory import traced

DATA = Path(__file__).parent / "data"
BLOB = (DATA / "zstd-chunked.zst").read_bytes()
"""By containers/storage 1.57.2, pkg/chunked/compressor; the annotations are what it says about it."""
ANNOTATIONS: dict[str, str] = json.loads((DATA / "zstd-chunked.json").read_text())
PREFIX = "io.github.containers.zstd-chunked."
DIGEST = "sha256:" + "a" * 64


def unpacked(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[start : start + step] for start in range(0, len(data), step))


def table(*entries: Any, **more: Any) -> bytes:
    return json.dumps({"version": 1, "entries": list(entries)} | more).encode()


def entry(**fields: Any) -> dict[str, Any]:
    return {"type": "reg", "name": "a", "size": 5, "digest": DIGEST, "offset": 10, "endOffset": 20} | fields


class TestTheReference:
    def test_contents(self) -> None:
        tables = find_tables(ANNOTATIONS, len(BLOB))
        assert tables is not None
        assert tables.tar_split is not None
        packed = BLOB[tables.contents.offset : tables.contents.offset + tables.contents.size]
        assert "sha256:" + hashlib.sha256(packed).hexdigest() == tables.contents_digest
        contents, digest = parse_contents([unpacked(packed)], tables.end)
        assert [content.size for content in contents] == [1700, 5, 300000, 105014, 5, 120]
        for content in contents:
            data = unpacked(BLOB[content.start : content.end])
            assert (len(data), hashlib.sha256(data).digest()) == (content.size, content.digest)
        split = BLOB[tables.tar_split.offset : tables.tar_split.offset + tables.tar_split.size]
        assert digest == "sha256:" + hashlib.sha256(split).hexdigest()

    @pytest.mark.parametrize("step", [1, 7, 1 << 20])
    def test_put_together(self, step: int) -> None:
        tables = find_tables(ANNOTATIONS, len(BLOB))
        assert tables is not None
        assert tables.tar_split is not None
        contents, _ = parse_contents(cut(unpacked(BLOB[tables.contents.offset :][: tables.contents.size]), step),
                                     tables.end)
        tar, number = b"", 0
        for item in parse_tar_split(cut(unpacked(BLOB[tables.tar_split.offset :][: tables.tar_split.size]), step)):
            if isinstance(item, int):
                assert item == contents[number].size
                tar += unpacked(BLOB[contents[number].start : contents[number].end])
                number += 1
            else:
                tar += item
        assert tar == unpacked(BLOB)
        assert number == len(contents)
        assert unpacked(BLOB[: tables.end]) == tar


class TestAnnotations:
    def test_none(self) -> None:
        assert find_tables({}, 100) is None
        assert find_tables({"org.example": "x"}, 100) is None

    def test_old_names(self) -> None:
        old = {"io.containers.zstd-chunked.manifest-position": "100:20:50:1",
               "io.containers.zstd-chunked.manifest-checksum": DIGEST}
        tables = find_tables(old, 200)
        assert tables is not None
        assert (tables.tar_split, tables.end) == (None, 92)

    @pytest.mark.parametrize("position", [
        "", "1:2:3", "x", "100:20:50:2", "100:20:50:1:1", "-1:20:50:1", "190:20:50:1", "8:20:50:1", "100:0:50:1",
        "999999999999999:1:1:1", f"100:{(32 << 20) + 1}:50:1", f"100:20:{(512 << 20) + 1}:1", "1e2:20:50:1",
        "١٠٠:20:50:1",
    ])
    def test_nonsense(self, position: str) -> None:
        given = {PREFIX + "manifest-position": position, PREFIX + "manifest-checksum": DIGEST}
        with pytest.raises(OciError, match="manifest-position"):
            find_tables(given, (64 << 20) if str(32 << 20)[:4] in position else 200)

    def test_a_checksum_that_is_none(self) -> None:
        with pytest.raises(OciError, match="manifest-checksum is no digest"):
            find_tables({PREFIX + "manifest-position": "100:20:50:1", PREFIX + "manifest-checksum": "x"}, 200)


class TestContents:
    def test_sorted(self) -> None:
        found, _ = parse_contents([table(entry(offset=50, endOffset=60), entry())], 100)
        assert [content.start for content in found] == [10, 50]

    def test_what_has_no_content(self) -> None:
        others = [{"type": kind, "name": "x"} for kind in ("dir", "symlink", "hardlink", "chunk", "reg")]
        found, digest = parse_contents([table(*others)], 100)
        assert (found, digest) == ([], None)
        assert parse_contents([b' {"version" : 1, "entries": null} \n'], 100) == ([], None)

    @pytest.mark.parametrize(("data", "what"), [
        (b"", "expected {"), (b"[]", "expected {"), (b"{", "not JSON"), (b"{}", "version"), (b"{]", "not JSON"),
        (b'{"version":1} x', "the end"), (b'{"version":1,"version":1}', "twice"), (b'{"version":2}', "expected 1"),
        (b'{"version":1,"entries":[1]}', r"entries\[0\] is no object"), (b'{"version":1,"entries":[{}', "type"),
        (b'{"version":1,"entries":[{"type":"dir"} {}]}', "expected , or ]"), (b"\xff", "not UTF-8"),
        (b'{"version":1,"entries":[' + b"[" * 100_000, "nested too deeply"), (b'{"version":1e999}', "version"),
        (b'{"version":1,"x":' + b"9" * 5000 + b"}", "digits"), (b'{1:1}', "no string"),
        (b'{"version":1,"entries":[{"type":"dir","type":"reg"}]}', "twice"),
        (table(entry(offset=None)), "offset"), (table(entry(offset=-1)), "range"), (table(entry(offset=0)), "among"),
        (table(entry(endOffset=10)), "among"), (table(entry(endOffset=101)), "among"), (table(entry(size=-1)), "size"),
        (table(entry(size=True)), "size"), (table(entry(size="5")), "size"), (table(entry(digest="x")), "digest"),
        (table(entry(digest="sha512:" + "a" * 128)), "no SHA-256"), (table(entry(digest=None)), "digest"),
        (table(entry(), entry()), "overlap at byte 10"), (table(entry(), entry(offset=19, endOffset=30)), "overlap"),
        (table(tarSplitDigest="x"), "tarSplitDigest"), (table(tarSplitDigest=7), "tarSplitDigest"),
    ])
    def test_lies(self, data: bytes, what: str) -> None:
        with pytest.raises(OciError, match=what):
            parse_contents([data], 100)

    def test_too_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zstdchunked, "MAX_CONTENTS", 3)
        with pytest.raises(OciError, match="more than 3 files"):
            parse_contents([table(*(entry(offset=n, endOffset=n + 1) for n in range(1, 6)))], 100)

    def test_too_many_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Directories by the million compress to nothing, and each has to be read."""
        monkeypatch.setattr(zstdchunked, "MAX_ENTRIES", 3)
        directory = {"type": "dir", "name": "x"}
        parse_contents([table(*[directory] * 3)], 100)
        with pytest.raises(OciError, match="more than 3 entries"):
            parse_contents([table(*[directory] * 4)], 100)
        with pytest.raises(OciError, match="more than 3 entries"):
            list(parse_tar_split([b'{"type":1}' * 4]))

    def test_nothing_is_kept_but_what_is_of_use(self) -> None:
        """Other keys may hold anything, of which as JSON there are megabytes, and as objects gigabytes."""
        other = b",".join(b'"%d":[%s]' % (number, b"[]," * 100_000 + b"0") for number in range(20))
        with traced() as memory:
            assert parse_contents(cut(b'{"version":1,' + other + b"}", 1 << 16), 100) == ([], None)
        assert memory.peak < 60 << 20
        many = b",".join(b'"%d":0' % number for number in range(200))
        with pytest.raises(OciError, match="more than 100 keys"):
            parse_contents([b'{"version":1,' + many + b"}"], 100)

    def test_the_end_is_not_copied_for_each_entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        filled = []
        fill = zstdchunked._Text._fill
        monkeypatch.setattr(zstdchunked._Text, "_fill", lambda text: (filled.append(text), fill(text)))
        parse_contents([table(*[{"type": "dir"}] * 20_000)], 100)
        assert len(filled) < 5

    def test_memory_is_bounded_by_one_value(self) -> None:
        """100 MB of a table, of which nothing is kept."""
        def pieces() -> Iterator[bytes]:
            yield b'{"version":1,"entries":['
            line = json.dumps({"type": "dir", "name": "n" * 1000}).encode()
            for _ in range(1000):
                yield (line + b",") * 100
            yield line + b"]}"

        with traced() as memory:
            assert parse_contents(pieces(), 100) == ([], None)
        assert memory.peak < 32 << 20

    def test_white_space_without_end(self) -> None:
        with pytest.raises(OciError, match=r"expected {"):
            parse_contents(iter([b" " * 1_000_000] * 20), 100)

    def test_one_value_without_end(self) -> None:
        with pytest.raises(OciError, match="not JSON"):
            parse_contents(iter([b'{"', *[b"x" * 1_000_000] * 20, b'":1}']), 100)

    @given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 1 << 40)), max_size=20),
           st.integers(1, 100), st.randoms(use_true_random=False))
    def test_round_trip(self, parts: list[tuple[int, int, int]], step: int, random: Any) -> None:
        contents, position = [], 0
        for number, (gap, length, size) in enumerate(parts):
            contents.append(Content(position + gap, position + gap + length, size, bytes([number]) * 32))
            position += gap + length
        entries = [entry(offset=one.start, endOffset=one.end, size=one.size, digest=f"sha256:{one.digest.hex()}")
                   for one in contents]
        random.shuffle(entries)
        found, digest = parse_contents(cut(table(*entries, tarSplitDigest=DIGEST), step), position)
        assert (found, digest) == (contents, DIGEST)

    @given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 40))
    def test_damage(self, noise: bytes, where: int, length: int) -> None:
        data = table(entry(), entry(offset=30, endOffset=40), tarSplitDigest=DIGEST)
        try:
            found, _ = parse_contents(cut(data[:where] + noise + data[where + length :], 50), 100)
        except OciError:
            return
        assert all(0 < one.start < one.end <= 100 and one.size > 0 for one in found)
        assert all(before.end <= after.start for before, after in pairwise(found))


class TestTarSplit:
    @given(st.lists(st.one_of(st.binary(max_size=100), st.integers(1, 1 << 40)), max_size=20), st.integers(1, 100))
    def test_round_trip(self, items: list[bytes | int], step: int) -> None:
        lines = [{"type": 1, "name": "x", "size": item, "payload": "AAAA"} if isinstance(item, int)
                 else {"type": 2, "payload": base64.b64encode(item).decode()} for item in items]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        assert list(parse_tar_split(cut(data, step))) == items

    def test_files_that_are_empty(self) -> None:
        assert list(parse_tar_split([b'{"type":1,"name":"dir/","payload":null,"position":0}'])) == []

    @pytest.mark.parametrize(("data", "what"), [
        (b"[]", "an object"), (b"{}", "type"), (b'{"type":3}', "not known"), (b'{"type":2,"payload":"x"}', "base64"),
        (b'{"type":2,"payload":"\\u00e9"}', "base64"), (b'{"type":2,"payload":7}', "string"), (b"x", "not JSON"),
        (b'{"type":1,"size":-1}', "range"), (b'{"type":1,"size":"1"}', "integer"), (b"\xff", "UTF-8"),
    ])
    def test_lies(self, data: bytes, what: str) -> None:
        with pytest.raises(OciError, match=what):
            list(parse_tar_split([data]))


contents_and_here = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.booleans()), max_size=30)


class TestPlan:
    @given(contents_and_here, st.booleans(), st.integers(0, 20), st.integers(1, 10), st.integers(0, 5))
    def test_all_that_is_missing_comes_once(
        self, parts: list[tuple[int, int, bool]], headers: bool, gap: int, most: int, tail: int,
    ) -> None:
        contents, position = [], 0
        for number, (before, length, _) in enumerate(parts):
            contents.append(Content(position + before, position + before + length, 1, bytes([number])))
            position += before + length
        here = {bytes([number]) for number, part in enumerate(parts) if part[2]}
        end = position + tail
        runs = plan(contents, here, end, headers=headers, gap=gap, most=most)
        assert len(runs) <= most
        covered = set()
        for run in runs:
            assert 0 <= run.start < run.end <= end
            assert covered.isdisjoint(range(run.start, run.end))
            covered |= set(range(run.start, run.end))
        for number, content in enumerate(contents):
            inside = [run for run in runs if run.first <= number < run.last]
            bytes_of = set(range(content.start, content.end))
            # A content comes with the run that counts it, whole, or not at all.
            assert len(inside) <= 1
            assert bytes_of <= covered if inside else covered.isdisjoint(bytes_of)
            assert inside or content.digest in here
        if not headers:
            assert set(range(end)) - covered <= {b for c in contents if c.digest in here for b in range(c.start, c.end)}
        for before, after in pairwise(runs):
            assert after.start - before.end > gap
            assert before.last <= after.first

    def test_gap(self) -> None:
        contents = [Content(10, 20, 1, b"a"), Content(30, 40, 1, b"b"), Content(50, 60, 1, b"c")]
        assert plan(contents, {b"b"}, 70, headers=True, gap=29, most=9) == [Run(10, 20, 0, 1), Run(50, 60, 2, 3)]
        assert plan(contents, {b"b"}, 70, headers=True, gap=30, most=9) == [Run(10, 60, 0, 3)]
        assert plan(contents, {b"b"}, 70, headers=True, gap=0, most=1) == [Run(10, 60, 0, 3)]
        assert plan(contents, {b"b"}, 70, headers=False, gap=0, most=9) == [Run(0, 30, 0, 1), Run(40, 70, 2, 3)]
        assert plan(contents, {b"a", b"b", b"c"}, 70, headers=True, gap=0, most=9) == []
