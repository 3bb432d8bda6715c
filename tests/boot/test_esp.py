# SPDX-License-Identifier: Apache-2.0
"""Writing to boot partitions: durable, whole or not at all, and within their room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.boot.esp import Esp
from bootcd.errors import BootcdError, EspFull, NotFound, ReadOnly


def test_prepare_marks_the_entries_once(tmp_path: Path) -> None:
    esp = Esp(tmp_path)
    esp.prepare()
    assert (tmp_path / "loader/entries.srel").read_bytes() == b"type1\n"
    assert (tmp_path / "EFI/bootcd").is_dir()
    (tmp_path / "loader/entries.srel").write_bytes(b"other\n")
    esp.prepare()
    assert (tmp_path / "loader/entries.srel").read_bytes() == b"other\n"


def test_there_must_be_a_partition(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no boot partition"):
        Esp(tmp_path / "absent")


def test_write_replaces_and_reads_back(small_esp: Esp) -> None:
    small_esp.prepare()
    assert small_esp.write("EFI/bootcd/a", [b"one", b"two"], 6) == 6
    assert small_esp.write("EFI/bootcd/a", [b"three"]) == 5
    assert b"".join(small_esp.chunks("EFI/bootcd/a")) == b"three"
    assert small_esp.names("EFI/bootcd") == ["a"]
    assert small_esp.size("EFI/bootcd/a") == 5
    assert small_esp.size("EFI/bootcd/b") is None
    assert small_esp.remove("EFI/bootcd/a") == 5
    assert small_esp.remove("EFI/bootcd/a") == 0


@pytest.mark.parametrize("small_esp", ["vfat"], indirect=True)
def test_a_power_cut_does_not_take_what_was_written(small_esp: Esp, tmp_path: Path) -> None:
    """The disk as it is now, without what the kernel has still to write."""
    small_esp.prepare()
    small_esp.write("EFI/bootcd/written", [b"content"])
    small_esp.write("EFI/bootcd/old", [b"content"])
    small_esp.rename("EFI/bootcd/old", "renamed")
    shutil.copyfile(tmp_path / "image", tmp_path / "disk")

    (tmp_path / "later").mkdir()
    subprocess.run(["mount", "-o", "loop,ro", "-t", "vfat", tmp_path / "disk", tmp_path / "later"], check=True)
    try:
        found = {path.name: path.read_bytes() for path in (tmp_path / "later/EFI/bootcd").iterdir()}
    finally:
        subprocess.run(["umount", tmp_path / "later"], check=True)
    assert found == {"written": b"content", "renamed": b"content"}


def test_what_cannot_fit_is_refused_before_writing(small_esp: Esp) -> None:
    small_esp.prepare()
    free = small_esp.free()

    def never() -> Iterator[bytes]:
        raise AssertionError("nothing is read")
        yield b""

    with pytest.raises(EspFull, match=rf"big needs \d+ bytes, {free} of {small_esp.total()} are free"):
        small_esp.write("EFI/bootcd/big", never(), free + 1)


def test_a_full_partition_keeps_nothing_of_a_file(small_esp: Esp) -> None:
    small_esp.prepare()
    small_esp.write("EFI/bootcd/old", [b"precious"])
    free = small_esp.free()
    with pytest.raises(EspFull, match=rf"old: more than \d+ bytes do not fit, {free} of {small_esp.total()} are free"):
        small_esp.write("EFI/bootcd/old", (bytes(1 << 16) for _ in range(1000)))
    assert small_esp.free() == free
    assert b"".join(small_esp.chunks("EFI/bootcd/old")) == b"precious"
    assert os.listdir(small_esp.join("EFI/bootcd")) == ["old"]


def test_a_read_only_partition(read_only_esp: Esp) -> None:
    with pytest.raises(ReadOnly, match="mounted read-only"):
        read_only_esp.check_writable()
    with pytest.raises(ReadOnly):
        read_only_esp.write("EFI/bootcd/a", [b"x"])
    with pytest.raises(ReadOnly):
        read_only_esp.make_directory("EFI/bootcd/x")
    with pytest.raises(ReadOnly):
        read_only_esp.remove("loader/entries.srel")
    assert read_only_esp.names("EFI/bootcd") == []


def test_writable(small_esp: Esp) -> None:
    small_esp.check_writable()


def test_a_wrong_size_or_a_failing_source_leaves_nothing(esp: Esp) -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        raise KeyboardInterrupt

    with pytest.raises(BootcdError, match="1 bytes came instead of 2"):
        esp.write("EFI/bootcd/a", [b"a"], 2)
    with pytest.raises(KeyboardInterrupt):
        esp.write("EFI/bootcd/a", broken())
    assert os.listdir(esp.join("EFI/bootcd")) == []


def test_occupied_counts_clusters(small_esp: Esp) -> None:
    cluster = small_esp.occupied(1)
    assert small_esp.occupied(0) == 0
    assert small_esp.occupied(cluster, cluster + 1) == 3 * cluster


def test_remove_takes_a_directory_with_its_content(esp: Esp) -> None:
    esp.make_directory("EFI/bootcd/a/b/c")
    esp.write("EFI/bootcd/a/b/file", [b"12345"])
    assert esp.remove("EFI/bootcd/a") == 5
    assert esp.names("EFI/bootcd") == []


@pytest.mark.parametrize("point", ["esp-temporary-made", "esp-before-fsync", "esp-before-rename", "esp-after-rename"])
def test_a_crash_leaves_the_whole_file_or_a_temporary_one(esp: Esp, point: str) -> None:
    """A real process ends at each fail point; the next run finds the old state or the new one, and cleans up."""
    code = "import sys; from bootcd.boot.esp import Esp; Esp(sys.argv[1]).write('EFI/bootcd/new', [b'whole'])"
    done = subprocess.run([sys.executable, "-c", code, esp.path], check=False,
                          env=os.environ | {"BOOTCD_CRASH_AT": point, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 137
    left = os.listdir(esp.join("EFI/bootcd"))
    if point == "esp-after-rename":
        assert left == ["new"]
        assert esp.clean() == []
    else:
        assert esp.names("EFI/bootcd") == []
        assert esp.clean() == [f"EFI/bootcd/{name}" for name in left]
        assert os.listdir(esp.join("EFI/bootcd")) == []
