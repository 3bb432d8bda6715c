# SPDX-License-Identifier: Apache-2.0
"""What the boot loader says in EFI variables, and installing it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.boot.esp import Esp
from bootcd.boot.loader import GLOBAL_GUID, LOADER_GUID, LoaderVariables, install_systemd_boot, read_variables
from bootcd.errors import NotBootable
from bootcd.formats.tree import Directory, RegularFile


def variable(directory: Path, name: str, value: bytes, guid: str = LOADER_GUID) -> None:
    (directory / f"{name}-{guid}").write_bytes(b"\6\0\0\0" + value)


def test_variables(tmp_path: Path) -> None:
    variable(tmp_path, "LoaderEntrySelected", "bootcd-0000000003-abcdef012345.conf\0".encode("utf-16-le"))
    variable(tmp_path, "LoaderInfo", "systemd-boot 257.9-1\0".encode("utf-16-le"))
    variable(tmp_path, "LoaderEntryDefault", "other.conf\0".encode("utf-16-le"))
    variable(tmp_path, "SecureBoot", b"\1", GLOBAL_GUID)
    found = read_variables(str(tmp_path))
    assert found.selected == "bootcd-0000000003-abcdef012345.conf"
    assert found.systemd_boot == 257
    assert found.uki_key == "efi"
    assert found.secure_boot is True
    assert found.preferred is None
    assert len(found.warnings()) == 1


def test_without_variables(tmp_path: Path) -> None:
    assert read_variables(str(tmp_path / "absent")) == LoaderVariables()
    assert LoaderVariables().uki_key == "efi"
    assert LoaderVariables(info="systemd-boot 258").uki_key == "uki"
    assert LoaderVariables(info="GRUB 2.12").systemd_boot is None
    assert LoaderVariables(default="bootcd-*").warnings() == []


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("efivars")
    (directory / f"LoaderInfo-{LOADER_GUID}").write_bytes(data)
    (directory / f"SecureBoot-{GLOBAL_GUID}").write_bytes(data)
    read_variables(str(directory)).warnings()


def read(node: RegularFile) -> bytes:
    assert node.inline is not None
    return node.inline


def tree(names: dict[str, bytes]) -> Directory:
    root = directory = Directory()
    for part in (b"usr", b"lib", b"systemd", b"boot", b"efi"):
        directory.entries[part] = child = Directory()
        directory = child
    for name, content in names.items():
        directory.entries[name.encode()] = RegularFile(inline=content)
    return root


def test_systemd_boot_is_installed_where_nothing_is(esp: Esp) -> None:
    root = tree({"systemd-bootx64.efi": b"plain", "systemd-bootx64.efi.signed": b"signed", "linuxx64.efi.stub": b"s"})
    esp.make_directory("EFI/BOOT")
    esp.write("EFI/BOOT/BOOTAA64.EFI", [b"foreign"])
    assert install_systemd_boot(esp, root, read) == ["EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"]
    assert b"".join(esp.chunks("EFI/BOOT/BOOTX64.EFI")) == b"signed"
    assert install_systemd_boot(esp, root, read) == []


def test_a_boot_loader_that_is_there_stays(esp: Esp) -> None:
    esp.make_directory("EFI/BOOT")
    esp.write("EFI/BOOT/BOOTX64.EFI", [b"foreign"])
    root = tree({"systemd-bootx64.efi": b"ours"})
    assert install_systemd_boot(esp, root, read) == ["EFI/systemd/systemd-bootx64.efi"]
    assert b"".join(esp.chunks("EFI/BOOT/BOOTX64.EFI")) == b"foreign"
    assert install_systemd_boot(esp, tree({}), read) == []


def test_an_image_without_boot_loader_on_a_bare_partition(esp: Esp) -> None:
    with pytest.raises(NotBootable, match=r"no systemd-boot in /usr/lib/systemd/boot/efi"):
        install_systemd_boot(esp, tree({}), read)
