# SPDX-License-Identifier: Apache-2.0
"""Boot entries: reading, writing, names with counters, and the order of the menu."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import BootEntryError
from bootcd.formats.bls import MAX_SIZE, BootEntry, EntryName, clean, sort_entries

ENTRY = b"""\
# written by hand
title   Debian GNU/Linux 13 (trixie)
sort-key\tdebian

options root=UUID=6d3376e4 quiet
x-from  somewhere else
initrd /a/microcode
initrd /a/initrd
linux /a/linux
options debug
"""


def test_reads_the_fields() -> None:
    entry = BootEntry.parse(ENTRY)
    assert entry.get("title") == "Debian GNU/Linux 13 (trixie)"
    assert entry.get("sort-key") == "debian"
    assert entry.get_all("initrd") == ["/a/microcode", "/a/initrd"]
    assert entry.options == "root=UUID=6d3376e4 quiet debug"
    assert entry.loader == "a/linux"
    assert list(entry.files) == ["a/microcode", "a/initrd", "a/linux"]
    assert entry.get("version") is None


def test_keeps_comments_order_and_unknown_keys() -> None:
    entry = BootEntry.parse(ENTRY)
    entry.set("options", "quiet")
    assert entry.format().decode().splitlines() == [
        "# written by hand", "title Debian GNU/Linux 13 (trixie)", "sort-key debian", "", "options quiet",
        "x-from somewhere else", "initrd /a/microcode", "initrd /a/initrd", "linux /a/linux",
    ]


@pytest.mark.parametrize("data", [b"title A\r\nlinux /b\r\n", b"title A\rlinux /b", b"  title  A \nlinux\t/b"])
def test_other_line_ends_and_blanks(data: bytes) -> None:
    assert BootEntry.parse(data).items == [("title", "A"), ("linux", "/b")]


def test_the_last_of_a_repeated_key_counts() -> None:
    assert BootEntry.parse(b"title A\ntitle B\n").get("title") == "B"


@pytest.mark.parametrize(("data", "message"), [
    (b"title \xff\n", "byte 6 is no UTF-8"), (b"title a\nlinux /a\0b\n", "line 2 contains a NUL"),
    (b"#" * (MAX_SIZE + 1), "too many"),
])
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(BootEntryError, match=message):
        BootEntry.parse(data, "x.conf")


@pytest.mark.parametrize(("key", "value"), [
    ("title", "a\nlinux /evil"), ("title", "a\rb"), ("title", " a"), ("", "a"), ("#x", "a"), ("a b", "c"),
    ("title", "\ud800"),
])
def test_does_not_write_what_it_would_not_read_back(key: str, value: str) -> None:
    with pytest.raises(BootEntryError):
        BootEntry().add(key, value)
    if key:
        with pytest.raises(BootEntryError):
            BootEntry([(key, value)]).format()


def test_clean_makes_a_value_of_anything() -> None:
    assert clean(" a\n\tb\0 c\u2028") == "a b c"


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(BootEntryError):
        entry = BootEntry.parse(data)
        assert BootEntry.parse(entry.format()) == entry


@settings(deadline=None, max_examples=100)
@given(st.text("ab#\\ \t\r\n+=é", max_size=80))
def test_any_text_comes_back(text: str) -> None:
    entry = BootEntry.parse(text.encode())
    assert BootEntry.parse(entry.format()) == entry


@pytest.mark.parametrize(("file_name", "name"), [
    ("bootcd-0000000003-abcdef012345+3-1.conf", EntryName("bootcd-0000000003-abcdef012345", 3, 1)),
    ("a+3.conf", EntryName("a", 3)), ("a.conf", EntryName("a")), ("a+0-3.conf", EntryName("a", 0, 3)),
    ("6.1+5+2.conf", EntryName("6.1+5", 2)), ("6.1+5.conf", EntryName("6.1", 5)),
    ("6.1+5-x.conf", EntryName("6.1+5-x")),
    ("a+.conf", EntryName("a+")), ("a+3-.conf", EntryName("a+3-")), ("a+3-1-1.conf", EntryName("a+3-1-1")),
    ("a+3b.conf", EntryName("a+3b")), ("a+09-01.conf", EntryName("a", 9, 1)),
    ("a+12345678901.conf", EntryName("a+12345678901")), ("A+1.CONF", EntryName("A", 1)),
])
def test_names(file_name: str, name: EntryName) -> None:
    assert EntryName.parse(file_name) == name


@pytest.mark.parametrize("file_name", ["a", "a.efi", "ä.conf", "a b.conf", "x" * 260 + ".conf", "a/b.conf", "a.conf\n"])
def test_no_names(file_name: str) -> None:
    with pytest.raises(BootEntryError):
        EntryName.parse(file_name)


def test_id_excludes_the_counter() -> None:
    assert EntryName.parse("foo+3-0.conf").id == "foo.conf"
    assert EntryName.parse("foo+0-3.conf").bad
    assert not EntryName.parse("foo.conf").bad


@settings(deadline=None, max_examples=100)
@given(st.text("ab+-.", min_size=1, max_size=12), st.none() | st.integers(0, 99), st.none() | st.integers(0, 99))
def test_names_come_back(stem: str, left: int | None, done: int | None) -> None:
    name = EntryName(stem, left, None if left is None else done)
    assert EntryName.parse(str(name)) == name


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=20))
def test_any_name(file_name: str) -> None:
    with contextlib.suppress(BootEntryError):
        assert EntryName.parse(file_name).stem


def test_order_of_the_menu() -> None:
    """The rules of the specification, one after the other."""
    expected = [
        ("b-1.conf", "sort-key a\nmachine-id 1\nversion 2"),
        ("c-1.conf", "sort-key a\nmachine-id 1\nversion 1"),
        ("a-9.conf", "sort-key a\nmachine-id 2\nversion 9"),
        ("a-8+2.conf", "sort-key b\nversion 10"),
        ("a-7.conf", "sort-key b\nversion 9"),
        ("a-6.conf", "sort-key b\nversion 9"),
        ("a-10.conf", "version 1"),
        ("a-3.conf", "version 99"),
        ("z-9+0-3.conf", "sort-key a\nversion 99"),
        ("z-8+0-1.conf", "version 3"),
    ]
    entries = [(EntryName.parse(name), BootEntry.parse(text.encode())) for name, text in expected]
    shuffled = entries[:]
    random.Random(4).shuffle(shuffled)
    assert sort_entries(shuffled, lambda entry: entry) == entries


def test_more_tries_left_win_between_equals() -> None:
    names = [EntryName("a", 3, 0), EntryName("a", 2, 0), EntryName("a", 2, 1)]
    assert sort_entries(reversed(names), lambda name: (name, BootEntry())) == names
