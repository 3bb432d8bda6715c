# SPDX-License-Identifier: Apache-2.0
"""What chattr(1) made immutable can be removed all the same, and nothing outside is touched."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from bootcd.linux.trees import clear, remove_tree


def chattr(*arguments: str | Path) -> bool:
    if shutil.which("chattr") is None:
        return False
    return subprocess.run(["chattr", *arguments], capture_output=True, check=False).returncode == 0


def test_trees_files_and_links_are_removed(tmp_path: Path) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").touch()
    (tmp_path / "file").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "tree/link").symlink_to("../kept")
    for name in ("tree", "file", "link", "nothing"):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_immutable_files_and_directories(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "d").mkdir(parents=True)
    (tree / "d/f").touch()
    (tree / "log").touch()
    outside.touch()
    (tree / "d/link").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    if not chattr("+i", outside, tree / "d/f", tree / "d") or not chattr("+a", tree / "log"):
        pytest.skip("no attributes on this file system")
    try:
        with pytest.raises(PermissionError):
            shutil.rmtree(tree)
        remove_tree(tree)
        assert not tree.exists()
        with pytest.raises(PermissionError):
            outside.unlink()
    finally:
        chattr("-i", outside)
        if tree.exists():
            clear(tree)
