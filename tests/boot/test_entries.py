# SPDX-License-Identifier: Apache-2.0
"""Generations of boot entries, and other people's entries beside them."""

from __future__ import annotations

import os

import pytest

from bootcd.boot import entries
from bootcd.boot.entries import (
    LoaderConfig,
    compose_kernel,
    compose_uki,
    entry_name,
    list_entries,
    menu,
    remove_entry,
    write_entry,
)
from bootcd.boot.esp import Esp
from bootcd.boot.kernels import Content, boot_digest, install_kernel, install_uki, kernel_of
from bootcd.errors import BootEntryError, Refused
from bootcd.formats.bls import EntryName

ID = "abcdef0123456789" * 8
DIGEST = boot_digest([b"k"], [b"i"])


def add(esp: Esp, generation: int, version: str = "13", tries: int | None = 3) -> EntryName:
    install_kernel(esp, DIGEST, Content.of(b"k"), Content.of(b"i"))
    name = entry_name(generation, ID, tries)
    write_entry(esp, name, compose_kernel("Debian", generation, version, DIGEST, "composefs=x quiet"))
    return name


def tried(esp: Esp, name: EntryName, left: int, done: int) -> None:
    """What systemd-boot does at each boot."""
    for file_name in esp.names("loader/entries"):
        if file_name.startswith(name.stem):
            renamed = f"loader/entries/{EntryName(name.stem, left, done)}"
            os.rename(esp.join(f"loader/entries/{file_name}"), esp.join(renamed))


def generations(esp: Esp) -> list[int]:
    return [entry.generation for entry in menu(list_entries(esp).ours)]


def test_what_is_written(esp: Esp) -> None:
    add(esp, 3)
    (file_name,) = esp.names("loader/entries")
    assert file_name == "bootcd-0000000003-abcdef012345+3.conf"
    assert b"".join(esp.chunks(f"loader/entries/{file_name}")).decode().splitlines() == [
        "title Debian", "version 0000000003 13", "sort-key bootcd", f"linux /EFI/bootcd/{DIGEST}/vmlinuz",
        f"initrd /EFI/bootcd/{DIGEST}/initrd", "options composefs=x quiet",
    ]


def test_a_uki_entry_has_no_options(esp: Esp) -> None:
    install_uki(esp, ID, Content.of(b"uki"), {})
    write_entry(esp, entry_name(1, ID), compose_uki("Debian\n 13", 1, None, ID, key="uki", machine_id="0" * 32))
    (entry,) = list_entries(esp).ours
    assert entry.problem is None
    assert entry.kernel == f"{ID}.efi"
    assert entry.content.get("title") == "Debian 13"
    assert entry.content.get("version") == "0000000001"
    assert not entry.content.get_all("options")


def test_the_newest_generation_boots_whatever_the_versions_are(esp: Esp) -> None:
    for generation, version in [(1, "99"), (9, "~1"), (10, ""), (2, "3.5")]:
        add(esp, generation, version)
    assert generations(esp) == [10, 9, 2, 1]
    assert [entry.generation for entry in list_entries(esp).ours] == [10, 9, 2, 1]


def test_three_failed_boots_fall_back_and_a_good_one_stays(esp: Esp) -> None:
    add(esp, 1, tries=None)
    name = add(esp, 2)
    for left, done in [(2, 1), (1, 2)]:
        tried(esp, name, left, done)
        assert generations(esp) == [2, 1]
    tried(esp, name, 0, 3)
    assert generations(esp) == [1, 2]


def test_promoting_an_old_deployment(esp: Esp) -> None:
    """A rollback: one new name first, then the old one goes, though the loader has renamed it meanwhile."""
    old = add(esp, 1)
    tried(esp, old, 2, 1)
    add(esp, 2)
    add(esp, 3)
    assert generations(esp) == [3, 2, 1]
    assert remove_entry(esp, old)
    assert not remove_entry(esp, old)
    assert generations(esp) == [3, 2]


def test_writing_again_does_nothing_but_a_generation_is_used_once(esp: Esp) -> None:
    name = add(esp, 1)
    tried(esp, name, 2, 1)
    entry = compose_kernel("Debian", 1, "13", DIGEST, "composefs=x quiet")
    assert write_entry(esp, name, entry) == "bootcd-0000000001-abcdef012345+2-1.conf"
    with pytest.raises(Refused, match="has the generation of bootcd-0000000001-ffffffffffff"):
        write_entry(esp, entry_name(1, "f" * 64), entry)
    assert len(esp.names("loader/entries")) == 1


def test_a_damaged_entry_of_ours_is_replaced(esp: Esp) -> None:
    name = add(esp, 1)
    esp.write(f"loader/entries/{name}", [b""])
    (entry,) = list_entries(esp).ours
    assert (entry.problem, entry.shown) == ("it names nothing to start", False)
    add(esp, 1)
    assert generations(esp) == [1]


