# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import BootcdError, LayerConflict, LayerTooLarge
from bootcd.formats.dump import format_dump
from bootcd.formats.layers import Budget, apply_layer, new_root
from bootcd.formats.splitstream import Splitstream
from bootcd.formats.tar import entries
from bootcd.formats.transform import transform_for_oci
from bootcd.formats.tree import CharDevice, Directory, RegularFile, Symlink
from formats.rawtar import (
    ALGORITHM,
    END,
    cfsctl,
    directory,
    hardlink,
    member,
    pax,
    symlink,
    to_splitstream,
    write_layout,
)

USR = directory(b"usr")
BIG = b"content" * 20


def merged(*layers: bytes) -> Directory:
    root = new_root()
    for layer in layers:
        apply_layer(root, entries(Splitstream.parse(to_splitstream(layer), ALGORITHM).chunks()))
    return root


def paths(*layers: bytes) -> list[str]:
    return [path.decode() for path, _ in merged(*layers).walk()][1:]


def test_members_become_inodes() -> None:
    root = merged(
        directory(b".", mode=b"0000711", uid=b"0000003") + member(b"small", b"hi", mode=b"0004755")
        + member(b"big", BIG) + symlink(b"link", b"../x")
        + member(b"null", type=b"3", major=b"0000001", minor=b"0000003")
        + member(b"pipe", type=b"6") + member(b"disk", type=b"4", major=b"0000010")
    )
    assert (root.permissions, root.uid) == (0o711, 3)
    small, big, link, null = (root.entries[name] for name in (b"small", b"big", b"link", b"null"))
    assert isinstance(small, RegularFile)
    assert (small.inline, small.permissions) == (b"hi", 0o4755)
    assert isinstance(big, RegularFile)
    assert (big.inline, len(big.digest or b""), big.size) == (None, 32, len(BIG))
    assert isinstance(link, Symlink)
    assert link.target == b"../x"
    assert isinstance(null, CharDevice)
    assert null.rdev == 0x103


def test_a_root_that_no_layer_describes_has_no_metadata() -> None:
    root = merged(USR)
    assert (root.permissions, root.uid, root.mtime, root.xattrs) == (0, 0, 0, {})


def test_a_directory_over_a_directory_keeps_the_children() -> None:
    first = pax((b"SCHILY.xattr.user.a", b"1")) + directory(b"d") + member(b"d/x")
    root = merged(first, directory(b"d", mode=b"0000700"))
    d = root.directory(b"d")
    assert d is not None
    assert (d.permissions, d.xattrs, list(d.entries)) == (0o700, {}, [b"x"])


def test_anything_else_replaces() -> None:
    assert paths(directory(b"d") + member(b"d/x"), member(b"d")) == ["/d"]
    assert paths(member(b"a"), directory(b"a") + member(b"a/x")) == ["/a", "/a/x"]
    assert isinstance(merged(directory(b"d"), symlink(b"d", b"x")).lookup(b"d"), Symlink)


def test_whiteouts_remove() -> None:
    first = USR + directory(b"d") + member(b"d/x") + member(b"a")
    assert paths(first, member(b".wh.d") + member(b".wh.a", b"ignored" * 20)) == ["/usr"]
    assert paths(first, member(b"d/.wh.x")) == ["/a", "/d", "/usr"]
    harmless = member(b".wh.missing") + member(b".wh.") + member(b".wh..wh.") + member(b".wh..") + member(b".wh...")
    assert paths(first, harmless) == paths(first)
    assert paths(first, directory(b".wh.d") + directory(b"d")) == ["/a", "/d", "/usr"]


def test_an_opaque_mark_takes_effect_where_it_stands() -> None:
    first = USR + member(b"usr/below")
    second = member(b"usr/before") + member(b"usr/.wh..wh..opq") + member(b"usr/after")
    assert paths(first, second) == ["/usr", "/usr/after"]
    assert paths(first, member(b".wh..wh..opq") + directory(b"new")) == ["/new"]


def test_an_overlay_whiteout_is_a_device() -> None:
    node = merged(member(b"a"), member(b"a", type=b"3")).lookup(b"a")
    assert isinstance(node, CharDevice)
    assert node.is_whiteout


def test_hard_links_share_an_inode_across_layers() -> None:
    root = merged(member(b"a", b"x"), directory(b"d") + hardlink(b"d/b", b"./a"))
    assert root.lookup(b"a") is root.lookup(b"d/b")
    assert paths(directory(b"d") + member(b"d/x") + hardlink(b"d", b"d/x")) == ["/d"]
    assert paths(member(b"a"), hardlink(b"a", b"a")) == ["/a"]


