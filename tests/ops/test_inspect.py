# SPDX-License-Identifier: Apache-2.0
"""What is told of a root directory is what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, ConfigError, NotBootable, PeError, PolicyError
from bootcd.ops.inspect import RootfsReport, inspect
from bootcd.ops.lints.subject import Subject
from bootcd.ops.resultjson import from_json, to_json
from bootcd.ops.rootfs import Rootfs
from kit.rootfs import KERNEL, KVER, MODULES, UKI, Keys, add_uki, clean_rootfs, digest, initrd, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return clean_rootfs(tmp_path / "root")


def look(root: Path) -> RootfsReport:
    return inspect(Subject(Rootfs(root), architecture="x86_64"))


def test_a_kernel_and_an_initrd(root: Path) -> None:
    report = look(root)
    assert (report.title, report.os_id, report.version) == ("Test OS 1", "test", "1")
    assert (report.boots, report.problem, report.uki, report.sealed) == ("split", "", None, None)
    (kernel,) = report.kernels
    assert (kernel.version, kernel.size, kernel.initrd_size) == (KVER, len(KERNEL), len(initrd()))
    assert report.boot_size == len(KERNEL) + len(initrd())
    assert (report.initrd_program, report.selinux) == ("bootcd", "")
    assert report.kargs == ("console=ttyS0", "quiet")
    assert report.digest == digest(root)
    assert report.karg == f"composefs.digest=v1-sha512-12:{digest(root)}"
    assert from_json(RootfsReport, json.loads(json.dumps(to_json(report)))) == report


def test_a_uki(root: Path, tmp_path: Path) -> None:
    if not Keys.available():
        pytest.skip("sbsigntool is not installed")
    keys = Keys(tmp_path)
    path = add_uki(root, keys=keys)
    write(root, f"{UKI}.extra.d/debug.addon.efi", b"MZ")
    report = look(root)
    assert (report.boots, report.sealed) == ("uki", True)
    assert report.uki is not None
    assert (report.uki.name, report.uki.size, report.uki.kernel_version) == (f"{KVER}.efi", path.stat().st_size, KVER)
    assert report.uki.cmdline.startswith("console=ttyS0 quiet composefs.digest=")
    assert report.uki.digests == (digest(root),)
    assert (report.uki.signature.state, report.uki.signature.signer) == ("valid", "CN=key")
    assert report.uki.addons == ("debug.addon.efi",)
    write(root, "etc/late")
    assert look(root).sealed is False


def test_a_uki_without_digest_seals_nothing(root: Path) -> None:
    add_uki(root, "quiet")
    assert look(root).sealed is False


@pytest.mark.parametrize(("files", "who"), [
    ({"usr/lib/bootc/initramfs-setup": b"x"}, "bootc"), ({}, "none"), (None, "unknown"),
])
def test_whose_program_is_in_the_initrd(root: Path, files: dict[str, bytes] | None, who: str) -> None:
    write(root, f"{MODULES}/initramfs.img", b"noise" if files is None else initrd(files))
    assert look(root).initrd_program == who


def test_nothing_to_boot(root: Path) -> None:
    (root / MODULES / "initramfs.img").unlink()
    report = look(root)
    assert (report.boots, report.boot_size) == ("", 0)
    assert report.problem == f"kernel {KVER} of the image has no /{MODULES}/initramfs.img"
    assert report.kernels[0].initrd_size == 0


def test_the_type_of_the_policy(root: Path) -> None:
    write(root, "etc/selinux/config", "SELINUXTYPE=targeted\n")
    write(root, "etc/selinux/targeted/contexts/files/file_contexts", "/.* system_u:object_r:default_t:s0\n")
    assert look(root).selinux == "targeted"


@pytest.mark.parametrize(("path", "content", "error"), [
    ("usr/lib/bootc/kargs.d/x.toml", "kargs = 1", ConfigError), ("etc/selinux/config", "SELINUXTYPE=x", PolicyError),
    (UKI, "MZ", PeError),
])
def test_what_cannot_be_understood(root: Path, path: str, content: str, error: type[BootcdError]) -> None:
    write(root, path, content)
    with pytest.raises(error):
        look(root)


def test_a_tree_without_digest(root: Path) -> None:
    (root / "sysroot").rmdir()
    with pytest.raises(NotBootable, match="/sysroot of the image does not exist"):
        look(root)
