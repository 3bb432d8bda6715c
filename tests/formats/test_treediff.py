# SPDX-License-Identifier: Apache-2.0
"""Differences of trees: each kind by example, and that they are found exactly when dumps differ."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import given

from bootcd.formats.dump import format_dump
from bootcd.formats.tree import CharDevice, Directory, Inode, RegularFile, Symlink
from bootcd.formats.treediff import differences
from formats.trees import trees


def small() -> Directory:
    root = Directory(0o755)
    root.entries = {
        b"dir": Directory(0o755), b"link": Symlink(target=b"a"), b"null": CharDevice(0o666, rdev=0x103),
        b"file": RegularFile(0o644, inline=b"text", xattrs={b"user.a": b"1"}),
        b"large": RegularFile(0o644, digest=b"d" * 64, size=1000),
    }
    return root


def change(name: bytes, attribute: str, value: object) -> Callable[[Directory], None]:
    return lambda root: setattr(root.entries[name], attribute, value)


def put(name: bytes, inode: Inode) -> Callable[[Directory], None]:
    return lambda root: root.entries.__setitem__(name, inode)


@pytest.mark.parametrize(("do", "said"), [
    (change(b"dir", "permissions", 0o1777), "/dir: mode 1777 instead of 755"),
    (change(b"file", "uid", 5), "/file: owner 5:0 instead of 0:0"),
    (change(b"dir", "mtime_nsec", 5), "/dir: time 0.000000005 instead of 0.000000000"),
    (change(b"file", "xattrs", {b"user.b": b""}), "/file: xattr user.a is missing; xattr user.b was not there"),
    (change(b"file", "xattrs", {b"user.a": b"2"}), "/file: xattr user.a differs"),
    (change(b"file", "inline", b"Text"), "/file: content"),
    (change(b"large", "digest", b"e" * 64), "/large: content"),
    (change(b"link", "target", b"b"), "/link: content"),
    (change(b"null", "rdev", 0x105), "/null: content"),
    (put(b"dir", Symlink(target=b"x")), "/dir: mode 120777 instead of 40755"),
    (put(b"\xff", Symlink(target=b"x")), "/\\xff: added"),
    (lambda root: root.entries.pop(b"dir"), "/dir: missing"),
])
def test_each_kind(do: Callable[[Directory], None], said: str) -> None:
    changed = small()
    do(changed)
    assert [str(one) for one in differences(small(), changed)] == [said]


def test_hard_links() -> None:
    linked = small()
    linked.entries[b"other"] = linked.entries[b"file"]
    apart = small()
    apart.entries[b"other"] = copy.deepcopy(apart.entries[b"file"])
    assert [str(one) for one in differences(linked, apart)] == [
        "/file: 1 links instead of 2", "/other: 1 links instead of 2"]


def test_digests_of_another_algorithm_say_nothing() -> None:
    changed = small()
    changed.entries[b"large"] = RegularFile(0o644, digest=b"d" * 32, size=1000)
    assert list(differences(small(), changed)) == []


@given(trees(), trees())
def test_trees_differ_exactly_when_their_dumps_do(one: Directory, other: Directory) -> None:
    same = list(format_dump(one)) == list(format_dump(other))
    assert bool(list(differences(one, other))) is not same
    assert list(differences(one, one)) == []
