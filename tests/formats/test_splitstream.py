# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import SplitstreamError
from bootcd.formats import splitstream
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.splitstream import ContentType, External, Splitstream, Writer
from formats.rawtar import cfsctl, directory, write_layout

A, B, C = (bytes([i]) * 32 for i in (1, 2, 3))
SHA256 = Algorithm.SHA256
Part = bytes | tuple[bytes, int]


def write(*parts: Part, names: dict[str, bytes] | None = None) -> bytes:
    writer = Writer(SHA256, ContentType.OCI_LAYER)
    for name, digest in (names or {}).items():
        writer.add_named_ref(name, digest)
    for part in parts:
        if isinstance(part, bytes):
            writer.write_inline(part)
        else:
            writer.write_external(*part)
    return writer.finish()


def joined(stream: Splitstream) -> list[bytes | External]:
    """The chunks, with inline pieces that follow each other put together."""
    result: list[bytes | External] = []
    for chunk in stream.chunks():
        if isinstance(chunk, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += chunk
        else:
            result.append(chunk)
    return result


def raw_stream(data: bytes) -> bytes:
    """The decompressed chunk sequence of a file."""
    start, end = struct.unpack_from("<QQ", data, 64)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data[start:end])


def with_stream(body: bytes, size: int, frame: Callable[[bytes], bytes] = zstandard.compress) -> bytes:
    """A file whose chunk sequence is `body`, with the object table A, B."""
    good = write((A, 0), (B, 0))
    start, _ = struct.unpack_from("<QQ", good, 64)
    stream = frame(body)
    return good[:64] + struct.pack("<QQ", start, start + len(stream)) + good[80:104] + struct.pack("<Q", size) + (
        good[112:start] + stream
    )


def test_what_is_written_is_read() -> None:
    data = write(b"he", b"", b"ader", (A, 100), (B, 200), b"x", (A, 100), b"end", names={"z": C, "a": A, "m": C})
    stream = Splitstream.parse(data, SHA256, ContentType.OCI_LAYER)
    assert joined(stream) == [b"header", External(A), External(B), b"x", External(A), b"end"]
    assert stream.size == 410
    assert stream.content_type == ContentType.OCI_LAYER
    assert stream.object_refs == [A, B]
    assert stream.stream_refs == [C, A]
    assert list(stream.named_refs.items()) == [("m", C), ("z", C), ("a", A)]


def test_adjacent_inline_data_is_one_chunk() -> None:
    assert raw_stream(write(b"ab", b"c", (B, 9), b"d")) == struct.pack("<q3sqq1s", -3, b"abc", 0, -1, b"d")


def test_layout_of_the_file() -> None:
    data = write(b"x", (A, 100), names={"n": C})
    assert data[:32] == b"SplitStream\0\0\0\1\x0c" + struct.pack("<QQ", 32, 112)
    info = struct.unpack("<10Q", data[32:112])
    assert info[0:4] == (112, 144, 144, 176)
    assert info[6] == 176
    assert info[7] == info[4]
    assert info[5] == len(data)
    assert info[8].to_bytes(8, "little") == b"ocilayer"
    assert info[9] == 101
    assert data[112:176] == C + A
    for start, end in (info[4:6], info[6:8]):
        assert zstandard.get_frame_parameters(data[start:end]).content_size == zstandard.CONTENTSIZE_UNKNOWN


def test_an_empty_map_of_names_is_a_special_frame() -> None:
    data = write(b"x")
    start, end = struct.unpack_from("<QQ", data, 80)
    assert data[start:end] == bytes.fromhex("28b52ffd2000010000")


def test_sha512() -> None:
    writer = Writer(Algorithm.SHA512, ContentType.OCI_BLOB)
    writer.write_external(A + B, 5)
    data = writer.finish()
    assert joined(Splitstream.parse(data, Algorithm.SHA512)) == [External(A + B)]
    with pytest.raises(SplitstreamError, match="uses fs-verity algorithm 2"):
        Splitstream.parse(data, SHA256)


