# SPDX-License-Identifier: Apache-2.0
"""A directory as a tree."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import BootcdError
from bootcd.formats.dump import format_dump
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.tree import Directory, Fifo, RegularFile, Socket, Symlink
from bootcd.store.repository import Repository
from bootcd.store.scan import scan_directory


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "dir/deeper").mkdir(parents=True)
    (top / "small").write_bytes(b"x" * 64)
    (top / "large").write_bytes(b"x" * 65)
    (top / "huge").write_bytes(b"z" * (3 << 20))
    os.link(top / "large", top / "dir/hard")
    os.symlink("../large", top / "dir/soft")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "fifo")
    os.chmod(top / "dir", 0o2751)
    os.utime(top / "small", ns=(0, -1_500_000_000))
    os.makedirs(os.fsencode(top) + b"/bytes\xff\n")
    return top


def test_a_tree(tree):
    if os.geteuid() == 0:
        os.setxattr(tree / "small", "user.colour", b"blue")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "socket"))
    root = scan_directory(tree, None, Algorithm.SHA256)
    small, large = root.lookup(b"small"), root.lookup(b"large")
    assert isinstance(small, RegularFile)
    assert isinstance(large, RegularFile)
    assert (small.inline, small.mtime, small.mtime_nsec) == (b"x" * 64, -2, 500_000_000)
    assert (large.digest, large.size) == (measure(b"x" * 65, Algorithm.SHA256), 65)
    assert root.lookup(b"huge").digest == measure(b"z" * (3 << 20), Algorithm.SHA256)
    assert root.lookup(b"dir/hard") is large
    soft = root.lookup(b"dir/soft")
    assert isinstance(soft, Symlink)
    assert soft.target == b"../large"
    assert root.lookup(b"dangling").target == b"nowhere"
    assert isinstance(root.lookup(b"fifo"), Fifo)
    assert isinstance(root.lookup(b"socket"), Socket)
    assert root.lookup(b"dir").permissions == 0o2751
    assert isinstance(root.lookup(b"bytes\xff\n"), Directory)
    assert root.permissions == stat.S_IMODE(tree.stat().st_mode)
    if os.geteuid() == 0:
        assert small.xattrs == {b"user.colour": b"blue"}


def test_a_file_that_changes_is_named(tree):
    def meddling(fd: int, size: int) -> bytes:
        with open(tree / "large", "ab") as target:
            target.write(b"more")
        return bytes(64)

    with pytest.raises(BootcdError, match=f"{tree}/dir/hard changed while it was read"):
        scan_directory(tree, meddling, Algorithm.SHA512)


def test_a_directory_that_changes_is_named(tree):
    def meddling(fd: int, size: int) -> bytes:
        (tree / "new").touch()
        return bytes(64)

    with pytest.raises(BootcdError, match=f"{tree} changed while it was read"):
        scan_directory(tree, meddling, Algorithm.SHA512)


def test_what_cannot_be_read(tree):
    with pytest.raises(BootcdError, match="No such file"):
        scan_directory(tree / "gone", None, Algorithm.SHA256)
    with pytest.raises(BootcdError, match="Not a directory"):
        scan_directory(tree / "small", None, Algorithm.SHA256)


def test_deep_trees_and_descriptors(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    os.makedirs(tmp_path / "deep" / "/".join(["d"] * 500))
    root = scan_directory(tmp_path / "deep", None, Algorithm.SHA256)
    assert sum(1 for _ in root.walk()) == 501
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.interop
@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_same_as_cfsctl(tree, tmp_path, cfsctl, algorithm):
    if os.geteuid() == 0:
        os.setxattr(tree / "large", "user.colour", b"blue")
        os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    root = scan_directory(tree, None, algorithm)
    theirs = cfsctl("--no-repo", "--hash", algorithm.label, "create-dumpfile", "--no-propagate-usr-to-root", tree)
    assert b"".join(format_dump(root)).decode() == theirs
    cfsctl("init", "--insecure", "--algorithm", algorithm.identifier, tmp_path / "r")
    printed = cfsctl("--repo", tmp_path / "r", "create-image", "--no-propagate-usr-to-root", tree, "name")
    with Repository.open(tmp_path / "r") as repo:
        assert repo.images.refs() == {"name": bytes.fromhex(printed.strip().partition(":")[2])}
        assert repo.images.commit(write_image(root, Version.V1, algorithm)) == repo.images.refs()["name"]


@pytest.mark.interop
def test_the_same_as_mkcomposefs(tmp_path, tree):
    if shutil.which("mkcomposefs") is None:
        pytest.skip("needs mkcomposefs")
    os.unlink(tree / "dir/hard")  # mkcomposefs breaks hard links
    os.utime(tree / "small", (0, 0))  # and takes a time before 1970 for the smallest, cfsctl for the largest
    subprocess.run(["mkcomposefs", "--min-version=1", tree, tmp_path / "image"], check=True)
    root = scan_directory(tree, None, Algorithm.SHA256)
    assert bytes(write_image(root, Version.V1, Algorithm.SHA256)) == (tmp_path / "image").read_bytes()


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in (b".", b"..") and not set(name) & set(b"/\0"))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=200), max_size=8))
def test_any_names_and_contents(tmp_path_factory, contents):
    top = os.fsencode(tmp_path_factory.mktemp("any"))
    for name, content in contents.items():
        with open(top + b"/" + name, "wb") as target:
            target.write(content)
    root = scan_directory(top, None, Algorithm.SHA256)
    assert set(root.entries) == set(contents)
    for name, content in contents.items():
        leaf = root.entries[name]
        assert leaf.inline == content if len(content) <= 64 else leaf.digest == measure(content, Algorithm.SHA256)
