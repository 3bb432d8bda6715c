# SPDX-License-Identifier: Apache-2.0
"""fs-verity digests, by the native module and by hashlib, against fsverity-utils."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import MetadataError
from bootcd.formats import fsverity
from bootcd.formats.fsverity import Algorithm, Hasher, measure

CONTENT = b"bootcd\n"
NATIVE: ModuleType | None = vars(fsverity)["_native"]


def vectors() -> list[tuple[int, Algorithm, str]]:
    text = Path(__file__).with_name("fsverity.txt").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return [(int(row[0]), alg, digest) for row in rows for alg, digest in zip(Algorithm, row[1:], strict=True)]


def content(size: int) -> bytes:
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


@pytest.fixture(params=["native", "hashlib"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "hashlib":
        monkeypatch.setattr(fsverity, "_native", None)
    elif NATIVE is None:
        pytest.skip("the extension is not built")
    return str(request.param)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize(("size", "algorithm", "digest"), vectors())
def test_digests_are_those_of_fsverity_utils(size: int, algorithm: Algorithm, digest: str) -> None:
    assert measure(content(size), algorithm).hex() == digest


@pytest.mark.usefixtures("implementation")
def test_the_empty_file_has_a_root_hash_of_zeros() -> None:
    assert measure(b"", Algorithm.SHA256) == Hasher(Algorithm.SHA256).digest()
    assert measure(b"", Algorithm.SHA256).hex().startswith("3d248ca542a24fc6")


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("step", [1000, 4096, 100_001, 1 << 20])
def test_pieces_do_not_matter(algorithm: Algorithm, step: int) -> None:
    data = random.Random(step).randbytes(1_500_000)
    hasher = Hasher(algorithm)
    for start in range(0, len(data), step):
        hasher.update(memoryview(data)[start : start + step])
    assert (hasher.size, hasher.digest()) == (len(data), measure(data, algorithm))


def test_asking_for_the_digest_does_not_end_it() -> None:
    hasher = Hasher(Algorithm.SHA512)
    for size in range(0, 300_000, 9_999):
        assert hasher.digest() == measure(content(size), Algorithm.SHA512)
        hasher.update(content(size + 9_999)[size:])


@pytest.mark.skipif(NATIVE is None, reason="the extension is not built")
@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 20_000), max_size=8), st.sampled_from(Algorithm), st.integers(0, 1 << 32))
def test_both_implementations_agree(sizes: list[int], algorithm: Algorithm, seed: int) -> None:
    data = random.Random(seed).randbytes(sum(sizes))
    native = measure(data, algorithm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsverity, "_native", None)
        hasher = Hasher(algorithm)
        start = 0
        for size in sizes:
            hasher.update(data[start : start + size])
            start += size
        assert hasher.digest() == native


def test_a_hasher_stays_small(implementation: str) -> None:
    hasher = Hasher(Algorithm.SHA512)
    for _ in range(100):
        hasher.update(bytes(1 << 20 if implementation == "native" else 1 << 17))
    assert sum(map(len, [hasher._tail, *hasher._levels])) < fsverity.BLOCK_SIZE * 4


@pytest.mark.usefixtures("implementation")
def test_any_contiguous_buffer_will_do() -> None:
    data = content(10_000)
    expected = measure(data, Algorithm.SHA256)
    wide = memoryview(data).cast("I")
    for buffer in (bytearray(data), memoryview(data), wide):
        hasher = Hasher(Algorithm.SHA256)
        hasher.update(buffer)
        assert measure(buffer, Algorithm.SHA256) == hasher.digest() == expected


@pytest.mark.skipif(NATIVE is None, reason="the extension is not built")
def test_the_native_module_refuses_what_it_cannot_hash() -> None:
    assert NATIVE is not None
    for function in (NATIVE.measure, NATIVE.hash_blocks):
        with pytest.raises(ValueError, match="algorithm 3"):
            function(b"", 3)
        with pytest.raises(TypeError):
            function("text", 1)
        with pytest.raises(BufferError):
            function(memoryview(b"abcd")[::2], 1)
        with pytest.raises(TypeError):
            function(b"")
    data = bytearray(5)
    with pytest.raises(ValueError, match="algorithm 0"):
        NATIVE.measure(data, 0)
    data.append(1)  # the buffer was released


def test_threads_do_not_disturb_each_other() -> None:
    data = content(3_000_000)
    expected = measure(data, Algorithm.SHA256)
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(measure(data, Algorithm.SHA256))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert results == [expected] * 8


def test_algorithms_have_names() -> None:
    sha512 = Algorithm.parse("fsverity-sha512-12")
    assert sha512 is Algorithm.SHA512 is Algorithm.parse("sha512") is Algorithm.of_digest(bytes(64))
    assert (sha512.label, sha512.kernel_id, sha512.digest_size) == ("sha512", 2, 64)
    assert (sha512.suffix, sha512.identifier) == ("sha512-12", "fsverity-sha512-12")
    for unknown in ("", "SHA512", "fsverity-sha512-16", "fsverity-md5-12"):
        with pytest.raises(MetadataError, match="unknown fs-verity algorithm"):
            Algorithm.parse(unknown)
    with pytest.raises(MetadataError, match="not 20"):
        Algorithm.of_digest(bytes(20))