def test_long_inline_data_waits_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [bytes([i % 7]) * 300_000 for i in range(60)]
    data = write(*pieces, (A, 1), b"end")
    assert joined(Splitstream.parse(data, SHA256)) == [b"".join(pieces), External(A), b"end"]
    monkeypatch.setattr(splitstream, "_SPOOL_STEP", 1)
    assert write(*pieces, (A, 1), b"end") == data
    monkeypatch.setattr(splitstream, "MAX_CHUNK", 1 << 20)
    with pytest.raises(SplitstreamError, match="without one file of more than 64 bytes"):
        write(*pieces)


def test_names_must_be_usable_and_mean_one_thing() -> None:
    writer = Writer(SHA256, ContentType.OCI_CONFIG)
    writer.add_named_ref("a", A)
    writer.add_named_ref("a", A)
    for name, digest in (("a", B), ("", A), ("x\0", A), ("b", A + B)):
        with pytest.raises(SplitstreamError):
            writer.add_named_ref(name, digest)
    with pytest.raises(SplitstreamError):
        writer.write_external(b"short", 1)


def test_the_old_header_is_read() -> None:
    data = write(b"x", (A, 5))
    old = struct.pack("<QQH11sBBB", 32, 112, 0, b"SplitStream", 0, 1, 12)
    assert joined(Splitstream.parse(old + data[32:], SHA256)) == [b"x", External(A)]


def test_a_longer_info_block_is_read() -> None:
    data = write(b"x", (A, 5))
    moved = struct.pack("<10Q", *(value + 8 if i < 8 else value for i, value in enumerate(
        struct.unpack_from("<10Q", data, 32))))
    assert joined(Splitstream.parse(data[:24] + struct.pack("<Q", 120) + moved + bytes(8) + data[112:], SHA256)) == [
        b"x", External(A)]


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"splitStream", "the magic is missing"),
        (11, b"\1", "version 1 with flags 0x0"),
        (12, b"\1", "version 0 with flags 0x1"),
        (14, b"\2", "uses fs-verity algorithm 2"),
        (15, b"\x0d", r"blocks of 2\^13"),
        (16, u64(0), "info block 0..112"),
        (24, u64(111), "info block 32..111"),
        (24, u64(2**64 - 1), "info block 32..18446744073709551615"),
        (32, u64(0), "stream_refs overlaps header"),
        (48, u64(112), "overlaps"),
        (40, u64(111), "stream_refs 112..111 is not inside"),
        (56, u64(2**63), "object_refs 144..9223372036854775808 is not inside"),
        (56, u64(175), "object_refs of 31 bytes is no table"),
        (72, u64(2**64 - 1), "stream .* is not inside"),
        (96, b"ociconfg", "content type OCI_CONFIG, expected OCI_LAYER"),
        (96, b"whatever", "content type 0x72657665"),
    ],
)
def test_headers_that_lie(at: int, new: bytes, message: str) -> None:
    data = bytearray(write(b"x", (A, 100), names={"n": C}))
    data[at : at + len(new)] = new
    with pytest.raises(SplitstreamError, match=message):
        Splitstream.parse(data, SHA256, ContentType.OCI_LAYER)


def chunk(data: bytes) -> bytes:
    return struct.pack("<q", -len(data)) + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_stream(struct.pack("<q", 2), 0), "refers to object 2 of 2"),
        (with_stream(chunk(b"abc"), 2), "holds more than the 2 bytes"),
        (with_stream(chunk(b"abc"), 4), "ends 1 bytes before the 4"),
        (with_stream(chunk(b"abc")[:-1], 3), "ends 1 bytes before its chunk"),
        (with_stream(chunk(b"abc") + b"\0\0", 3), "within the length of a chunk"),
        (with_stream(struct.pack("<q", -(2**63)), 3), "holds more than"),
        (with_stream(chunk(b"abc"), 3, lambda body: b"garbage"), "cannot be decompressed"),
        (with_stream(chunk(b"abc"), 3, lambda body: zstandard.compress(body) + b"garbage"), "cannot be decompressed"),
        (with_stream(chunk(b"abc" * 999), 2997, lambda body: zstandard.compress(body)[:-9]), "ends|decompressed"),
        (with_stream(chunk(bytes(200 << 20)), 1000), "holds more than the 1000 bytes"),
    ],
    ids=range(10),
)
def test_streams_that_lie(data: bytes, message: str) -> None:
    stream = Splitstream.parse(data, SHA256)
    with pytest.raises(SplitstreamError, match=message):
        for _ in stream.chunks():
            pass


