# SPDX-License-Identifier: Apache-2.0
"""A tree gets the labels that its own policy gives it, the same that composefs-rs computes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import PolicyError
from bootcd.formats.dump import format_dump, parse_dump
from bootcd.formats.selabel import move, relabel
from bootcd.formats.tree import CharDevice, Directory, Fifo, Inode, RegularFile, Symlink

FILES = "etc/selinux/targeted/contexts/files"


def content(file: RegularFile) -> bytes:
    assert file.inline is not None
    return file.inline


def make(*paths: str, config: str | None = "SELINUXTYPE=targeted\n", **policy: str) -> Directory:
    """A tree of the given files (directories end in '/') with a policy; `subs` stands for file_contexts.subs."""
    root = Directory(0o755, xattrs={b"security.selinux": b"stale"})
    for path in paths:
        put(root, path, Directory(0o755) if path.endswith("/") else RegularFile(0o644, inline=b""))
    put(root, FILES + "/", Directory(0o755))
    if config is not None:
        put(root, "etc/selinux/config", RegularFile(0o644, inline=config.encode()))
    for name, text in policy.items():
        file = "file_contexts" if name == "rules" else f"file_contexts.{name}"
        put(root, f"{FILES}/{file}", RegularFile(0o644, inline=text.encode()))
    return root


def put(root: Directory, path: str, inode: Inode) -> None:
    *parents, name = path.strip("/").split("/")
    here = root
    for parent in parents:
        child = here.entries.setdefault(parent.encode(), Directory(0o755))
        assert isinstance(child, Directory)
        here = child
    here.entries.setdefault(name.encode(), inode)


def labels(root: Directory) -> dict[str, str]:
    """Labels by path, without those of the policy."""
    return {
        path.decode(): inode.xattrs[b"security.selinux"].decode() for path, inode in root.walk()
        if b"security.selinux" in inode.xattrs and not path.startswith(b"/etc")
    }  # fmt: skip


def relabelled(root: Directory) -> dict[str, str]:
    relabel(root, content)
    return labels(root)


def test_the_last_rule_wins_however_specific_it_is() -> None:
    root = make("a", "b", rules="/a A\n/.* all\n/b B\n")
    assert relabelled(root) == {"/": "all", "/a": "all", "/b": "B"}


def test_later_files_win() -> None:
    root = make("a", "b", "c", rules="/. 1\n", local="/[ab] 2\n", homedirs="/a 3\n")
    assert relabelled(root) == {"/a": "3", "/b": "2", "/c": "1"}


def test_rules_may_be_for_one_type() -> None:
    rules = "/. any\n/. -d dir\n/. -- file\n/. -l link\n/. -p pipe\n/. -c char\n"
    root = make("d/", "f", rules=rules + "/. -b block\n/. -s socket\n# comment\n\n")
    root.entries |= {b"l": Symlink(target=b"x"), b"p": Fifo(), b"c": CharDevice(rdev=1)}
    assert relabelled(root) == {"/d": "dir", "/f": "file", "/l": "link", "/p": "pipe", "/c": "char"}


def test_no_rule_and_none_remove_the_label() -> None:
    root = make("a", "b", rules="/.* all\n/a <<none>>\n/ -d <<none>>\n")
    root.entries[b"a"].xattrs |= {b"security.selinux": b"stale", b"user.kept": b"1"}
    assert relabelled(root) == {"/b": "all"}
    assert root.entries[b"a"].xattrs == {b"user.kept": b"1"}


@pytest.mark.parametrize("config", [None, "", "SELINUX=enforcing\n", "#SELINUXTYPE=targeted\n"])
def test_without_a_policy_nothing_has_a_label(config: str | None) -> None:
    root = make("a", config=config, rules="/.* all\n")
    assert relabelled(root) == {}
    assert relabelled(Directory(0o755, xattrs={b"security.selinux": b"stale"})) == {}


def test_the_first_type_of_the_config_counts_in_any_case() -> None:
    root = make("a", config="# x = y\n SelinuxType =  targeted \nSELINUXTYPE=other\n", rules="/a A\n")
    assert relabelled(root) == {"/a": "A"}


def test_aliases_stand_for_whole_directories_and_dist_wins() -> None:
    root = make(
        "lib/x", "lib/y", "other/x", rules="/usr/lib/x X\n/wrong/x W\n/elsewhere E\n",
        subs="/lib /wrong\n", subs_dist="/lib /usr/lib\n/usr/lib/y /elsewhere\n",
    )  # fmt: skip
    assert relabelled(root) == {"/lib/x": "X", "/lib/y": "E"}


def test_hard_links_with_different_labels_are_split() -> None:
    root = make(rules="/[ab] AB\n/[cd] CD\n")
    shared = RegularFile(0o644, 1, 2, 3, 4, {b"user.x": b"y"}, inline=b"content")
    root.entries |= dict.fromkeys((b"a", b"b", b"c", b"d", b"e"), shared)
    assert relabelled(root) == {"/a": "AB", "/b": "AB", "/c": "CD", "/d": "CD"}
    a, b, c, d, e = (root.entries[name] for name in (b"a", b"b", b"c", b"d", b"e"))
    assert a is b is shared
    assert len({id(a), id(c), id(d), id(e)}) == 4
    assert isinstance(c, RegularFile)
    assert c.inline == b"content"
    assert c.xattrs == {b"user.x": b"y", b"security.selinux": b"CD"}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "file_contexts: there is no such regular file"),
        ({"rules": "/a A\n/b -x B\n"}, r"file_contexts:2: unknown file type '-x'"),
        ({"rules": "/a\n"}, "file_contexts:1: 1 fields"),
        ({"rules": "/a -- A more\n"}, "file_contexts:1: 4 fields"),
        ({"rules": "\n\n/(a A\n"}, r"file_contexts:3: the expression '/\(a' has an unclosed"),
        ({"rules": "/a A\n", "local": "/(?=a) A\n"}, r"file_contexts.local:1: the expression .* not supported"),
        ({"rules": "/a A\n", "subs": "/a /b /c\n"}, r"file_contexts.subs:1: 3 fields"),
        ({"config": "SELINUXTYPE=mls\n", "rules": ""}, "etc/selinux/mls/contexts/files: there is no such directory"),
        ({"config": "SELINUXTYPE=../x\n", "rules": ""}, "there is no such directory"),
        ({"config": "SELINUXTYPE=\n", "rules": ""}, "there is no such directory"),
    ],
)
def test_what_is_wrong_with_a_policy_is_named(policy: dict[str, str], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        relabel(make(**policy), content)


def test_a_policy_is_text_of_a_sane_size() -> None:
    root = make(rules="")
    files = root.directory(FILES.encode())
    assert files is not None
    files.entries[b"file_contexts"] = RegularFile(0o644, inline=b"/a \xff\n")
    with pytest.raises(PolicyError, match="byte 3 is not UTF-8"):
        relabel(root, content)
    files.entries[b"file_contexts"] = RegularFile(0o644, digest=bytes(64), size=1 << 40)
    with pytest.raises(PolicyError, match="at most"):
        relabel(root, content)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("/ab.*+()[]\\-d <\n#é"), max_size=40), st.text("/ab \n#", max_size=20))
def test_any_policy_labels_or_is_refused(rules: str, subs: str) -> None:
    root = make("a", "b/a", rules=rules, subs=subs)
    try:
        relabel(root, content)
    except PolicyError:
        return
    again = labels(root)
    assert relabelled(root) == again


def test_deep_trees_are_no_problem() -> None:
    root = make(rules="/d.* D\n")
    here = root
    for _ in range(3000):
        here.entries[b"d"] = here = Directory(0o755)
    relabel(root, content)
    assert here.xattrs == {b"security.selinux": b"D"}


@pytest.mark.interop
def test_cfsctl_computes_the_same_labels(tmp_path: Path) -> None:
    if shutil.which("cfsctl") is None:
        pytest.skip("cfsctl is not installed")
    files = tmp_path / FILES
    files.mkdir(parents=True)
    (files / "file_contexts").write_text(
        "/.* s:default\n/usr(/.*)? s:usr\n/usr/bin/.* -- s:bin\n/usr/[^/]*/.*\\.so(\\.[0-9]+)* -- s:lib\n"
        "/.*/ln[[:digit:]] s:ln\n/var/run(/.*)? s:run\n/usr/s.{2}n(/.*)? <<none>>\n/%{X} s:odd\n/a{,2} s:a\n"
    )
    (files / "file_contexts.homedirs").write_text("/home/[^/]+/\\.ssh(/.*)? s:ssh\n")
    (files / "file_contexts.subs").write_text("/lib /wrong\n")
    (files / "file_contexts.subs_dist").write_text("/lib /usr/lib\n/run /var/run\n")
    (tmp_path / "etc/selinux/config").write_text("SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    for name in ("usr/bin/sh", "usr/lib/x.so.1", "usr/sbin/y", "lib/z.so", "home/u/.ssh/id", "home/u/x", "%{X}", "aa"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("boot", "sysroot", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "usr/bin/fifo").parent.joinpath("l").symlink_to("sh")
    for i, name in enumerate(("home/ln1", "home/u/ln", "lib/sh", "usr/bin/sh2", "usr/bin/ln2")):
        os.link(tmp_path / "usr/bin/sh", tmp_path / name)
        os.link(tmp_path / "usr/sbin/y", tmp_path / f"home/other{i}")

    def dump(*options: str) -> bytes:
        command = ["cfsctl", "--no-repo", "create-dumpfile", *options, tmp_path]
        return subprocess.run(command, capture_output=True, check=True).stdout

    tree = parse_dump(dump().splitlines(keepends=True))
    for name in (b"boot", b"sysroot"):
        tree.entries[name].mtime = tree.entries[b"usr"].mtime
        tree.entries[name].mtime_nsec = tree.entries[b"usr"].mtime_nsec
    where = {id(inode): path for path, inode in tree.walk()}
    relabel(tree, lambda file: (tmp_path / where[id(file)].decode()[1:]).read_bytes())
    assert b"".join(format_dump(tree)) == dump("--bootable")


def etc_of(root: Directory, **labels: str) -> Directory:
    """/etc of a tree, with files that have these labels."""
    etc = root.directory(b"etc")
    assert etc is not None
    for name, label in labels.items():
        etc.entries[name.encode()] = RegularFile(0o644, inline=b"", xattrs={b"security.selinux": label.encode()})
    return etc


def labels_in(etc: Directory) -> dict[str, str]:
    return {name.decode(): inode.xattrs[b"security.selinux"].decode() for name, inode in etc.sorted_entries()
            if b"security.selinux" in inode.xattrs}


OLD = "/etc(/.*)? etc_t\n/etc/shadow -- shadow_t\n/etc/gone -- gone_t\n"
NEW = "/etc(/.*)? etc_t\n/etc/shadow -- passwd_t\n/etc/gone -- <<none>>\n"


def test_what_was_labelled_by_the_old_policy_moves_on_to_the_new_one() -> None:
    before = etc_of(make(rules=OLD))
    etc = etc_of(make(rules=NEW), shadow="shadow_t", gone="gone_t", other="etc_t")
    move(etc, before, content)
    assert labels_in(etc) == {"shadow": "passwd_t", "other": "etc_t"}


def test_a_label_that_somebody_chose_stays() -> None:
    etc = etc_of(make(rules=NEW), shadow="mine_t")
    move(etc, etc_of(make(rules=OLD)), content)
    assert labels_in(etc) == {"shadow": "mine_t"}


@pytest.mark.parametrize(("old", "new"), [(None, "SELINUXTYPE=targeted\n"), ("SELINUXTYPE=targeted\n", None)])
def test_nothing_moves_without_two_policies(old: str | None, new: str | None) -> None:
    etc = etc_of(make(config=new, rules=NEW), shadow="shadow_t")
    move(etc, etc_of(make(config=old, rules=OLD)), content)
    assert labels_in(etc) == {"shadow": "shadow_t"}


def test_the_same_policy_is_not_read() -> None:
    etc = etc_of(make(rules="broken ( rule\n"), shadow="shadow_t")
    move(etc, etc_of(make(rules="broken ( rule\n")), content)
    assert labels_in(etc) == {"shadow": "shadow_t"}


def test_a_new_policy_that_is_broken() -> None:
    with pytest.raises(PolicyError):
        move(etc_of(make(rules="broken ( rule\n")), etc_of(make(rules=OLD)), content)
