# SPDX-License-Identifier: Apache-2.0
"""A file below a directory, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootcd.errors import Unsupported
from bootcd.linux.inside import open_inside


def test_names_and_links_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    (root / "usr/file").write_bytes(b"inside")
    (tmp_path / "file").write_bytes(b"outside")
    (root / "lib").symlink_to("/usr")
    (root / "up").symlink_to("../../../usr")
    (root / "link").symlink_to("usr/file")
    os.mkfifo(root / "fifo")
    directory = os.open(root, os.O_PATH)
    try:
        for name in (b"usr/file", b"lib/file", b"up/file", b"../usr/file", b"/usr/file"):
            file = open_inside(directory, name)
            assert os.read(file, 100) == b"inside"
            os.close(file)
        for name in (b"../file", b"file", b"lib/../../file", b"link", b"", b"a\0b", b"/proc/self/fd/0"):
            with pytest.raises(OSError, match=r"."):
                open_inside(directory, name)
        for name in (b"fifo", b"usr", b"."):
            with pytest.raises(Unsupported):
                open_inside(directory, name)
    finally:
        os.close(directory)
