# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments in /etc/bootcd/kargs.d of a machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.deploy.localkargs import read_local_kargs
from bootcd.errors import ConfigError, PermissionDenied


@pytest.fixture
def drop_ins(tmp_path: Path) -> Path:
    directory = tmp_path / "bootcd/kargs.d"
    directory.mkdir(parents=True)
    return directory


def test_arguments_come_in_the_order_of_names(tmp_path: Path, drop_ins: Path) -> None:
    machine = os.uname().machine
    (drop_ins / "20-more.toml").write_text('kargs = ["c d", "e=\\"f g\\""]\n')
    (drop_ins / "10-first.toml").write_text(f'kargs = ["b", "a"]\nmatch-architectures = ["{machine}"]\n')
    (drop_ins / "30-other.toml").write_text('kargs = ["x"]\nmatch-architectures = ["s390x"]\n')
    (drop_ins / "README").write_text("not read\n")
    assert read_local_kargs(tmp_path) == ("b", "a", "c", "d", 'e="f g"')


def test_without_files_there_are_none(tmp_path: Path, drop_ins: Path) -> None:
    for gone in (None, drop_ins, drop_ins.parent):
        if gone is not None:
            gone.rmdir()
        assert read_local_kargs(tmp_path) == ()
    assert read_local_kargs(tmp_path / "nowhere") == ()


@pytest.mark.parametrize(("text", "words"), [
    ("kargs = [", r"^/etc/bootcd/kargs\.d/50-x\.toml: "), ("kargs = 1", "is no list"), ("delete = []", "unknown key"),
    ("kargs = ['composefs=1']", "names the image to boot"), ("kargs = ['a root=/dev/sda']", "names the root file sys"),
    ('kargs = ["a\\nb"]', "no kernel argument"), ("#" * 70_000, "70000|too many"),
])
def test_a_file_that_makes_no_sense(tmp_path: Path, drop_ins: Path, text: str, words: str) -> None:
    (drop_ins / "50-x.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_local_kargs(tmp_path)
    assert "bootcctl(8)" in caught.value.hint


def elsewhere(path: Path) -> None:
    (path.parent / "elsewhere").write_text('kargs = ["secret"]\n')
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, elsewhere], ids=["directory", "pipe", "link"])
def test_what_is_no_file(tmp_path: Path, drop_ins: Path, make: Callable[[Path], None]) -> None:
    make(drop_ins / "50-x.toml")
    with pytest.raises(ConfigError, match=r"/etc/bootcd/kargs\.d/50-x\.toml is no regular file"):
        read_local_kargs(tmp_path)


def test_no_link_leads_out_of_etc(tmp_path: Path, drop_ins: Path) -> None:
    (drop_ins / "a.toml").write_text('kargs = ["a"]\n')
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "bootcd").symlink_to(drop_ins.parent)
    with pytest.raises(ConfigError, match="is no directory"):
        read_local_kargs(etc)
    (etc / "bootcd").unlink()
    (etc / "bootcd").write_text("a file")
    with pytest.raises(ConfigError, match="is no directory"):
        read_local_kargs(etc)


def test_a_name_that_is_no_text(tmp_path: Path, drop_ins: Path) -> None:
    Path(os.fsdecode(os.fsencode(drop_ins) + b"/\xff.toml")).write_text("no")
    with pytest.raises(ConfigError, match=r"kargs\.d/\\xff\.toml"):
        read_local_kargs(tmp_path)


def test_what_cannot_be_read_says_so(tmp_path: Path, drop_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (drop_ins / "a.toml").write_text('kargs = ["a"]\n')

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bootcd.linux.files.open_regular", denied)
    with pytest.raises(PermissionDenied, match=r"cannot read /etc/bootcd/kargs\.d/a\.toml"):
        read_local_kargs(tmp_path)