@pytest.mark.parametrize("names", [b"1:x\0", b"0:x", b":x\0", b"0:\0", b"x\0", b"0:x\0" * 2, b"0:\xff\0", b"-1:x\0"])
def test_named_refs_that_lie(names: bytes) -> None:
    good = write(names={"n": C})
    start, _ = struct.unpack_from("<QQ", good, 80)
    frame = zstandard.compress(names)
    stream = zstandard.compress(b"")
    info = struct.pack("<4Q", start + len(frame), start + len(frame) + len(stream), start, start + len(frame))
    with pytest.raises(SplitstreamError, match=r"named reference|named_refs|names a reference twice"):
        Splitstream.parse(good[:64] + info + good[96:start] + frame + stream, SHA256)


parts = st.lists(st.binary(max_size=20) | st.tuples(st.sampled_from([A, B, C]), st.integers(0, 2**40)), max_size=12)
ref_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


@settings(max_examples=80, deadline=None)
@given(parts, st.dictionaries(ref_names, st.sampled_from([A, B, C]), max_size=4))
def test_round_trip(written: list[Part], names: dict[str, bytes]) -> None:
    stream = Splitstream.parse(write(*written, names=names), SHA256)
    assert stream.named_refs == names
    expected = b"|".join(part if isinstance(part, bytes) else b"<" + part[0] + b">" for part in written if part)
    found = b"|".join(part if isinstance(part, bytes) else b"<" + part.digest + b">" for part in joined(stream))
    assert found.replace(b"|", b"") == expected.replace(b"|", b"")
    again = Writer(SHA256, ContentType.OCI_LAYER)
    for name, digest in stream.named_refs.items():
        again.add_named_ref(name, digest)
    assert again.finish()[:112] == write(names=names)[:112] or len(set(names.values())) < len(names)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 300), st.binary(min_size=1, max_size=9), st.booleans())
def test_any_bytes_raise_only_our_errors(at: int, new: bytes, cut: bool) -> None:
    data = bytearray(write(b"header" * 9, (A, 100), b"tail", (B, 100), names={"n": C, "m": A}))
    data[at : at + len(new)] = new
    with contextlib.suppress(SplitstreamError):
        for _ in Splitstream.parse(data[:at] if cut else data, SHA256).chunks():
            pass


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_random_streams_raise_only_our_errors(body: bytes) -> None:
    with contextlib.suppress(SplitstreamError):
        for _ in Splitstream.parse(with_stream(body, 100), SHA256).chunks():
            pass


@pytest.mark.interop
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_cfsctl_writes_the_same_files(tmp_path: Path, algorithm: Algorithm) -> None:
    """Config and manifest streams of an image have named references and one external part."""
    if not shutil.which("cfsctl"):
        pytest.skip("cfsctl is not installed")
    repository = tmp_path / "repository"
    write_layout(tmp_path / "layout", [directory(name) + bytes(1024) for name in (b"usr", b"usr/b", b"usr/a")])
    cfsctl(repository, "init", "--algorithm", algorithm.identifier, "--insecure")
    cfsctl(repository, "oci", "pull", f"oci:{tmp_path / 'layout'}:t", "name")
    streams = sorted((repository / "streams").glob("oci-*"))
    assert len(streams) == 5
    for path in streams:
        stored = path.read_bytes()
        stream = Splitstream.parse(stored, algorithm)
        writer = Writer(algorithm, stream.content_type)
        for name, digest in stream.named_refs.items():
            writer.add_named_ref(name, digest)
        inline = 0
        for chunk_ in stream.chunks():
            if isinstance(chunk_, External):
                writer.write_external(chunk_.digest, stream.size - inline)
            else:
                inline += len(chunk_)
                writer.write_inline(chunk_)
        assert writer.finish() == stored
