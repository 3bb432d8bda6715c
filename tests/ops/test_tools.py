# SPDX-License-Identifier: Apache-2.0
"""Directories of this machine have the digests that cfsctl and mkcomposefs give them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.ops import tools

# Trees that nobody made for this test; what is not there is passed over.
TREES = [Path(name) for name in ("/usr/share/doc", "/usr/lib/systemd", "/usr/share/zoneinfo", "/etc")]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def readable(tree: Path) -> Path:
    if not tree.is_dir():
        pytest.skip(f"{tree} is not there")
    if os.geteuid() != 0 and tree == Path("/etc"):
        pytest.skip("needs root to read everything")
    return tree


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@pytest.mark.interop
@pytest.mark.parametrize("tree", TREES, ids=str)
@pytest.mark.parametrize("version", [Version.V0, Version.V1], ids=["v0", "v1"])
def test_directories_as_mkcomposefs_sees_them(tree: Path, version: Version) -> None:
    mkcomposefs = program("mkcomposefs")
    image = tools.image_of_directory(readable(tree), version, Algorithm.SHA256, hardlinks=False)
    number = f"{version.value}"
    theirs = output(mkcomposefs, f"--min-version={number}", f"--max-version={number}", "--print-digest-only", tree)
    assert measure(image, Algorithm.SHA256).hex() == theirs


@pytest.mark.interop
@pytest.mark.parametrize("tree", TREES, ids=str)
@pytest.mark.parametrize("algorithm", list(Algorithm), ids=["sha256", "sha512"])
@pytest.mark.parametrize("version", list(Version), ids=["v0", "v1", "v2"])
def test_directories_as_cfsctl_sees_them(tree: Path, algorithm: Algorithm, version: Version) -> None:
    cfsctl = program("cfsctl")
    image = tools.image_of_directory(readable(tree), version, algorithm)
    theirs = output(cfsctl, "--no-repo", "--hash", algorithm.label, "--erofs-version", f"{version.value}", "compute-id",
                    "--no-propagate-usr-to-root", tree)
    assert measure(image, algorithm).hex() == theirs


@pytest.mark.interop
@pytest.mark.parametrize("boot", [True, False], ids=["boot", "plain"])
@pytest.mark.parametrize("version", [Version.V1, Version.V2], ids=["v1", "v2"])
def test_root_directories_as_cfsctl_sees_them(tmp_path: Path, boot: bool, version: Version) -> None:
    cfsctl = program("cfsctl")
    for name in ("boot", "etc", "run/lock", "sysroot", "usr/share"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "boot/vmlinuz").write_bytes(b"k" * 100)
    shutil.copytree(readable(Path("/usr/share/zoneinfo")), tmp_path / "usr/share/zoneinfo", symlinks=True)
    ours = tools.digests(tmp_path, Algorithm.SHA512, [version], boot=boot)[version]
    theirs = output(cfsctl, "--no-repo", "--hash", "sha512", "--erofs-version", f"{version.value}", "compute-id",
                    *(["--bootable"] if boot else []), tmp_path)
    assert ours.hex() == theirs
