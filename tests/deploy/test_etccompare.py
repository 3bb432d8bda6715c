# SPDX-License-Identifier: Apache-2.0
"""What counts as a change, and how it is called."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from bootcd.deploy.etccompare import Comparison, kind_of_file
from bootcd.formats.tree import CharDevice, Directory, Fifo, Inode, RegularFile, Socket, Symlink
from formats.trees import trees

ALL = Comparison()


def file(text: bytes = b"1", mode: int = 0o644, **metadata: object) -> RegularFile:
    return RegularFile(mode, inline=text, **metadata)  # type: ignore[arg-type]


def tree(**entries: Inode) -> Directory:
    root = Directory(0o755)
    root.entries = {name.encode(): node for name, node in entries.items()}
    return root


@pytest.mark.parametrize(("before", "after", "kind", "what"), [
    (None, file(), "added", ()), (file(), None, "deleted", ()), (file(), Symlink(target=b"x"), "retyped", ()),
    (file(), Directory(), "retyped", ()), (None, Directory(), "added", ()),
    (file(), file(b"2"), "changed", ("content",)), (file(), file(mode=0o600), "changed", ("mode",)),
    (file(), file(uid=1), "changed", ("owner",)), (file(), file(gid=1), "changed", ("owner",)),
    (file(), file(xattrs={b"user.x": b""}), "changed", ("xattrs",)),
    (file(), file(b"2", 0o600, uid=1, xattrs={b"user.x": b""}), "changed", ("content", "mode", "owner", "xattrs")),
    (Symlink(target=b"x"), Symlink(target=b"y"), "changed", ("content",)),
    (CharDevice(rdev=1), CharDevice(rdev=2), "changed", ("content",)),
    (RegularFile(digest=b"1" * 64, size=70), RegularFile(digest=b"2" * 64, size=70), "changed", ("content",)),
])
def test_differences(before: Inode | None, after: Inode | None, kind: str, what: tuple[str, ...]) -> None:
    (found,) = ALL.differences(*(tree() if node is None else tree(x=node) for node in (before, after)))
    assert (found.path, found.kind, found.what, found.before, found.after) == (b"x", kind, what, before, after)


@pytest.mark.parametrize(("before", "after"), [
    (file(), file(mtime=5)), (Symlink(0o777, target=b"x"), Symlink(0o644, target=b"x")), (Fifo(0o600), Fifo(0o600)),
    (Socket(0o600), Socket(0o600)),
])
def test_no_differences(before: Inode, after: Inode) -> None:
    assert list(ALL.differences(tree(x=before), tree(x=after))) == []
    assert ALL.same(before, after)


def test_directories_are_told_by_their_contents_and_by_themselves() -> None:
    before = tree(d=tree(f=file(), g=file()))
    after = tree(d=tree(f=file(b"2"), h=tree(i=file())))
    after.permissions = after.entries[b"d"].permissions = 0o700
    assert [(one.path, one.kind, one.what) for one in ALL.differences(before, after)] == [
        (b".", "changed", ("mode",)), (b"d", "changed", ("mode",)), (b"d/f", "changed", ("content",)),
        (b"d/g", "deleted", ()), (b"d/h", "added", ())]


def test_owners_may_not_count() -> None:
    before, after = tree(x=file()), tree(x=file(uid=1, xattrs={b"user.x": b""}))
    assert list(Comparison(owners=False).differences(before, after)) == []


@given(trees(), trees())
@settings(deadline=None, max_examples=50)
def test_two_trees_are_the_same_when_nothing_differs(one: object, other: object) -> None:
    assert isinstance(one, Directory)
    assert isinstance(other, Directory)
    assert list(ALL.differences(one, one)) == []
    assert ALL.same(one, other) == (not list(ALL.differences(one, other)))


def test_kinds_have_words() -> None:
    assert [kind_of_file(node) for node in (file(), Directory(), CharDevice())] == [
        "file", "directory", "character device"]
