# SPDX-License-Identifier: Apache-2.0
"""Mounts by the real kernel; an image of mkcomposefs is used so that nothing here depends on our writer."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, Unsupported
from bootcd.linux import mount

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount"),
    pytest.mark.skipif(shutil.which("mkcomposefs") is None, reason="needs mkcomposefs"),
    pytest.mark.interop,
]
CONTENT = b"content " * 1000


@pytest.fixture
def image(tmp_path):
    """An image file and its objects."""
    (tmp_path / "tree/dir").mkdir(parents=True)
    (tmp_path / "tree/dir/file").write_bytes(CONTENT)
    subprocess.run(["mkcomposefs", f"--digest-store={tmp_path}/objects", tmp_path / "tree", tmp_path / "image"],
                   check=True)
    with contextlib.ExitStack() as stack:
        fds = []
        for name in ("image", "objects"):
            fds.append(os.open(tmp_path / name, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        yield fds


@contextlib.contextmanager
def attached(fd, path):
    path.mkdir()
    try:
        mount.attach(fd, path)
        yield path
        mount.umount(path)
    finally:
        os.close(fd)


@pytest.mark.parametrize("ways", [{}, {"by_text": True}, {"loop": True}, {"loop": True, "by_text": True}], ids=str)
def test_every_way_to_mount_shows_the_tree(tmp_path, image, ways):
    if ways.get("loop") and not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices")
    fd = mount.composefs_mount(*image, "test", require_verity=False, **ways)
    assert os.fstat(fd).st_mode & 0o170000 == 0o040000
    with attached(fd, tmp_path / "m") as path:
        assert (path / "dir/file").read_bytes() == CONTENT
        assert "composefs:test" in Path("/proc/self/mountinfo").read_text()
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("x")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_writable_with_an_upper_directory(tmp_path, image):
    with contextlib.ExitStack() as stack:
        fds = []
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
            fds.append(os.open(tmp_path / name, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        fd = mount.composefs_mount(*image, "test", require_verity=False, upper_fd=fds[0], work_fd=fds[1])
        with attached(fd, tmp_path / "m") as path:
            (path / "dir/file").write_bytes(b"changed")
        assert (tmp_path / "upper/dir/file").read_bytes() == b"changed"


def test_required_verity_is_enforced_or_refused(tmp_path, image):
    try:
        fd = mount.composefs_mount(*image, "test", require_verity=True)
    except (Unsupported, BootcdError) as error:
        assert "overlay" in str(error)  # noqa: PT017
        return
    with attached(fd, tmp_path / "m") as path, pytest.raises(OSError, match="Input/output error"):
        (path / "dir/file").read_bytes()


def test_the_kernels_words_are_in_the_error(tmp_path, image):
    (tmp_path / "junk").write_bytes(bytes(8192))
    with open(tmp_path / "junk", "rb") as junk, pytest.raises(BootcdError, match="erofs: cannot mount: Invalid"):
        mount.composefs_mount(junk.fileno(), image[1], "test", require_verity=False)
    refused = pytest.raises(BootcdError, match=r"'verity=odd' refused \(.*[Bb]ad value")
    with mount.FsContext("overlay") as context, refused:
        context.string("verity", "odd")
    with pytest.raises(Unsupported, match="no file system 'nonesuch'"):
        mount.FsContext("nonesuch")
    with pytest.raises(BootcdError, match="work directory"):
        mount.composefs_mount(*image, "test", require_verity=False, upper_fd=image[1])
    with pytest.raises(BootcdError, match=r"cannot mount at .*: No such file"):
        mount.attach(image[0], tmp_path / "gone")
    with pytest.raises(BootcdError, match="cannot unmount"):
        mount.umount(tmp_path)
