# SPDX-License-Identifier: Apache-2.0
"""Kernels, initrds and UKIs on the boot partition."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bootcd.boot import kernels
from bootcd.boot.esp import Esp
from bootcd.boot.kernels import (
    Content,
    boot_digest,
    install_kernel,
    install_uki,
    kernel_of,
    list_kernels,
    remove_kernel,
)
from bootcd.errors import BootEntryError, EspFull, ObjectMismatch, PeError
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.pe import Pe
from kit.pefiles import make_pe

VMLINUZ, INITRD = b"kernel " * 5000, b"initrd " * 9000
DIGEST = boot_digest([VMLINUZ], [INITRD])
ID = "ab" * 64


def test_a_pair_is_copied_once(esp: Esp) -> None:
    vmlinuz, initrd = Content.of(VMLINUZ), Content.of(INITRD)
    assert install_kernel(esp, DIGEST, vmlinuz, initrd) == len(VMLINUZ) + len(INITRD)
    assert install_kernel(esp, DIGEST, vmlinuz, initrd) == 0
    assert b"".join(esp.chunks(f"EFI/bootcd/{DIGEST}/vmlinuz")) == VMLINUZ
    assert kernels.verify_kernel(esp, DIGEST)
    assert [kernel.size for kernel in kernels.list_kernels(esp).kernels] == [len(VMLINUZ) + len(INITRD)]


def test_a_half_copied_pair_is_completed(esp: Esp) -> None:
    """An interrupted copy of another tool, or a damaged file system, is no obstacle."""
    esp.make_directory(f"EFI/bootcd/{DIGEST}")
    esp.write(f"EFI/bootcd/{DIGEST}/vmlinuz", [VMLINUZ[:100]])
    assert [kernel.complete for kernel in list_kernels(esp).kernels] == [False]
    assert not kernels.verify_kernel(esp, DIGEST)
    assert install_kernel(esp, DIGEST, Content.of(VMLINUZ), Content.of(INITRD))
    assert kernels.verify_kernel(esp, DIGEST)


def test_a_damaged_pair_is_replaced_file_by_file(esp: Esp) -> None:
    vmlinuz, initrd = Content.of(VMLINUZ), Content.of(INITRD)
    install_kernel(esp, DIGEST, vmlinuz, initrd)
    assert kernels.replace_kernel(esp, DIGEST, vmlinuz, initrd) == 0
    esp.write(f"EFI/bootcd/{DIGEST}/initrd", [INITRD[:-1] + b"!"])
    assert not kernels.verify_kernel(esp, DIGEST)
    with pytest.raises(ObjectMismatch, match="boot digest"):
        kernels.replace_kernel(esp, DIGEST, vmlinuz, Content.of(b"something else"))
    assert esp.size(f"EFI/bootcd/{DIGEST}/initrd") == len(INITRD)
    assert kernels.replace_kernel(esp, DIGEST, vmlinuz, initrd) == len(INITRD)
    assert kernels.verify_kernel(esp, DIGEST)


def test_content_must_have_its_digest(esp: Esp) -> None:
    with pytest.raises(ObjectMismatch, match=DIGEST):
        install_kernel(esp, "0" * 64, Content.of(VMLINUZ), Content.of(INITRD))
    assert os.listdir(esp.join("EFI/bootcd")) == []


def test_a_full_partition_is_known_before_anything_is_written(small_esp: Esp) -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("nothing is read")

    small_esp.prepare()
    half = small_esp.free() // 2
    with pytest.raises(EspFull, match=r"kernel 000000000000 with its initrd needs \d+ bytes, \d+ of \d+ are free"):
        install_kernel(small_esp, "0" * 64, Content(half, never), Content(half, never))
    with pytest.raises(EspFull, match="UKI of abab"):
        install_uki(small_esp, ID, Content(half, never), {"a.addon.efi": Content(half, never)})
    assert list_kernels(small_esp).kernels == []


def test_a_pair_that_turns_out_not_to_fit_is_removed(small_esp: Esp) -> None:
    """The sizes lie, for example because somebody else writes at the same time."""
    small_esp.prepare()
    free = small_esp.free()
    endless = Content(1000, lambda: (bytes(1 << 16) for _ in range(1000)))
    with pytest.raises(EspFull):
        install_kernel(small_esp, "0" * 64, Content.of(b"kernel"), endless)
    assert small_esp.names("EFI/bootcd") == []
    assert small_esp.free() == free


def test_pairs_on_a_real_file_system(small_esp: Esp) -> None:
    small_esp.prepare()
    install_kernel(small_esp, DIGEST, Content.of(VMLINUZ), Content.of(INITRD))
    assert kernels.verify_kernel(small_esp, DIGEST)
    assert remove_kernel(small_esp, DIGEST) == len(VMLINUZ) + len(INITRD)
    assert small_esp.names("EFI/bootcd") == []


def test_a_uki_with_its_addons(esp: Esp) -> None:
    uki, addon = Content.of(b"uki"), Content.of(b"addon")
    assert install_uki(esp, ID, uki, {"quiet.addon.efi": addon}) == 8
    assert install_uki(esp, ID, uki, {"quiet.addon.efi": addon}) == 0
    assert b"".join(esp.chunks(f"EFI/bootcd/{ID}.efi.extra.d/quiet.addon.efi")) == b"addon"
    (found,) = list_kernels(esp).kernels
    assert (found.name, found.size, found.is_uki) == (f"{ID}.efi", 8, True)
    assert remove_kernel(esp, f"{ID}.efi") == 8
    assert esp.names("EFI/bootcd") == []


def test_another_uki_of_the_same_size_is_copied(esp: Esp) -> None:
    install_uki(esp, ID, Content.of(b"signed by A"), {})
    assert install_uki(esp, ID, Content.of(b"signed by B"), {}) == 11
    assert b"".join(esp.chunks(kernels.uki_path(ID))) == b"signed by B"


def test_a_uki_tells_whose_signatures_it_has(esp: Esp) -> None:
    assert kernels.pcr_key(esp, ID) == b"", "no UKI"
    uki = {".linux": b"kernel"}
    for key, sections in ((b"", uki), (b"public key", {**uki, ".pcrpkey": b"public key"})):
        install_uki(esp, ID, Content.of(make_pe(sections)), {})
        assert kernels.pcr_key(esp, ID) == key


def test_what_is_not_ours_is_passed_over(esp: Esp) -> None:
    for name in ("notes.txt", "vmlinuz", "x.efi"):
        esp.write(f"EFI/bootcd/{name}", [b"x"])
        assert remove_kernel(esp, name) == 0
    esp.make_directory(f"EFI/bootcd/{ID}.efi.extra.d")
    listing = list_kernels(esp)
    assert listing.kernels == []
    assert listing.stray == [f"{ID}.efi.extra.d"]
    remove_kernel(esp, listing.stray[0])
    assert esp.names("EFI/bootcd") == ["notes.txt", "vmlinuz", "x.efi"]


@pytest.mark.parametrize(("path", "name"), [
    (f"/EFI/bootcd/{DIGEST}/vmlinuz", DIGEST), (f"efi\\BOOTCD\\{ID.upper()}.EFI", f"{ID}.efi"),
    (f"EFI/bootcd/{ID}.efi.extra.d/a.addon.efi", f"{ID}.efi"), ("/EFI/Linux/a.efi", None), ("/EFI/bootcd", None),
    ("", None), (f"//EFI/./bootcd//{DIGEST}/initrd", DIGEST),
])
def test_which_kernel_a_path_belongs_to(path: str, name: str | None) -> None:
    assert kernel_of(path) == name


def test_the_digest_of_a_uki_is_the_one_that_its_initrd_takes() -> None:
    cmdline = f"quiet composefs.digest=v1-sha512-12:{'ab' * 64} composefs=?{'cd' * 32}\0"
    pe = Pe.parse(make_pe({".linux": VMLINUZ, ".initrd": INITRD, ".cmdline": cmdline.encode()}))
    assert [str(kernels.uki_digest(pe, algorithm)) for algorithm in (Algorithm.SHA512, Algorithm.SHA256)] == \
        cmdline.rstrip("\0").split()[1:]
    assert kernels.uki_boot_digest(pe) == DIGEST


def test_ukis_that_say_nothing_or_nonsense() -> None:
    bare = Pe.parse(make_pe({".linux": b""}))
    assert kernels.uki_digest(bare, Algorithm.SHA512) is None
    with pytest.raises(PeError, match=r"\.initrd"):
        kernels.uki_boot_digest(bare)
    with pytest.raises(BootEntryError, match="malformed kernel argument"):
        kernels.uki_digest(Pe.parse(make_pe({".cmdline": b"composefs=12"})), Algorithm.SHA512)