def test_a_parent_that_was_replaced_is_looked_up_again() -> None:
    first = directory(b"d") + directory(b"d/e") + member(b"d/e/1")
    with pytest.raises(LayerConflict, match="'d/e/3': its parent does not exist"):
        merged(first + member(b"d/e/2") + member(b".wh.d") + member(b"d/e/3"))
    with pytest.raises(LayerConflict, match="'d/e/3': its parent does not exist"):
        merged(first + member(b"d/e/2") + member(b"d/.wh..wh..opq") + member(b"d/e/3"))
    with pytest.raises(LayerConflict, match="'d/e/3': its parent does not exist"):
        merged(first + member(b"d/e/2") + member(b"d") + member(b"d/e/3"))
    assert paths(first, member(b".wh.d") + directory(b"d") + directory(b"d/e") + member(b"d/e/9"))[-1] == "/d/e/9"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (member(b"q/f"), "layer entry 'q/f': its parent does not exist"),
        (member(b"q/.wh.f"), "layer entry 'q/.wh.f': its parent does not exist"),
        (member(b"a") + member(b"a/f"), "layer entry 'a/f': its parent is not a directory"),
        (symlink(b"s", b"usr") + member(b"s/f"), "layer entry 's/f': its parent is not a directory"),
        (symlink(b"s", b"/") + member(b"s/usr/f"), "layer entry 's/usr/f': its parent does not exist"),
        (hardlink(b"h", b"none"), "layer entry 'h': the target 'none' of the hard link does not exist"),
        (hardlink(b"h", b"usr"), "layer entry 'h': the target 'usr' of the hard link is a directory"),
        (hardlink(b"h", b"/"), "layer entry 'h': the target '' of the hard link is a directory"),
        (symlink(b"s", b"usr") + member(b"usr/f") + hardlink(b"h", b"s/f"), "the target 's/f' of the hard link"),
        (symlink(b"/", b"usr"), "layer makes the root a symbolic link"),
        (member(b"bad\n\x1b/f"), r"layer entry 'bad\n\x1b/f': its parent"),
    ],
)
def test_conflicts_name_the_member(layer: bytes, message: str) -> None:
    with pytest.raises(LayerConflict) as caught:
        merged(USR + layer)
    assert message in str(caught.value)


def test_fifty_thousand_members_take_little_time() -> None:
    layer = b"".join(
        directory(b"d%02d" % (i // 1000)) if i % 1000 == 0 else member(b"d%02d/f%d" % (i // 1000, i))
        for i in range(50_000)
    )
    started = time.process_time()
    merged(layer)
    assert time.process_time() - started < 5  # about 1 s on a laptop; a quadratic lookup takes minutes


NAMES = [b"usr", b"usr/a", b"usr/a/b", b"x", b"x/y", b"x/y/z"]
steps = st.one_of(
    st.sampled_from(NAMES).map(directory),
    st.builds(lambda name, size: member(name, BIG[:size]), st.sampled_from(NAMES[1:]), st.integers(0, 100)),
    st.builds(hardlink, st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.builds(symlink, st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.sampled_from([b".wh.usr", b".wh.x", b"usr/.wh.a", b"usr/a/.wh.b", b"x/.wh.y"]).map(member),
    st.sampled_from([b".wh..wh..opq", b"usr/.wh..wh..opq", b"x/.wh..wh..opq"]).map(member),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(steps, max_size=12).map(b"".join))
def test_any_order_of_members_gives_a_tree_or_our_error(layer: bytes) -> None:
    with contextlib.suppress(BootcdError):
        for path, _ in merged(USR + directory(b"x") + layer).walk():
            assert b"//" not in path


@pytest.mark.interop
def test_cfsctl_merges_the_same(tmp_path: Path) -> None:
    if not shutil.which("cfsctl"):
        pytest.skip("cfsctl is not installed")
    capability = (b"SCHILY.xattr.security.capability", b"\1\0\0\2" + bytes(16))
    layers = [
        directory(b"./", mode=b"0000700") + pax((b"mtime", b"1700000000.5"), capability) + USR + directory(b"run")
        + member(b"run/lost") + directory(b"usr/d") + member(b"usr/d/gone") + member(b"usr/a", BIG)
        + member(b"b", b"small") + hardlink(b"usr/h", b"b") + pax((b"SCHILY.xattr.user.x", b"1")) + symlink(b"s", b"b")
        + END,
        member(b"usr/d/early") + member(b"usr/d/.wh..wh..opq") + pax((b"mtime", b"5.000000007"))
        + member(b"usr/d/late", BIG) + member(b".wh.b") + hardlink(b"usr/h2", b"usr/h")
        + member(b"c", type=b"3") + member(b"p", type=b"6")
        + member(b"d", type=b"4", major=b"0000010", minor=b"0001000") + directory(b"usr/d", mode=b"0001777") + END,
    ]
    repository = tmp_path / "repository"
    write_layout(tmp_path / "layout", layers)
    cfsctl(repository, "init", "--algorithm", ALGORITHM.identifier, "--insecure")
    cfsctl(repository, "oci", "pull", f"oci:{tmp_path / 'layout'}:t", "name")
    root = merged(*layers)
    transform_for_oci(root)
    assert b"".join(format_dump(root)).decode() == cfsctl(repository, "oci", "dump", "name").decode()


def test_layers_share_a_budget() -> None:
    """Names that are there already cost nothing, so that an image may be updated layer by layer."""
    def apply(root: Directory, layer: bytes, budget: Budget) -> None:
        apply_layer(root, entries(Splitstream.parse(to_splitstream(layer), ALGORITHM).chunks()), budget)

    root, budget = new_root(), Budget(names=3, metadata=100)
    apply(root, USR + member(b"usr/a", b"1" * 20) + member(b"usr/b", b""), budget)
    apply(root, USR + member(b"usr/a", b"2" * 20), budget)
    with pytest.raises(LayerTooLarge, match=r"500000 names.*'usr/c'"):
        apply(root, member(b"usr/c", b""), budget)
    with pytest.raises(LayerTooLarge, match="256 MiB"):
        apply(root, member(b"usr/a", b"3" * 60), Budget(metadata=50))