def test_an_entry_without_its_kernel_does_not_count(esp: Esp) -> None:
    add(esp, 1)
    add(esp, 2)
    esp.remove(f"EFI/bootcd/{DIGEST}/initrd")
    assert [entry.problem for entry in list_entries(esp).ours] == [f"EFI/bootcd/{DIGEST}/initrd is missing"] * 2
    assert generations(esp) == [2, 1]
    esp.remove(f"EFI/bootcd/{DIGEST}/vmlinuz")
    assert menu(list_entries(esp).ours) == []


FOREIGN = {
    "fedora-6.1.conf": b"title Fedora\nlinux /vmlinuz\nversion 6.1\n",
    "arch+0-3.conf": b"\xff\xfe broken",
    "w\xe4hl.conf": b"title W\n",
    "huge.conf": b"#" * 100_000,
    "empty.conf": b"",
    "bootcd-1-abc.conf": b"title not quite ours\n",
}


def test_foreign_entries_never_hurt_and_are_never_touched(esp: Esp) -> None:
    for file_name, content in FOREIGN.items():
        esp.write(f"loader/entries/{file_name}", [content])
    esp.make_directory("loader/entries/directory.conf")
    os.symlink("nowhere", esp.join("loader/entries/link.conf"))
    with open(os.path.join(os.fsencode(esp.path), b"loader/entries/\xff.conf"), "wb"):
        pass
    esp.write("loader/entries/readme.txt", [b"not an entry"])
    name = add(esp, 1)
    listing = list_entries(esp)
    assert [entry.generation for entry in listing.ours] == [1]
    problems = {entry.file_name: entry.problem is not None for entry in listing.foreign}
    assert problems == {
        "fedora-6.1.conf": False, "arch+0-3.conf": True, "w\xe4hl.conf": True, "huge.conf": True, "empty.conf": False,
        "bootcd-1-abc.conf": False, "directory.conf": True, "link.conf": True, "\\xff.conf": True,
    }
    remove_entry(esp, name)
    for file_name, content in FOREIGN.items():
        assert b"".join(esp.chunks(f"loader/entries/{file_name}")) == content


@pytest.mark.parametrize("content", [
    b"linux /" + b"a/" * 5000, b"linux ../../../../etc/passwd\ninitrd " + b"x" * 300, b"options only", b"efi \xc3\xa9",
])
def test_hostile_content_under_our_name(esp: Esp, content: bytes) -> None:
    esp.write("loader/entries/bootcd-0000000001-abcdef012345.conf", [content])
    (entry,) = list_entries(esp).ours
    assert entry.problem is not None


def test_the_kernel_of_a_foreign_entry_is_known(esp: Esp) -> None:
    add(esp, 1)
    esp.write("loader/entries/mine.conf", [b"linux \\efi\\bootcd\\" + b"0" * 64 + b"\\vmlinuz\n"])
    (foreign,) = list_entries(esp).foreign
    assert [kernel_of(path) for path in foreign.content.files] == ["0" * 64]


def test_names_have_bounds() -> None:
    with pytest.raises(BootEntryError, match="generation 10000000000"):
        entry_name(10**10, ID)
    with pytest.raises(BootEntryError, match="no id of a deployment"):
        entry_name(1, "short")
    with pytest.raises(BootEntryError, match="no machine ID"):
        compose_uki("a", 1, None, ID, machine_id="x")


def test_all_of_ours_have_the_same_machine_id(esp: Esp) -> None:
    """It is compared before the version: one entry without it would come first for ever."""
    assert entries.machine_id_for(list_entries(esp), "1" * 32) == "1" * 32
    add(esp, 1)
    assert entries.machine_id_for(list_entries(esp), "1" * 32) is None


def test_file_names_order_like_rpms(esp: Esp) -> None:
    """GRUB's blscfg cuts the name at its last two '-': the generation must be the version, counter or not."""
    for tries in (None, 3):
        parts = str(entry_name(12, ID, tries)).removesuffix(".conf").rsplit("-", 2)
        assert parts[:2] == ["bootcd", "0000000012"]


def test_loader_conf(esp: Esp) -> None:
    assert entries.read_config(esp) == LoaderConfig()
    esp.write("loader/loader.conf", [b"# comment\ntimeout 3\ndefault  fedora-*\n"])
    config = entries.read_config(esp)
    assert config == LoaderConfig(default="fedora-*", timeout="3")
    assert len(entries.config_warnings(config)) == 1
    assert entries.config_warnings(LoaderConfig(default="bootcd-*")) == []
    assert "chosen last" in entries.config_warnings(LoaderConfig(default="@saved"))[0]
    esp.write("loader/loader.conf", [b"default \xff\n"])
    assert entries.read_config(esp) == LoaderConfig()


def test_on_real_file_systems(small_esp: Esp) -> None:
    small_esp.prepare()
    name = add(small_esp, 1)
    add(small_esp, 2)
    tried(small_esp, name, 2, 1)
    assert generations(small_esp) == [2, 1]
