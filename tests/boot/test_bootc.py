# SPDX-License-Identifier: Apache-2.0
"""Entries of bootc are told from others by what they start, and come in the order in which they boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.boot import bootc, entries
from bootcd.boot.esp import Esp

ONE, TWO = "1" * 128, "2" * 128


@pytest.fixture
def esp(tmp_path: Path) -> Esp:
    for name in (ONE, TWO):
        place = tmp_path / f"EFI/Linux/bootc_composefs-{name}"
        place.mkdir(parents=True)
        (place / "vmlinuz").write_bytes(b"kernel")
        (place / "initrd").write_bytes(b"initrd")
    (tmp_path / "EFI/Linux/bootc").mkdir()
    (tmp_path / f"EFI/Linux/bootc/bootc_composefs-{ONE}.efi").write_bytes(b"uki")
    (tmp_path / "loader/entries").mkdir(parents=True)
    return Esp(tmp_path)


def write(esp: Esp, name: str, loader: str, options: str = f"rw composefs={ONE}", sort_key: str = "bootc-os-0") -> None:
    text = f"title x\nversion 1\nsort-key {sort_key}\n{loader}\noptions {options}\n"
    (Path(esp.path) / "loader/entries" / name).write_text(text)


def found(esp: Esp) -> tuple[list[bootc.BootcEntry], list[str]]:
    return bootc.bootc_entries(entries.list_entries(esp))


def test_what_boots_next_is_first(esp: Esp) -> None:
    write(esp, "bootc_os-1-0.conf", f"linux /EFI/Linux/bootc_composefs-{ONE}/vmlinuz", sort_key="bootc-os-1")
    write(esp, "bootc_os-2-1.conf", f"linux /EFI/Linux/bootc_composefs-{ONE}/vmlinuz",
          f"quiet composefs=?{TWO} a=\"b c\"")
    made, problems = found(esp)
    assert problems == []
    assert made == [
        bootc.BootcEntry("bootc_os-2-1.conf", TWO, "bls", f"EFI/Linux/bootc_composefs-{ONE}", f"composefs=?{TWO}",
                         ("quiet", 'a="b c"')),
        bootc.BootcEntry("bootc_os-1-0.conf", ONE, "bls", f"EFI/Linux/bootc_composefs-{ONE}", f"composefs={ONE}",
                         ("rw",)),
    ]


def test_a_uki_tells_its_id_by_its_name(esp: Esp) -> None:
    write(esp, "any-name.conf", f"efi /EFI/Linux/bootc/bootc_composefs-{ONE}.efi")
    (made,), problems = found(esp)
    assert (made.id, made.boot_type, made.kargs, problems) == (ONE, "uki", (), [])


def test_entries_of_others_are_passed_over(esp: Esp) -> None:
    write(esp, "memtest.conf", "efi /EFI/memtest/memtest.efi")
    (Path(esp.path) / "loader/entries/broken.conf").write_bytes(b"\xff")
    assert found(esp) == ([], [])


@pytest.mark.parametrize(("loader", "options", "said"), [
    ("linux /EFI/other/vmlinuz", f"composefs={ONE}", "not where bootc"),
    ("title y", "", "starts nothing"),
    (f"linux /EFI/Linux/bootc_composefs-{'3' * 128}/vmlinuz", f"composefs={'3' * 128}", "is missing"),
    (f"linux /EFI/Linux/bootc_composefs-{ONE}/vmlinuz", "quiet", "names 0 images"),
    (f"linux /EFI/Linux/bootc_composefs-{ONE}/vmlinuz", f"composefs={ONE} composefs={TWO}", "names 2 images"),
    (f"linux /EFI/Linux/bootc_composefs-{ONE}/vmlinuz", "composefs=123", "malformed"),
])
def test_what_makes_no_sense_is_told(esp: Esp, loader: str, options: str, said: str) -> None:
    write(esp, "bootc_os-1-0.conf", loader, options)
    made, (problem,) = found(esp)
    assert made == []
    assert said in problem
    assert "bootc_os-1-0.conf" in problem


@pytest.mark.parametrize("path", [
    "", "EFI/bootcd/x", "EFI/Linux", "EFI/Linux/other.efi", "loader/entries/../../x.conf", "loader/entries/.conf/x",
    f"EFI/Linux/bootc_composefs-{ONE}/../../x", "loader/loader.conf", f"EFI/Linux/bootc/bootc_composefs-{ONE}.efi/x"])
def test_nothing_else_is_ever_removed(path: str) -> None:
    assert not bootc.is_removable(path)


def test_removing_twice(esp: Esp) -> None:
    place = f"EFI/Linux/bootc/bootc_composefs-{ONE}.efi"
    (Path(esp.path) / f"{place}.extra.d").mkdir()
    (Path(esp.path) / f"{place}.extra.d/a.addon.efi").write_bytes(b"addon")
    (Path(esp.path) / f"{place}.extra.d/readme").write_bytes(b"text")
    assert bootc.addons(esp, place) == {"a.addon.efi"}
    for _ in range(2):
        bootc.remove(esp, place)
        assert [path.name for path in (Path(esp.path) / "EFI/Linux/bootc").iterdir()] == []
