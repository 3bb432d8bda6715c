# SPDX-License-Identifier: Apache-2.0
"""The dump text in both directions, and against the tools that define it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import DumpError
from bootcd.formats.dump import format_dump, parse_dump
from bootcd.formats.tree import CharDevice, Directory, RegularFile, Symlink
from formats.trees import describe, trees

ROOT = b"/ 0 40755 2 0 0 0 0.0 - - -\n"
DIGEST = "ab" * 32
OBJECT = f"ab/{'ab' * 31}"


def parse(*lines: str) -> Directory:
    return parse_dump([ROOT, *(line.encode() for line in lines)])


def test_a_dump_reads_as_documented() -> None:
    root = Directory(0o755, mtime=5, mtime_nsec=7)
    root.entries[b"usr"] = usr = Directory(0o755, xattrs={b"user.a=b": b"-", b"security.selinux": b"x\0"})
    usr.entries[b"a b"] = file = RegularFile(0o4755, 1, 2, inline=b"-")
    usr.entries[b"c"] = file
    usr.entries[b"ext"] = RegularFile(0o644, digest=bytes.fromhex(DIGEST), size=100)
    usr.entries[b"hole"] = RegularFile(0o644, size=100)
    usr.entries[b"link"] = Symlink(0o777, mtime=-6, target=b"\xc3\xa4\\\n")
    usr.entries[b"null"] = CharDevice(0o666, rdev=259)
    assert b"".join(format_dump(root)).decode() == (
        "/ 0 40755 3 0 0 0 5.7 - - -\n"
        "/usr 0 40755 2 0 0 0 0.0 - - - security.selinux=x\\x00 user.a\\x3db=-\n"
        "/usr/a\\x20b 1 104755 2 1 2 0 0.0 - \\x2d -\n"
        "/usr/c 0 @120000 - - - - 0.0 /usr/a\\x20b - -\n"
        f"/usr/ext 100 100644 1 0 0 0 0.0 {OBJECT} - {DIGEST}\n"
        "/usr/hole 100 100644 1 0 0 0 0.0 - - -\n"
        "/usr/link 4 120777 1 0 0 0 -6.0 \\xc3\\xa4\\\\\\n - -\n"
        "/usr/null 0 20666 1 0 0 259 0.0 - - -\n"
    )


@settings(max_examples=80, deadline=None)
@given(trees())
def test_a_tree_survives_its_dump(root: Directory) -> None:
    lines = list(format_dump(root))
    again = parse_dump(lines)
    assert describe(again) == describe(root)
    assert list(format_dump(again)) == lines


def test_hard_links_may_come_before_their_target_and_lead_through_each_other() -> None:
    root = parse(
        "/a 0 @100644 1 0 0 0 0.0 /d/b - -",
        "/d 0 40755 2 0 0 0 0.0 - - -",
        "/d/b 0 @100644 1 0 0 0 0.0 /d/c - -",
        "/d/c 3 100644 1 0 0 0 0.0 - abc -",
    )
    assert root.lookup(b"/a") is root.lookup(b"/d/b") is root.lookup(b"/d/c")


def test_text_fields_at_the_end_of_a_line_may_be_absent() -> None:
    root = parse("/a 0 100644 1 0 0 0 0.0", "", "/b 7 100644 1 0 0 0 0.0 x/y")
    assert describe(root)[1][-1] == (0, b"", None, None)
    assert describe(root)[2][-1] == (7, None, None, b"x/y")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a 0 100644 1 0 0 0", "7 fields"),
        ("a 0 100644 1 0 0 0 0.0 - - -", "not absolute"),
        ("/a/b 0 100644 1 0 0 0 0.0 - - -", "parent"),
        ("//a 0 100644 1 0 0 0 0.0 - - -", "parent"),
        ("/a/ 0 40755 1 0 0 0 0.0 - - -", "invalid name"),
        ("/. 0 40755 1 0 0 0 0.0 - - -", "invalid name"),
        ("/.. 0 40755 1 0 0 0 0.0 - - -", "invalid name"),
        (f"/{'a' * 256} 0 40755 1 0 0 0 0.0 - - -", "invalid name"),
        ("/a\\x00 0 40755 1 0 0 0 0.0 - - -", "invalid name"),
        ("/a\0 0 40755 1 0 0 0 0.0 - - -", "NUL"),
        ("/ 0 40755 2 0 0 0 0.0 - - -", "twice"),
        ("/a\\q 0 100644 1 0 0 0 0.0 - - -", "escape"),
        ("/a\\ 0 100644 1 0 0 0 0.0 - - -", "escape"),
        ("/a\\x4 0 100644 1 0 0 0 0.0 - - -", "escape"),
        ("/a 0 644 1 0 0 0 0.0 - - -", "file type"),
        ("/a 0 7100644 1 0 0 0 0.0 - - -", "mode"),
        ("/a 0 100648 1 0 0 0 0.0 - - -", "mode"),
        ("/a 0 100644 1 4294967296 0 0 0.0 - - -", "uid"),
        ("/a 0 100644 1 0 -1 0 0.0 - - -", "gid"),
        ("/a 0 100644 1 1_0 0 0 0.0 - - -", "uid"),
        (f"/a {'9' * 5000} 100644 1 0 0 0 0.0 - - -", "size"),
        ("/a 0 100644 1 0 0 3 0.0 - - -", "rdev"),
        ("/a 0 100644 1 0 0 0 0 - - -", "mtime"),
        ("/a 0 100644 1 0 0 0 0.1000000000 - - -", "nanoseconds"),
        ("/a 0 100644 1 0 0 0 --1.0 - - -", "mtime"),
        ("/a 4 100644 1 0 0 0 0.0 - abc -", "3 bytes of content"),
        (f"/a 5001 100644 1 0 0 0 0.0 - {'a' * 5001} -", "5000 are allowed"),
        (f"/a 3 100644 1 0 0 0 0.0 {OBJECT} abc -", "both"),
        (f"/a 3 100644 1 0 0 0 0.0 - - {DIGEST}", "without a payload"),
        (f"/a 3 100644 1 0 0 0 0.0 x/y - {DIGEST}", "not the object"),
        ("/a 3 100644 1 0 0 0 0.0 x/y - 00", "digest"),
        ("/a 3 100644 1 0 0 0 0.0 //x - -", "backing path"),
        ("/a 1 120777 1 0 0 0 0.0 - - -", "symlink target"),
        (f"/a 1 120777 1 0 0 0 0.0 {'t' * 4096} - -", "symlink target"),
        ("/a 1 120777 1 0 0 0 0.0 t c -", "content"),
        ("/a 0 100644 1 0 0 0 0.0 - - - user.a", "'='"),
        ("/a 0 100644 1 0 0 0 0.0 - - - ", "'='"),
        ("/a 0 100644 1 0 0 0 0.0 - - - =x", "invalid name"),
        ("/a 0 @100644 1 0 0 0 0.0 /b - -", "does not exist"),
        ("/a 0 @100644 1 0 0 0 0.0 /a - -", "back to itself"),
        ("/a 0 @100644 1 0 0 0 0.0 / - -", "directory"),
        ("/a 0 @40755 1 0 0 0 0.0 /b - -", "directory"),
    ],
)
def test_a_bad_line_is_refused_by_number(line: str, message: str) -> None:
    with pytest.raises(DumpError, match=r"^line 2: ") as refused:
        parse(line)
    assert message in str(refused.value)


@pytest.mark.parametrize("lines", [[], [b"\n"], [b"/a 0 40755 2 0 0 0 0.0 - - -"], [b"/ 0 100644 2 0 0 0 0.0 - - -"]])
def test_a_dump_starts_with_a_directory(lines: list[bytes]) -> None:
    with pytest.raises(DumpError):
        parse_dump(lines)


def test_a_path_may_not_appear_twice() -> None:
    with pytest.raises(DumpError, match=r"line 3: .*twice"):
        parse("/a 0 100644 1 0 0 0 0.0 - - -", "/a 0 @100644 1 0 0 0 0.0 /a - -")


def test_links_in_a_circle_are_refused() -> None:
    with pytest.raises(DumpError, match="back to itself"):
        parse("/a 0 @100644 1 0 0 0 0.0 /b - -", "/b 0 @100644 1 0 0 0 0.0 /a - -", "/c 0 @100644 1 0 0 0 0.0 /b - -")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), trees(size=5), st.data())
def test_any_bytes_are_a_tree_or_an_error(junk: list[bytes], root: Directory, data: st.DataObject) -> None:
    text = bytearray(b"".join(format_dump(root)))
    for _ in range(data.draw(st.integers(0, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(b"\0 -/@.\\=019a\n\xff"))
    for lines in (junk, [ROOT, *junk], bytes(text).splitlines(keepends=True)):
        try:
            tree = parse_dump(lines)
        except DumpError:
            continue
        assert describe(parse_dump(format_dump(tree))) == describe(tree)


def test_depth_is_no_limit() -> None:
    root = here = Directory(0o755)
    for _ in range(1500):
        here.entries[b"d"] = here = Directory(0o755)
    lines = list(format_dump(root))
    assert len(lines) == 1501
    assert list(format_dump(parse_dump(lines))) == lines


@pytest.mark.interop
def test_cfsctl_writes_the_same_dump(tmp_path: Path) -> None:
    if shutil.which("cfsctl") is None:
        pytest.skip("cfsctl is not installed")
    top = tmp_path / "top"
    (top / "usr").mkdir(parents=True)
    (top / "-x").mkdir(mode=0o700)
    (top / "usr" / "dash").write_bytes(b"-")
    (top / "usr" / "content").write_bytes(b"a=b\tc\n\r\\ \x7f\xff")
    (top / "usr" / "big").write_bytes(b"x" * 65)
    os.link(top / "usr" / "big", top / "zz")
    (top / "usr" / "l").symlink_to("a b\\c=")
    os.mkfifo(top / "fifo")
    os.mkdir(os.fsencode(top) + b"/n\xe4me = \n")
    os.utime(top / "-x", ns=(0, -5_500_000_000))
    out = subprocess.run(
        ["cfsctl", "--no-repo", "create-dumpfile", "--no-propagate-usr-to-root", top], capture_output=True, check=True
    )
    assert b"".join(format_dump(parse_dump(out.stdout.splitlines(keepends=True)))) == out.stdout


@pytest.mark.interop
@pytest.mark.parametrize("command", [["mkcomposefs"], ["cfsctl", "mkcomposefs"]], ids=" ".join)
@settings(max_examples=15, deadline=None)
@given(root=trees(digest_size=32, whiteouts=False))
def test_the_tools_accept_our_dump(command: list[str], root: Directory) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    dump = b"".join(format_dump(root))
    done = subprocess.run(
        [*command, "--from-file", "--print-digest-only", "-"], input=dump, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stderr, dump)
