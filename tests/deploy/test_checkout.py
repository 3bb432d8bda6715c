# SPDX-License-Identifier: Apache-2.0
"""What is checked out is what the tree says, and nothing leads out of the directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bootcd.deploy.checkout import MAX_DEPTH, checkout
from bootcd.errors import BootcdError, ImageUnusable
from bootcd.formats.tree import CharDevice, Directory, Fifo, RegularFile, Symlink

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
TIME = 1_234_567_890


def tree(**entries: object) -> Directory:
    root = Directory(0o755, mtime=TIME)
    root.entries = {name.encode(): node for name, node in entries.items()}  # type: ignore[misc]
    return root


def no_objects(node: RegularFile) -> int:
    raise AssertionError("there is nothing but inline content")


def out(root: Directory, path: Path) -> Path:
    checkout(root, path / "out", no_objects)
    return path / "out"


def test_files_directories_and_links(tmp_path: Path) -> None:
    shared = RegularFile(0o640, mtime=TIME, mtime_nsec=5, inline=b"shared")
    inner = tree(again=shared)
    inner.permissions = 0o1777
    target = out(tree(file=shared, inner=inner, link=Symlink(mtime=TIME, target=b"../nowhere"), pipe=Fifo(0o600),
                      hole=RegularFile(0o600, size=1 << 20)), tmp_path)

    assert (target / "file").read_bytes() == b"shared"
    assert (target / "file").stat().st_mtime_ns == TIME * 10**9 + 5
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o640
    assert (target / "inner/again").samefile(target / "file")
    assert stat.S_IMODE((target / "inner").stat().st_mode) == 0o1777
    assert (target / "inner").stat().st_mtime == TIME
    assert os.readlink(target / "link") == "../nowhere"
    assert (target / "link").lstat().st_mtime == TIME
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "hole").stat().st_size == 1 << 20
    assert (target / "hole").stat().st_blocks == 0


def test_content_of_objects(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"large" * 100_000)
    asked = []

    def content(node: RegularFile) -> int:
        asked.append(node.digest)
        return os.open(tmp_path / "object", os.O_RDONLY)

    checkout(tree(file=RegularFile(0o600, digest=b"d" * 64, size=500_000)), tmp_path / "out", content)
    assert (tmp_path / "out/file").read_bytes() == b"large" * 100_000
    assert asked == [b"d" * 64]


@needs_root
def test_owners_setuid_capabilities_and_devices(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    xattrs = {b"security.capability": capability, b"user.note": b"\0\xff"}
    target = out(tree(
        su=RegularFile(0o4755, 1000, 1001, inline=b"su"), ping=RegularFile(0o755, inline=b"p", xattrs=xattrs),
        null=CharDevice(0o666, rdev=os.makedev(1, 3)), link=Symlink(uid=7, gid=8, target=b"x")), tmp_path)
    state = (target / "su").stat()
    assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (0o4755, 1000, 1001)
    assert os.getxattr(target / "ping", "security.capability") == capability
    assert os.getxattr(target / "ping", "user.note") == b"\0\xff"
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert ((target / "link").lstat().st_uid, (target / "link").lstat().st_gid) == (7, 8)


def test_hard_links_of_a_symlink_are_links_to_it_and_not_to_its_target(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    link = Symlink(target=os.fsencode(tmp_path / "victim"))
    target = out(tree(a=link, b=link), tmp_path)
    assert (target / "a").is_symlink()
    assert (target / "b").is_symlink()
    assert (tmp_path / "victim").stat().st_nlink == 1


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = tree()
    root.entries[b"\xff\n\x1b[31m"] = RegularFile(0o600, inline=b"odd")
    assert (Path(os.fsdecode(os.fsencode(out(root, tmp_path)) + b"/\xff\n\x1b[31m"))).read_bytes() == b"odd"


@pytest.mark.parametrize("kind", ["directory", "file", "symlink"])
def test_nothing_that_is_there_is_written_into(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    {"directory": path.mkdir, "file": path.touch, "symlink": lambda: path.symlink_to("elsewhere")}[kind]()
    with pytest.raises(BootcdError, match="out"):
        checkout(tree(file=RegularFile(0o600, inline=b"x")), path, no_objects)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def nested(levels: int) -> Directory:
    root = tree()
    for _ in range(levels):
        root = tree(d=root)
    return root


def test_depth_is_bounded(tmp_path: Path) -> None:
    checkout(nested(MAX_DEPTH), tmp_path / "deep", no_objects)
    with pytest.raises(ImageUnusable, match="nested"):
        checkout(nested(3000), tmp_path / "out", no_objects)


def test_a_name_that_the_file_system_refuses_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(BootcdError, match="out"):
        out(tree(**{"n" * 256: RegularFile(0o600, inline=b"x")}), tmp_path)
    with pytest.raises(BootcdError, match="out"):
        checkout(tree(link=Symlink(target=b"")), tmp_path / "out2", no_objects)
