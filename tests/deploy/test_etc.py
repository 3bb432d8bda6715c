# SPDX-License-Identifier: Apache-2.0
"""The three-way merge, row by row of its table, and what holds for any three trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.deploy.etc import merge
from bootcd.errors import EtcConflict
from bootcd.formats.tree import Device, Directory, Inode, RegularFile, Symlink
from formats.trees import trees

Tree = Mapping[str, Any]
"""Names; text is a file, a mapping a directory, an inode itself."""


def build(tree: Tree, mode: int = 0o755) -> Directory:
    root = Directory(mode)
    for name, value in tree.items():
        if isinstance(value, str):
            root.entries[name.encode()] = RegularFile(0o644, inline=value.encode())
        else:
            root.entries[name.encode()] = value if isinstance(value, Inode) else build(value)
    return root


def told(root: Directory) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in root.entries.items():
        if isinstance(node, Directory):
            found[name.decode()] = told(node)
        elif isinstance(node, RegularFile):
            found[name.decode()] = (node.inline or b"").decode()
        elif isinstance(node, Symlink):
            found[name.decode()] = "-> " + node.target.decode()
    return found


def link(target: str) -> Symlink:
    return Symlink(target=target.encode())


@pytest.mark.parametrize(("pristine", "local", "new", "result", "report"), [
    # nothing was done here: the image decides
    ({"f": "1"}, {"f": "1"}, {"f": "2"}, {"f": "2"}, {}),
    ({"f": "1"}, {"f": "1"}, {}, {}, {}),
    ({}, {}, {"f": "2"}, {"f": "2"}, {}),
    ({"f": "1"}, {"f": "1"}, {"f": {"g": "2"}}, {"f": {"g": "2"}}, {}),
    ({"f": {"g": "1"}}, {"f": {"g": "1"}}, {"f": "2"}, {"f": "2"}, {}),
    ({"d": {"g": "1"}}, {"d": {"g": "1"}}, {}, {}, {}),
    # changed here: stays
    ({"f": "1"}, {"f": "mine"}, {"f": "1"}, {"f": "mine"}, {"kept_local": ("f",)}),
    ({"f": "1"}, {"f": "mine"}, {"f": "2"}, {"f": "mine"}, {"both_changed": ("f",)}),
    ({"f": "1"}, {"f": "mine"}, {}, {"f": "mine"}, {"kept_local": ("f",)}),
    ({"f": "1"}, {"f": "2"}, {"f": "2"}, {"f": "2"}, {}),
    ({"f": "1"}, {"f": link("x")}, {"f": "2"}, {"f": "-> x"}, {"both_changed": ("f",)}),
    # added here: stays
    ({}, {"f": "mine"}, {}, {"f": "mine"}, {"added": ("f",)}),
    ({}, {"f": "mine"}, {"f": "2"}, {"f": "mine"}, {"both_changed": ("f",)}),
    ({}, {"d": {"g": "mine"}}, {}, {"d": {"g": "mine"}}, {"added": ("d",)}),
    ({}, {"d": {"g": "mine"}}, {"d": {"h": "2"}}, {"d": {"g": "mine", "h": "2"}}, {"added": ("d/g",)}),
    # deleted here: stays deleted, but takes nothing new along
    ({"f": "1"}, {}, {"f": "1"}, {}, {"deleted": ("f",)}),
    ({"f": "1"}, {}, {"f": "2"}, {}, {"deleted": ("f",)}),
    ({"f": "1"}, {}, {}, {}, {}),
    ({"f": "1"}, {}, {"f": {"g": "2"}}, {"f": {"g": "2"}}, {}),
    ({"d": {"g": "1"}}, {}, {"d": {"g": "2", "h": "2"}}, {"d": {"h": "2"}}, {"deleted": ("d/g",)}),
    ({"d": {"g": "1"}}, {}, {"d": {"g": "1"}}, {}, {"deleted": ("d/g", "d")}),
    ({"d": {"g": "1"}}, {}, {"d": "2"}, {}, {"deleted": ("d",)}),
    # inside of a directory every name by itself
    ({"d": {"g": "1", "h": "1"}}, {"d": {"g": "mine", "h": "1"}}, {"d": {"g": "1", "h": "2", "i": "2"}},
     {"d": {"g": "mine", "h": "2", "i": "2"}}, {"kept_local": ("d/g",)}),
    ({"d": {"g": "1", "h": "1"}}, {"d": {"g": "mine", "h": "1"}}, {}, {"d": {"g": "mine"}}, {"kept_local": ("d/g",)}),
    # turned into something else here, and untouched by the image: stays
    ({"d": {"g": "1"}}, {"d": link("/srv/d")}, {"d": {"g": "1"}}, {"d": "-> /srv/d"}, {"kept_local": ("d",)}),
    ({"f": "1"}, {"f": {"g": "mine"}}, {"f": "1"}, {"f": {"g": "mine"}}, {"kept_local": ("f",)}),
    ({"f": "1"}, {"f": {"g": "mine"}}, {}, {"f": {"g": "mine"}}, {"kept_local": ("f",)}),
])
def test_table(pristine: Tree, local: Tree, new: Tree, result: Tree, report: Mapping[str, Any]) -> None:
    merged = merge(build(pristine), build(local), build(new))
    assert told(merged.root) == result
    found = merged.report
    assert {name: getattr(found, name) for name in ("kept_local", "both_changed", "added", "deleted")
            if getattr(found, name)} == report


@pytest.mark.parametrize(("pristine", "local", "new"), [
    ({"f": "1"}, {"f": "mine"}, {"f": {"g": "2"}}),
    ({}, {"f": "mine"}, {"f": {"g": "2"}}),
    ({"d": {"g": "1"}}, {"d": {"g": "mine"}}, {"d": "2"}),
    ({"d": {"g": "1"}}, {"d": link("x")}, {"d": {"g": "2"}}),
    ({}, {"d": {"g": "mine"}}, {"d": "2"}),
])
def test_conflicts(pristine: Tree, local: Tree, new: Tree) -> None:
    with pytest.raises(EtcConflict, match=r"'sub/[df]'"):
        merge(build({"sub": build(pristine)}), build({"sub": build(local)}), build({"sub": build(new)}))


def test_all_conflicts_are_counted() -> None:
    local = {f"f{number}": "mine" for number in range(14)}
    with pytest.raises(EtcConflict, match="and 4 more"):
        merge(build({}), build(local), build({name: {} for name in local}))


def test_a_changed_mode_is_a_change() -> None:
    merged = merge(build({"d": build({}, 0o755)}), build({"d": build({}, 0o700)}), build({"d": build({"n": "2"})}))
    directory = merged.root.entries[b"d"]
    assert directory.permissions == 0o700
    assert merge(build({}, 0o755), build({}, 0o755), build({}, 0o711)).root.permissions == 0o711


def test_a_directory_of_the_image_that_was_changed_here_stays() -> None:
    merged = merge(build({"d": build({}, 0o755)}), build({"d": build({}, 0o700)}), build({}))
    assert merged.root.entries[b"d"].permissions == 0o700


def test_owners_count_only_for_root() -> None:
    local = RegularFile(0o644, 1000, 1000, inline=b"1")
    new = RegularFile(0o644, inline=b"2")
    pristine = build({"f": "1"})
    assert merge(pristine, build({"f": local}), build({"f": new})).root.entries[b"f"] is local
    assert merge(pristine, build({"f": local}), build({"f": new}), owners=False).root.entries[b"f"] is new


def test_times_do_not_count() -> None:
    touched = RegularFile(0o644, mtime=99, inline=b"1")
    assert told(merge(build({"f": "1"}), build({"f": touched}), build({"f": "2"})).root) == {"f": "2"}


def test_hard_links_stay_links() -> None:
    shared = RegularFile(0o644, inline=b"mine")
    root = merge(build({}), build({"a": shared, "b": shared}), build({})).root
    assert root.entries[b"a"] is root.entries[b"b"]


def test_names_that_are_no_text_are_reported() -> None:
    local = Directory(0o755)
    local.entries[b"\xff"] = RegularFile(0o644, inline=b"x")
    assert merge(build({}), local, build({})).report.added == ("\udcff",)


def test_depth_is_bounded() -> None:
    deep = Directory(0o755)
    for _ in range(3000):
        outer = Directory(0o755)
        outer.entries[b"d"] = deep
        deep = outer
    with pytest.raises(EtcConflict, match="nested"):
        merge(build({}), build({}), deep)


# --- any trees --------------------------------------------------------------------------------------------------------


def plain(node: Inode) -> Any:
    """All of a tree but times and the mode of symlinks, which do not count."""
    rest: Any = None
    if isinstance(node, Directory):
        rest = {name: plain(child) for name, child in node.entries.items()}
    elif isinstance(node, RegularFile):
        rest = (node.size, node.inline, node.digest)
    elif isinstance(node, Symlink):
        rest = node.target
    elif isinstance(node, Device):
        rest = node.rdev
    mode = 0 if isinstance(node, Symlink) else node.permissions
    return type(node).__name__, mode, node.uid, node.gid, node.xattrs, rest


_leaf = st.sampled_from(["1", "2", "3"]) | st.sampled_from(["x", "y"]).map(link)
_small = st.recursive(
    st.dictionaries(st.sampled_from("abc"), _leaf, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), _leaf | inner, max_size=3), max_leaves=8).map(build)


@given(_small | trees(), _small | trees())
@settings(deadline=None, max_examples=60)
def test_without_local_changes_the_image_decides(pristine: Directory, new: Directory) -> None:
    merged = merge(pristine, pristine, new)
    assert plain(merged.root) == plain(new)
    assert merged.report == type(merged.report)()


@given(_small | trees(), _small | trees())
@settings(deadline=None, max_examples=60)
def test_without_changes_of_the_image_nothing_changes_here(pristine: Directory, local: Directory) -> None:
    assert plain(merge(pristine, local, pristine).root) == plain(local)


@given(_small, _small, _small)
@settings(deadline=None, max_examples=200)
def test_any_three_trees_merge_or_conflict(pristine: Directory, local: Directory, new: Directory) -> None:
    before = plain(pristine), plain(local), plain(new)
    try:
        merged = merge(pristine, local, new)
    except EtcConflict:
        return
    finally:
        assert (plain(pristine), plain(local), plain(new)) == before
    # Every local change is there, and once merged there is nothing more to do.
    for name in merged.report.kept_local + merged.report.both_changed + merged.report.added:
        assert merged.root.lookup(name.encode()) is not None
    for name in merged.report.deleted:
        assert merged.root.lookup(name.encode()) is None
    assert plain(merge(new, merged.root, new).root) == plain(merged.root)


@pytest.mark.parametrize(("name", "most"), [("{}", 1001), ("{}" + "x" * 250, 400)])
def test_a_long_report_is_cut(name: str, most: int) -> None:
    local = build({name.format(number): "" for number in range(3000)})
    added = merge(Directory(), local, Directory()).report.added
    assert len(added) <= most
    assert added[-1] == f"… and {3000 - len(added) + 1} more"
