# SPDX-License-Identifier: Apache-2.0
"""That something happened in a directory is told, whatever became of the directory."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.linux.files import atomic_write
from bootcd.linux.watch import Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as opened:
        yield opened


def told(watch: Watch, *again: Path) -> bool:
    """Whether something happened; taken note of. `again` is watched from here on, whatever became of it."""
    happened = bool(select.select([watch], [], [], 0)[0])
    said = watch.read()
    for path in again:
        watch.add(path)
    assert happened or not said
    return said


def test_files_that_come_change_and_go(tmp_path: Path, watch: Watch) -> None:
    assert watch.add(tmp_path)
    assert not told(watch)
    (tmp_path / "file").write_text("one")
    assert told(watch)
    assert not told(watch)
    atomic_write(tmp_path / "file", b"two")
    assert told(watch)
    os.rename(tmp_path / "file", tmp_path / "other")
    assert told(watch)
    (tmp_path / "other").unlink()
    assert told(watch)
    assert not told(watch)


def test_reading_a_file_is_nothing(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "file").write_text("one")
    watch.add(tmp_path)
    (tmp_path / "file").read_text()
    os.listdir(tmp_path)
    assert not told(watch)


def test_a_directory_that_is_not_there_yet(tmp_path: Path, watch: Watch) -> None:
    wanted = tmp_path / "state/bootcd"
    assert not watch.add(wanted)
    assert not told(watch, wanted)
    wanted.parent.mkdir()
    assert told(watch, wanted)
    wanted.mkdir()
    assert told(watch, wanted)
    (wanted / "file").touch()
    assert told(watch, wanted)


def test_a_directory_that_is_replaced(tmp_path: Path, watch: Watch) -> None:
    wanted = tmp_path / "entries"
    wanted.mkdir()
    assert watch.add(wanted)
    shutil.rmtree(wanted)
    assert told(watch, wanted)
    wanted.mkdir()
    assert told(watch, wanted)
    (wanted / "file").touch()
    assert told(watch, wanted)


def test_adding_twice_tells_once(tmp_path: Path, watch: Watch) -> None:
    assert watch.add(tmp_path)
    assert watch.add(tmp_path)
    (tmp_path / "file").touch()
    assert told(watch)
    assert not told(watch)


def test_a_file_is_no_directory(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "file").touch()
    assert not watch.add(tmp_path / "file")
    assert not watch.add(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_that_a_file_system_goes_is_no_reason_to_look_there(tmp_path: Path) -> None:
    """Looking at an automount mounts it again."""
    program = f"""
import ctypes, os, select, subprocess
from bootcd.linux.watch import Watch
subprocess.run(["mount", "-t", "tmpfs", "none", {str(tmp_path)!r}], check=True)
watch = Watch()
assert watch.add({str(tmp_path)!r})
subprocess.run(["umount", {str(tmp_path)!r}], check=True)
assert select.select([watch], [], [], 5)[0]
assert not watch.read()
"""
    subprocess.run(["unshare", "-m", sys.executable, "-c", program], check=True, env=os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path)})


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    watch = Watch()
    watch.close()
    watch.close()
    assert watch.fileno() == -1
