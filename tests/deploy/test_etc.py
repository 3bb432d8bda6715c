# SPDX-License-Identifier: Apache-2.0
"""The three-way merge, row by row of its table, and what holds for any three trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.deploy.etc import BESIDE, Merge, merge
from bootcd.deploy.etccompare import Comparison
from bootcd.deploy.etcrules import Policy, Rule, Rules
from bootcd.deploy.records import EtcDecision
from bootcd.errors import EtcConflict
from bootcd.formats.tree import CharDevice, Device, Directory, Fifo, Inode, RegularFile, Socket, Symlink
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


def ruled(**policies: str) -> Rules:
    """Rules for names below /etc; `all_` is for everything else."""
    names = {"/etc" if name == "all_" else f"/etc/{name}": Policy(policy) for name, policy in policies.items()}
    return Rules(Rule(pattern, policy, "", "test.toml", machine=True)
                 for pattern, policy in sorted(names.items(), key=lambda item: item[0]))


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
    ({"d": {"g": "1"}}, {}, {"d": "2"}, {"d": "2"}, {}),
    ({"f": "1"}, {}, {"f": link("x")}, {}, {"deleted": ("f",)}),
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


# What both sides changed, and what each rule makes of it: keep-local, take-image, both. None is a conflict.
BOTH_CHANGED = [
    ({"f": "1"}, {"f": "mine"}, {"f": "2"}, "changed", "changed",
     {"f": "mine"}, {"f": "2"}, {"f": "mine", "f.bootcd.rpmnew": "2"}, {"f": "mine"}),
    ({"f": "1"}, {"f": "mine"}, {}, "changed", "deleted", {"f": "mine"}, {}, {"f": "mine"}, {"f": "mine"}),
    ({"f": "1"}, {"f": link("x")}, {"f": "2"}, "retyped", "changed",
     {"f": "-> x"}, {"f": "2"}, {"f": "-> x", "f.bootcd.rpmnew": "2"}, {"f": "-> x"}),
    ({}, {"f": "mine"}, {"f": "2"}, "added", "added",
     {"f": "mine"}, {"f": "2"}, {"f": "mine", "f.bootcd.rpmnew": "2"}, {"f": "mine"}),
    ({"f": "1"}, {}, {"f": "2"}, "deleted", "changed", {}, {"f": "2"}, {"f.bootcd.rpmnew": "2"}, {}),
    ({"f": "1"}, {}, {"f": link("x")}, "deleted", "retyped", {}, {"f": "-> x"}, {"f.bootcd.rpmnew": "-> x"}, {}),
    ({"f": "1"}, {"f": "mine"}, {"f": {"g": "2"}}, "changed", "retyped",
     {"f": "mine"}, {"f": {"g": "2"}}, {"f": "mine", "f.bootcd.rpmnew": {"g": "2"}}, None),
    ({}, {"f": "mine"}, {"f": {"g": "2"}}, "added", "added",
     {"f": "mine"}, {"f": {"g": "2"}}, {"f": "mine", "f.bootcd.rpmnew": {"g": "2"}}, None),
    ({"f": {"g": "1"}}, {"f": {"g": "mine"}}, {"f": "2"}, "changed", "retyped",
     {"f": {"g": "mine"}}, {"f": "2"}, {"f": {"g": "mine"}, "f.bootcd.rpmnew": "2"}, None),
    ({"f": {"g": "1"}}, {"f": link("x")}, {"f": {"g": "2"}}, "retyped", "changed",
     {"f": "-> x"}, {"f": {"g": "2"}}, {"f": "-> x", "f.bootcd.rpmnew": {"g": "2"}}, None),
    ({"f": {"g": "1"}}, {"f": "mine"}, {}, "retyped", "deleted", {"f": "mine"}, {}, {"f": "mine"}, {"f": "mine"}),
    ({"f": build({"g": "1"}, 0o755)}, {"f": build({"g": "1"}, 0o700)}, {"f": build({"g": "1"}, 0o711)},
     "changed", "changed", {"f": {"g": "1"}}, {"f": {"g": "1"}}, {"f": {"g": "1"}}, {"f": {"g": "1"}}),
    ({"f": build({"g": "1"}, 0o755)}, {"f": build({"g": "1"}, 0o700)}, {},
     "changed", "deleted", {"f": {}}, {}, {"f": {}}, {"f": {}}),
]


@pytest.mark.parametrize(("pristine", "local", "new", "here", "image", "keep", "take", "both", "default"), BOTH_CHANGED)
def test_rules_decide_what_both_sides_changed(
    pristine: Tree, local: Tree, new: Tree, here: str, image: str, keep: Tree, take: Tree, both: Tree,
    default: Tree | None,
) -> None:
    sides = build(pristine), build(local), build(new)
    for policy, result, taken in ((Policy.KEEP_LOCAL, keep, "local"), (Policy.TAKE_IMAGE, take, "image"),
                                  (Policy.BOTH, both, "both" if both != keep else "local")):
        merged = merge(*sides, rules=ruled(f=policy))
        assert told(merged.root) == result, policy
        assert merged.report.decisions == (EtcDecision("f", here, image, taken, "test.toml: /etc/f"),), policy
    with pytest.raises(EtcConflict, match=f"'f' was {here} here and {image} in the new image, where test.toml"):
        merge(*sides, rules=ruled(f="fail"))
    if default is None:
        with pytest.raises(EtcConflict):
            merge(*sides)
    else:
        merged = merge(*sides)
        assert told(merged.root) == default
        assert merged.report.decisions == (EtcDecision("f", here, image, "local", ""),)


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize(("pristine", "local", "new"), [
    ({"f": "1"}, {"f": "1"}, {"f": "2"}), ({"f": "1"}, {"f": "mine"}, {"f": "1"}), ({"f": "1"}, {"f": "2"}, {"f": "2"}),
    ({}, {"f": "mine"}, {}), ({}, {}, {"f": "2"}), ({"f": "1"}, {}, {}), ({"f": "1"}, {}, {"f": "1"}),
    ({"f": {"g": "1"}}, {"f": {"g": "1"}}, {"f": "2"}), ({"f": {"g": "1"}}, {"f": "mine"}, {"f": {"g": "1"}}),
])
def test_rules_are_not_asked_about_what_one_side_changed(policy: str, pristine: Tree, local: Tree, new: Tree) -> None:
    sides = build(pristine), build(local), build(new)
    assert told(merge(*sides, rules=ruled(f=policy)).root) == told(merge(*sides).root)


def test_a_deletion_that_meets_another_kind_is_told() -> None:
    merged = merge(build({"d": {"g": "1"}}), build({}), build({"d": "2"}), rules=ruled(all_="keep-local"))
    assert told(merged.root) == {"d": "2"}
    assert merged.report.decisions == (EtcDecision("d", "deleted", "retyped", "image", ""),)


def test_the_metadata_of_a_directory_goes_by_the_rule() -> None:
    sides = build({"d": build({}, 0o755)}), build({"d": build({}, 0o700)}), build({"d": build({"n": "2"}, 0o711)})
    for policy, mode in (("keep-local", 0o700), ("both", 0o700), ("take-image", 0o711)):
        directory = merge(*sides, rules=ruled(d=policy)).root.entries[b"d"]
        assert (directory.permissions, told(directory)) == (mode, {"n": "2"})  # type: ignore[arg-type]


def test_an_older_version_of_the_image_that_lies_beside_is_replaced() -> None:
    local = {"f": "mine", "f.bootcd.rpmnew": "1.5", "g.bootcd.rpmnew": "stays"}
    merged = merge(build({"f": "1"}), build(local), build({"f": "2"}), rules=ruled(f="both"))
    assert told(merged.root) == {"f": "mine", "f.bootcd.rpmnew": "2", "g.bootcd.rpmnew": "stays"}


def test_a_name_that_leaves_no_room_for_a_second_one() -> None:
    name = "n" * 250
    merged = merge(build({}), build({name: "mine"}), build({name: "2"}), rules=ruled(all_="both"))
    assert told(merged.root) == {name: "mine"}
    assert [one.taken for one in merged.report.decisions] == ["local"]


def test_a_rule_speaks_for_what_is_below() -> None:
    sides = tuple(build({"d": {"f": text, "g": text}}) for text in ("1", "mine", "2"))
    assert told(merge(*sides, rules=ruled(all_="take-image")).root) == {"d": {"f": "2", "g": "2"}}
    only_one = Rules([Rule("/etc", Policy.TAKE_IMAGE, "", "a", machine=False),
                      Rule("/etc/d/g", Policy.KEEP_LOCAL, "", "b", machine=True)])
    assert told(merge(*sides, rules=only_one).root) == {"d": {"f": "2", "g": "mine"}}


@pytest.mark.parametrize("kind", [Socket(0o600), Fifo(0o600), CharDevice(0o600, rdev=259)])
def test_special_files_are_leaves_like_any_other(kind: Inode) -> None:
    assert merge(build({}), build({"s": kind}), build({})).root.entries[b"s"] is kind
    assert merge(build({"s": "1"}), build({"s": kind}), build({"s": "2"})).report.both_changed == ("s",)
    with pytest.raises(EtcConflict, match=r"'s' is a (socket|fifo|character device) here and a directory"):
        merge(build({}), build({"s": kind}), build({"s": {}}))


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
    with pytest.raises(EtcConflict, match="and 4 more") as caught:
        merge(build({}), build(local), build({name: {} for name in local}))
    assert len(caught.value.conflicts) == 14
    assert "etc-rules.d" in caught.value.hint
    assert "etc reset" in caught.value.hint


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


def tried(pristine: Directory, local: Directory, new: Directory, rules: Rules) -> Merge | EtcConflict:
    """A merge, or why there is none."""
    try:
        return merge(pristine, local, new, rules=rules)
    except EtcConflict as conflict:
        return conflict


_rules = st.lists(st.tuples(
    st.sampled_from(["/etc", "/etc/a", "/etc/b", "/etc/*/a", "/etc/**/c", "/etc/a/b"]), st.sampled_from(list(Policy)),
), max_size=4).map(lambda rules: Rules(
    Rule(pattern, policy, "", f"{number}.toml", machine=True) for number, (pattern, policy) in enumerate(rules)))


@given(_small, _small, _rules)
@settings(deadline=None, max_examples=60)
def test_rules_change_nothing_where_only_one_side_changed(one: Directory, other: Directory, rules: Rules) -> None:
    assert plain(merge(one, one, other, rules=rules).root) == plain(other)
    assert plain(merge(one, other, one, rules=rules).root) == plain(other)
    assert plain(merge(one, other, other, rules=rules).root) == plain(other)
    assert merge(one, other, one, rules=rules).report.decisions == ()


@given(_small, _small, _small, _rules)
@settings(deadline=None, max_examples=300)
def test_with_any_rules(pristine: Directory, local: Directory, new: Directory, rules: Rules) -> None:
    before = plain(pristine), plain(local), plain(new)
    merged = tried(pristine, local, new, rules)
    assert (plain(pristine), plain(local), plain(new)) == before
    if isinstance(merged, EtcConflict):
        assert merged.conflicts
        return
    for one in merged.report.decisions:
        path = one.path.encode()
        rule = rules.deciding(path)
        if (one.here, one.image) != ("deleted", "retyped"):  # where another kind came back, no rule is asked
            assert one.rule == str(rule or "")
        _as_decided(one, path, local, new, merged.root)
    # Once merged there is nothing more to do, and a deletion has taken nothing along that was new in the image.
    assert plain(merge(new, merged.root, new, rules=rules).root) == plain(merged.root)
    for path, node in new.walk():
        if pristine.lookup(path) is None and _free(local, path):
            assert merged.root.lookup(path) is not None, path
            assert isinstance(node, Directory) or plain(merged.root.lookup(path)) == plain(node)  # type: ignore[arg-type]


def _as_decided(one: EtcDecision, path: bytes, local: Directory, new: Directory, root: Directory) -> None:
    here, image, found = local.lookup(path), new.lookup(path), root.lookup(path)
    if isinstance(here, Directory) and isinstance(image, Directory):
        return  # about its metadata
    wanted = image if one.taken == "image" else here
    if not isinstance(wanted, Directory):
        assert found is wanted
    if one.taken == "both":
        assert root.lookup(path + BESIDE) is image
        assert image is not None


def _free(local: Directory, path: bytes) -> bool:
    """Whether nothing stands here in the way of a path."""
    parts = path.strip(b"/").split(b"/")
    above = [local.lookup(b"/".join(parts[:count])) for count in range(1, len(parts))]
    return local.lookup(path) is None and all(node is None or isinstance(node, Directory) for node in above)


@given(_small, _small, _small)
@settings(deadline=None, max_examples=150)
def test_one_rule_for_everything(pristine: Directory, local: Directory, new: Directory) -> None:
    kept = merge(pristine, local, new, rules=ruled(all_="keep-local"))
    taken = merge(pristine, local, new, rules=ruled(all_="take-image"))
    both = merge(pristine, local, new, rules=ruled(all_="both"))
    asked = [one.path for one in kept.report.decisions if one.rule]
    failed = tried(pristine, local, new, ruled(all_="fail"))
    assert isinstance(failed, EtcConflict) == bool(asked)
    if isinstance(failed, EtcConflict):
        assert len(failed.conflicts) >= len(asked)
    same = Comparison().same
    for path, node in local.walk():  # no local change is lost by keep-local, nor by both
        old = pristine.lookup(path)
        if not isinstance(node, Directory) and (old is None or not same(old, node)):
            assert kept.root.lookup(path) is not None
            assert both.root.lookup(path) is not None
    for path, node in new.walk():  # no change of the image is lost by take-image
        old = pristine.lookup(path)
        if not isinstance(node, Directory) and (old is None or not same(old, node)):
            assert plain(taken.root.lookup(path)) == plain(node)  # type: ignore[arg-type]


def test_many_decisions_are_cut() -> None:
    local = build({f"{number:0200}": "mine" for number in range(3000)})
    new = build({f"{number:0200}": "2" for number in range(3000)})
    decisions = merge(Directory(), local, new).report.decisions
    assert len(decisions) <= 1001
    assert decisions[-1].path == f"… and {3000 - len(decisions) + 1} more"


@pytest.mark.parametrize(("name", "most"), [("{}", 1001), ("{}" + "x" * 250, 400)])
def test_a_long_report_is_cut(name: str, most: int) -> None:
    local = build({name.format(number): "" for number in range(3000)})
    added = merge(Directory(), local, Directory()).report.added
    assert len(added) <= most
    assert added[-1] == f"… and {3000 - len(added) + 1} more"


def test_the_report_does_not_tell_what_only_root_may_see() -> None:
    """Everybody can read it, in the record and on the bus."""
    def closed(content: Mapping[str, Any]) -> Directory:
        root = build({"open": "x"})
        root.entries[b"private"] = build(dict(content), mode=0o700)
        return root

    before, after = closed({"key": "old", "gone": "x"}), closed({"key": "mine", "alice-vpn.key": "secret"})
    report = merge(before, after, closed({"key": "new", "gone": "x"})).report
    assert report.both_changed == report.added == report.deleted == ("private/…",)
    assert {decision.path for decision in report.decisions} <= {"private/…"}
