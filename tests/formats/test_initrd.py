# SPDX-License-Identifier: Apache-2.0
"""Initrds: archives in a row, compressed or not, whole or damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import InitrdError
from bootcd.formats.initrd import Member, members
from kit.small_debian import cpio

FILES = [("etc", 0o40755, b""), ("etc/passwd", 0o100644, b"root:x:0:0::/:/bin/sh\n"), ("init", 0o120777, b"usr/init")]
EXPECTED = [Member(name.encode(), mode, len(content)) for name, mode, content in FILES]
SQUEEZE: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gzip": gzip.compress, "zstd": zstandard.compress, "bzip2": bz2.compress, "xz": lzma.compress,
}


@pytest.mark.parametrize("kind", SQUEEZE)
def test_one_archive(kind: str) -> None:
    assert list(members(SQUEEZE[kind](cpio(FILES)))) == EXPECTED


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(SQUEEZE)), st.integers(0, 3)), max_size=5))
def test_archives_in_a_row(parts: list[tuple[str, int]]) -> None:
    data = b"".join(SQUEEZE[kind](cpio(FILES)) + bytes(4 * zeros) for kind, zeros in parts)
    assert list(members(data)) == EXPECTED * len(parts)


def test_an_archive_in_several_frames() -> None:
    archive = cpio([*FILES, ("big", 0o100644, bytes(range(256)) * 1000)])
    cut = len(archive) // 2
    data = gzip.compress(archive[:cut]) + gzip.compress(archive[cut:])
    assert [member.name for member in members(data)] == [b"etc", b"etc/passwd", b"init", b"big"]


def test_names_are_those_of_the_root() -> None:
    assert [one.name for one in members(cpio([("./usr/a", 0o100644, b""), ("/usr/b", 0o100644, b"")]))] == [
        b"usr/a", b"usr/b"]


def test_nothing() -> None:
    assert list(members(b"")) == list(members(bytes(1000))) == []


@pytest.mark.parametrize(("data", "message"), [
    (b"\x02\x21\x4c\x18" + bytes(20), "initrd: what begins at byte 0 is compressed by lz4, which is not read here"),
    (b"noise", "initrd: what begins at byte 0 is no part of an initrd"),
    (cpio(FILES)[:200], "initrd ends in the middle of a cpio archive"),
    (cpio(FILES)[:50], "initrd ends in the middle of a cpio archive"),
    (gzip.compress(cpio(FILES), mtime=0)[:-20], "initrd ends in the middle of compressed data"),
    (zstandard.compress(b"no archive" * 20), "initrd: there is no cpio archive where one should be"),
    (b"070701" + b"z" * 104, "initrd: the header of a cpio member is malformed"),
    (b"070701" + b"0" * 88 + b"00002000" + b"0" * 8, "initrd: a cpio member has a name of 8192 bytes"),
])
def test_what_is_damaged(data: bytes, message: str) -> None:
    with pytest.raises(InitrdError) as caught:
        list(members(data))
    assert str(caught.value) == message


@settings(deadline=None)
@given(st.sampled_from(sorted(SQUEEZE)), st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damage_is_an_error_or_other_names(kind: str, at: int, noise: bytes) -> None:
    data = bytearray(SQUEEZE[kind](cpio(FILES)))
    at %= len(data)
    data[at : at + len(noise)] = noise
    with suppress(InitrdError):
        list(members(data))


@given(st.binary(max_size=400))
def test_noise(data: bytes) -> None:
    with suppress(InitrdError):
        list(members(data))
