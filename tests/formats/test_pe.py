# SPDX-License-Identifier: Apache-2.0
"""Sections of PE files, made by hand, by objcopy, and by nobody in their right mind."""

from __future__ import annotations

import contextlib
import mmap
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import PeError
from bootcd.formats.pe import Pe
from kit.pefiles import make_pe

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SECTIONS = {".linux": b"kernel" * 200, ".initrd": b"initrd", ".cmdline": b"quiet\0", ".osrel": b"ID=debian\n"}
FIRST = 0x80 + 24 + 240
"""Where the section table of `make_pe` begins."""


def test_sections_are_read_without_their_padding() -> None:
    pe = Pe.parse(make_pe(SECTIONS))
    assert pe.sections == list(SECTIONS)
    assert {name: bytes(pe.section(name)) for name in SECTIONS} == SECTIONS
    assert pe.text(".cmdline") == "quiet"


def test_the_first_of_two_sections_counts() -> None:
    data = bytearray(make_pe({".a": b"1", ".b": b"2"}))
    data[FIRST + 40 : FIRST + 42] = b".a"
    assert bytes(Pe.parse(data).section(".a")) == b"1"


def test_a_missing_section_is_named() -> None:
    with pytest.raises(PeError, match=r"boot\.efi: there is no section '\.cmdline'"):
        Pe.parse(make_pe({".linux": b"1"}), "boot.efi").section(".cmdline")


def test_content_never_comes_from_the_next_section() -> None:
    """VirtualSize beyond the raw data means zeros in memory, not the bytes that follow in the file."""
    data = bytearray(make_pe({".cmdline": b"quiet", ".other": b"composefs=evil"}))
    struct.pack_into("<I", data, FIRST + 8, 4096)
    assert bytes(Pe.parse(data).section(".cmdline")) == b"quiet".ljust(512, b"\0")


@pytest.mark.parametrize(("offset", "value", "message"), [
    (0, 0, "no PE file"), (0x3C, 0xFFFFFFF0, "beyond the end"), (0x3C, 0x40, "no PE signature"),
    (0x80 + 6, 0x0000FFFF, "table of 65535 sections"), (FIRST + 20, 0xFFFFFFFF, "section '.linux'"),
])
def test_lies_are_found(offset: int, value: int, message: str) -> None:
    data = bytearray(make_pe(SECTIONS))
    struct.pack_into("<I", data, offset, value)
    with pytest.raises(PeError, match=message):
        Pe.parse(data)


def test_a_truncated_file_is_refused_at_every_length() -> None:
    data = make_pe(SECTIONS, alignment=16)
    whole = FIRST + 40 * len(SECTIONS) + len(b"".join(SECTIONS.values()))
    for length in range(0, whole, 7):
        with pytest.raises(PeError):
            Pe.parse(data[:length])


def test_text_has_bounds() -> None:
    pe = Pe.parse(make_pe({".cmdline": b"a" * 100, ".osrel": b"\xff"}))
    with pytest.raises(PeError, match="100 bytes"):
        pe.text(".cmdline", limit=99)
    with pytest.raises(PeError, match="no UTF-8 at byte 0"):
        pe.text(".osrel")


@settings(deadline=None, max_examples=100)
@given(st.integers(0, FIRST + 160), st.binary(min_size=1, max_size=40))
def test_any_header(offset: int, noise: bytes) -> None:
    data = bytearray(make_pe(SECTIONS))
    data[offset : offset + len(noise)] = noise
    with contextlib.suppress(PeError):
        pe = Pe.parse(data)
        for name in pe.sections:
            assert len(pe.section(name)) <= len(data)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(PeError):
        Pe.parse(data)


@pytest.mark.skipif(shutil.which("objcopy") is None or not STUB.exists(), reason="needs objcopy and systemd's EFI stub")
def test_a_uki_made_by_objcopy(tmp_path: Path) -> None:
    command = ["objcopy"]
    for index, (name, content) in enumerate(SECTIONS.items()):
        (tmp_path / name).write_bytes(content)
        command += ["--add-section", f"{name}={tmp_path / name}",
                    "--change-section-vma", f"{name}={0x1000000 * (index + 1):#x}"]
    subprocess.run([*command, STUB, tmp_path / "uki.efi"], check=True)
    with (tmp_path / "uki.efi").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        pe = Pe.parse(data)
        found = {name: bytes(pe.section(name)) for name in SECTIONS}
        assert ".text" in pe.sections
        del pe
    assert found == SECTIONS
