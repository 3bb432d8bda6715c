# SPDX-License-Identifier: Apache-2.0
"""Files, links and locks on a real file system."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, Busy, EspFull, PermissionDenied, ReadOnly, RecordError, RootFull, Unsupported
from bootcd.linux import files


@pytest.fixture
def dirfd(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_atomic_write_creates_and_replaces(tmp_path):
    files.atomic_write(tmp_path / "a", b"one", 0o600)
    files.atomic_write(tmp_path / "a", b"two", 0o640, durable=False)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_atomic_write_takes_names_relative_to_a_directory(tmp_path, dirfd):
    (tmp_path / "sub").mkdir()
    files.atomic_write("sub/a", b"x", dir_fd=dirfd)
    files.atomic_write("b", b"y", dir_fd=dirfd)
    assert (tmp_path / "sub/a").read_bytes() + (tmp_path / "b").read_bytes() == b"xy"


def test_translate_names_what_and_picks_the_class():
    for code, kind in [(errno.ENOSPC, EspFull), (errno.EDQUOT, EspFull), (errno.EROFS, ReadOnly),
                       (errno.EACCES, PermissionDenied), (errno.EIO, BootcdError)]:
        with pytest.raises(kind, match="cannot do it: ") as caught, files.translate("cannot do it", full=EspFull):
            raise OSError(code, os.strerror(code))
        assert type(caught.value) is kind


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_full_disk(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        files.atomic_write(tmp_path / "a", b"old")
        with pytest.raises(RootFull, match=r"cannot write .*: No space left on device"):
            files.atomic_write(tmp_path / "a", bytes(1 << 20))
        assert (tmp_path / "a").read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_replace_symlink(tmp_path, dirfd):
    assert files.replace_symlink(dirfd, "l", "a")
    assert not files.replace_symlink(dirfd, "l", "a")
    assert files.replace_symlink(dirfd, "l", "b")
    assert os.readlink(tmp_path / "l") == "b"
    (tmp_path / "f").write_text("mine")
    with pytest.raises(BootcdError, match="no symlink"):
        files.replace_symlink(dirfd, "f", "b")
    assert sorted(os.listdir(tmp_path)) == ["f", "l"]


def test_tmpfile_has_no_name_until_linked(tmp_path, dirfd):
    with files.tmpfile(dirfd) as temporary:
        os.write(temporary.fd, b"data")
        assert os.listdir(tmp_path) == []
        assert files.link_tmpfile(temporary, dirfd, "x")
        temporary.reopen_read_only()
        assert not files.link_tmpfile(temporary, dirfd, "x")
    assert (tmp_path / "x").read_bytes() == b"data"
    with files.tmpfile(dirfd):
        pass
    assert os.listdir(tmp_path) == ["x"]


def test_tmpfile_without_o_tmpfile(tmp_path, dirfd, monkeypatch):
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # what an old kernel sees: EISDIR
    with files.tmpfile(dirfd) as temporary:
        assert os.listdir(tmp_path)[0].startswith(".tmp-object-")
        os.write(temporary.fd, b"data")
        assert files.link_tmpfile(temporary, dirfd, "x")
        assert not files.link_tmpfile(temporary, dirfd, "x")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").stat().st_nlink == 1


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_copy_file(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "wb") as target:
        files.copy_file(source.fileno(), target.fileno())
    assert (tmp_path / "b").read_bytes() == data


def test_copy_file_of_proc(tmp_path):
    with open("/proc/self/status", "rb") as source, open(tmp_path / "b", "wb") as target:
        files.copy_file(source.fileno(), target.fileno())
    assert (tmp_path / "b").read_bytes().startswith(b"Name:")


def test_write_all_survives_short_writes(tmp_path):
    read, write = os.pipe()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(read, 65536), b"")))
    reader.start()
    files.write_all(write, memoryview(bytes(1 << 20)))
    os.close(write)
    reader.join()
    os.close(read)
    assert sum(map(len, got)) == 1 << 20


def test_locks_exclude_each_other(tmp_path):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    a, b = files.Lock(first, "the room"), files.Lock(second, "the room")
    a.shared()
    b.shared()
    with pytest.raises(Busy, match="the room is in use"):
        b.exclusive(0.02)
    with pytest.raises(Busy):  # b still has its shared lock
        a.exclusive()
    b.release()
    a.exclusive()
    with pytest.raises(Busy):
        b.shared()
    a.shared()
    b.shared()
    os.close(first)
    os.close(second)


def test_open_regular_refuses_others(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unsupported, match="no regular file"):
        files.open_regular(str(tmp_path / "fifo"))
    os.symlink("fifo", tmp_path / "link")
    with pytest.raises(OSError, match="symbolic"):
        files.open_regular(str(tmp_path / "link"))


def test_what_is_in_the_place_of_a_file_of_ours(tmp_path):
    """Whatever it is, reading it ends."""
    (tmp_path / "file").write_bytes(b"1234")
    assert files.read_own(tmp_path / "file", 4) == b"1234"
    with pytest.raises(RecordError, match="file: larger than 3 bytes"):
        files.read_own(tmp_path / "file", 3)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(RecordError, match=": no regular file"):
            files.read_own(path, 4)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="symbolic"):
        files.read_own(tmp_path / "link", 4)


CRASHER = """
import sys
from bootcd.linux import files
files.atomic_write(sys.argv[1], b"new")
files.atomic_write(sys.argv[1], b"newer")
"""


@pytest.mark.parametrize(("point", "content"), [
    ("atomic_write.before_rename", b"old"), ("atomic_write.after_rename", b"new"), ("atomic_write.after_sync", b"new"),
    ("atomic_write.before_rename:2", b"new"), ("atomic_write.after_rename:2", b"newer"), ("nowhere", b"newer"),
])
def test_a_crash_leaves_the_old_or_the_new(tmp_path, point, content):
    target = tmp_path / "a"
    target.write_bytes(b"old")
    source = Path(files.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CRASHER, target],
                          env={"BOOTCD_CRASH_AT": point, "PYTHONPATH": str(source)}, check=False)
    assert done.returncode == (0 if point == "nowhere" else files.CRASH_STATUS)
    assert target.read_bytes() == content


def test_signals_do_not_cut_writes_short(tmp_path, dirfd):
    ticks = []
    signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with files.tmpfile(dirfd) as temporary:
            files.write_all(temporary.fd, bytes(32 << 20))
            assert os.fstat(temporary.fd).st_size == 32 << 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
