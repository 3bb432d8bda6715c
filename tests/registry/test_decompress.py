# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import gzip
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import OciError
from bootcd.registry import decompress as module
from bootcd.registry.decompress import CHUNK, decompress

DATA = random.Random(1).randbytes(300_000) + bytes(3_000_000) + b"a line of text\n" * 50_000
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def pieces(data: bytes, size: int = 65536) -> Iterator[bytes]:
    return iter([data[start : start + size] for start in range(0, len(data), size)])


def zstd(data: bytes, **options: int) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)


@pytest.fixture(params=["isal", "zlib"])
def gzip_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both decoders, since not every machine has the fast one."""
    if request.param == "zlib":
        monkeypatch.setattr(module, "_gzip", zlib)
    else:
        pytest.importorskip("isal")


@pytest.mark.usefixtures("gzip_library")
@pytest.mark.parametrize("step", [1000, 65536, 1 << 20])
def test_gzip(step: int) -> None:
    chunks = list(decompress(pieces(gzip.compress(DATA), step), "gzip"))
    assert b"".join(chunks) == DATA
    assert max(map(len, chunks)) <= CHUNK


@pytest.mark.usefixtures("gzip_library")
def test_gzip_with_many_members() -> None:
    """eStargz has one member for each file."""
    data = b"".join(gzip.compress(b"%d " % number) for number in range(20_000)) + gzip.compress(DATA)
    chunks = list(decompress(pieces(data), "gzip"))
    assert b"".join(chunks) == b"".join(b"%d " % number for number in range(20_000)) + DATA
    assert len(chunks) < 20


@pytest.mark.parametrize("step", [1000, 65536])
def test_zstd_with_frames_and_skippable_frames(step: int) -> None:
    """zstd:chunked has many frames, and its table of contents in a skippable one."""
    data = SKIPPABLE + zstd(DATA[:1000]) + SKIPPABLE + zstd(DATA[1000:], write_checksum=1) + zstd(b"") + SKIPPABLE
    chunks = list(decompress(pieces(data, step), "zstd"))
    assert b"".join(chunks) == DATA
    assert max(map(len, chunks)) <= CHUNK


def test_none() -> None:
    assert b"".join(decompress(pieces(DATA), "none")) == DATA


@pytest.mark.parametrize(("compression", "packed"), [("gzip", gzip.compress(DATA, mtime=0)), ("zstd", zstd(DATA))])
class TestDamage:
    def test_truncated_anywhere(self, compression: str, packed: bytes) -> None:
        for length in [0, 1, 3, 4, 9, 10, 17, 1000, 150_000, len(packed) - 8, len(packed) - 4, len(packed) - 1]:
            with pytest.raises(OciError, match="ends in the middle"):
                list(decompress(pieces(packed[:length]), compression))

    @pytest.mark.parametrize("garbage", [b"\0", b"\0" * 512, b"x", b"PK\3\4garbage"])
    def test_what_follows(self, compression: str, packed: bytes, garbage: bytes) -> None:
        with pytest.raises(OciError):
            list(decompress(pieces(packed + garbage), compression))

    def test_something_else(self, compression: str, packed: bytes) -> None:
        with pytest.raises(OciError, match=f"{compression} data"):
            list(decompress(pieces(b"<html>an error page</html>" * 100), compression))


def test_gzip_checksum_is_checked() -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-6] ^= 1
    with pytest.raises(OciError, match="not valid gzip data"):
        list(decompress(pieces(bytes(packed)), "gzip"))


def test_zstd_window_is_bounded() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = compressor.compress(b"text") + compressor.flush()  # no content size, so the window is declared
    with pytest.raises(OciError, match="window is larger than 128 MiB"):
        list(decompress(pieces(packed), "zstd"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bomb_takes_little_memory(compression: str) -> None:
    """1 GiB of zeros, in a process of its own that may have 160 MiB more than it starts with."""
    script = """
import gzip, resource, sys, zstandard
from bootcd.registry.decompress import decompress
zeros, count = bytes(1 << 20), 1024
if sys.argv[1] == "gzip":
    one = gzip.compress(zeros * 64, 9)
    packed = one * 16
else:
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    packed = b"".join(compressor.compress(zeros) for _ in range(count)) + compressor.flush()
before = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (before + (160 << 20),) * 2)
total = sum(len(chunk) for chunk in decompress(iter([packed]), sys.argv[1]))
print(len(packed), total)
"""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", script, compression], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    packed, total = map(int, done.stdout.split())
    assert total == 1 << 30
    assert packed < 5 << 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=5), st.integers(1, 5000),
       st.sampled_from(["gzip", "zstd"]))
def test_round_trip(parts: list[bytes], step: int, compression: str) -> None:
    pack = gzip.compress if compression == "gzip" else zstd
    packed = b"".join(pack(part) for part in parts)
    assert b"".join(decompress(pieces(packed, step), compression)) == b"".join(parts)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=500), st.sampled_from(["gzip", "zstd"]), st.booleans(), st.integers(1, 600))
def test_any_bytes_raise_only_our_error(data: bytes, compression: str, magic: bool, step: int) -> None:
    start = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}[compression] if magic else b""
    with contextlib.suppress(OciError):
        list(decompress(pieces(start + data, step), compression))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["gzip", "zstd"]))
def test_any_changed_byte_raises_only_our_error(data: st.DataObject, compression: str) -> None:
    packed = bytearray((gzip.compress if compression == "gzip" else zstd)(DATA[299_000:301_000]))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(OciError):
        list(decompress(pieces(bytes(packed)), compression))
