# SPDX-License-Identifier: Apache-2.0
"""A complete Debian system goes all the way: built from packages, pushed to a real registry, installed, upgraded,
rolled back, mounted by the kernel and compared with its tar name by name, collected, checked.

Takes minutes, needs root and the network of packages.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.debian import DebianError, mirror
from kit.images import File, ImageBuilder, Layer, Whiteout
from kit.push import push
from kit.registry_server import RegistryServer, available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="bootstrapping and mounting need root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.skipif(not available(), reason="docker-registry is not installed"),
]

SUITE = "trixie"
PACKAGES = ("linux-image-amd64", "linux-headers-amd64", "systemd-boot", "systemd-sysv", "dbus", "build-essential",
            "git", "python3", "openssh-server", "libcap2-bin", "iputils-ping")

# What an image build does after the packages are in: the kernel to where bootable containers have it, /boot empty.
CUSTOMIZE = r"""
set -e
kver=$(ls "$1/usr/lib/modules")
mv "$1/boot/vmlinuz-$kver" "$1/usr/lib/modules/$kver/vmlinuz"
mv "$1"/boot/initrd.img-* "$1/usr/lib/modules/$kver/initramfs.img"
rm -rf "$1"/boot/* "$1/initrd.img" "$1/vmlinuz" "$1/initrd.img.old" "$1/vmlinuz.old"
mkdir -p "$1/sysroot"
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """The whole system as one layer."""
    try:
        source = mirror()
    except DebianError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("debian")
    script = directory / "customize"
    script.write_text("#!/bin/sh\n" + CUSTOMIZE)
    script.chmod(0o755)
    target = directory / "root.tar"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=important", f"--include={','.join(PACKAGES)}",
         f"--customize-hook={script} \"$1\"", "--format=tar", SUITE, str(target), source],
        check=True, stdin=subprocess.DEVNULL,
    )
    return Layer(tar=target.read_bytes(), compression="zstd")


def changes(version: str, base: Layer) -> Layer:
    """An upgrade: a new os-release, a thousand changed files, a new initrd, some files gone."""
    entries: list[File | Whiteout] = [File("usr/lib/os-release", f'NAME="Debian"\nVERSION_ID="{version}"\n'.encode())]
    with tarfile.open(fileobj=io.BytesIO(base.tar)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if name.endswith("initramfs.img"):
                content = archive.extractfile(member)
                assert content is not None
                entries.append(File(name, content.read() + bytes(512)))
            elif member.isfile() and name.startswith("usr/include/") and len(entries) < 1000:
                entries.append(File(name, f"/* {version} */\n".encode() * 20))
            elif member.isfile() and name.startswith("usr/share/perl/") and name.endswith("/strict.pm"):
                directory, _, leaf = name.rpartition("/")
                entries.append(Whiteout(f"{directory}/{leaf}"))
    return Layer(entries)


class System:
    """`bootcctl` on one installation."""

    def __init__(self, directory: Path) -> None:
        self.sysroot = directory / "sysroot"
        self.esp = directory / "esp"

    def __call__(self, *arguments: str, json_output: bool = True) -> dict[str, object]:
        command = [sys.executable, "-m", "bootcd.cli", "--sysroot", str(self.sysroot), "--esp", str(self.esp),
                   "--quiet", *arguments, *(["--json"] if json_output else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        result = json.loads(done.stdout) if json_output else {}
        assert isinstance(result, (dict, list))
        return result  # type: ignore[return-value]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as server:
        yield server


def image(version: str, layers: list[Layer]) -> ImageBuilder:
    return ImageBuilder(layers, labels={"org.opencontainers.image.version": version})


def test_a_complete_system_goes_all_the_way(base: Layer, registry: RegistryServer, tmp_path: Path) -> None:
    reference = f"{registry.address}/debian:stable"
    first = image("13.0", [base])
    second = image("13.1", [base, changes("13.1", base)])
    system = System(tmp_path)

    push(first, reference)
    installed = system("install", "to-filesystem", reference)
    assert installed["pull"]["objects-written"] > 20_000  # type: ignore[index]
    assert_mounts_as(system, tmp_path, [base])

    push(second, reference)
    upgraded = system("upgrade")
    assert upgraded["outcome"] == "deployed"
    assert upgraded["pull"]["layers-fetched"] == 1  # type: ignore[index]
    status = system("status")
    assert [one["version"] for one in status["deployments"]] == ["13.1", "13.0"]  # type: ignore[attr-defined]
    assert len(os.listdir(system.esp / "EFI/bootcd")) == 2
    assert_mounts_as(system, tmp_path, [base, second.layers[1]])

    system("rollback")
    status = system("status")
    assert [one["version"] for one in status["deployments"]] == ["13.0", "13.1"]  # type: ignore[attr-defined]
    system("pin", "default", "--label", "good")

    push(image("13.2", [base, changes("13.2", base)]), reference)
    system("upgrade")
    collected = system("cleanup")
    assert {one["version"] for one in system("list")} == {"13.2", "13.0"}  # type: ignore[index,call-overload,union-attr]
    assert collected["dry-run"] is False
    assert len(os.listdir(system.esp / "EFI/bootcd")) == 2
    checked = system("fsck")
    assert checked["ok"] is True

    if shutil.which("cfsctl"):
        repository = str(system.sysroot / "composefs")
        subprocess.run(["cfsctl", "--repo", repository, "fsck"], check=True, capture_output=True)
        subprocess.run(["cfsctl", "--repo", repository, "oci", "fsck"], check=True, capture_output=True)


def assert_mounts_as(system: System, tmp_path: Path, layers: list[Layer]) -> None:
    """The kernel shows exactly the tree that the layers describe."""
    status = system("status")
    version = status["deployments"][0]["manifest-digest"]  # type: ignore[index]
    target = tmp_path / "mnt"
    target.mkdir(exist_ok=True)
    system("image", "mount", version, str(target), json_output=False)
    try:
        wanted = merged(layers)
        wanted.pop(".", None)
        seen = set()
        for directory, directories, names in os.walk(target):
            for name in [*directories, *names]:
                path = Path(directory, name)
                inside = str(path.relative_to(target))
                seen.add(inside)
                compare(path, inside, wanted)
        expected = {name for name in wanted if not name.startswith("run/")}
        assert seen == expected, sorted(seen ^ expected)[:20]
    finally:
        subprocess.run(["umount", str(target)], check=True)


Member = tuple[tarfile.TarInfo, bytes]


def merged(layers: list[Layer]) -> dict[str, Member]:
    """What the layers describe, by Python's own tar reader: name to metadata and digest of the content."""
    tree: dict[str, Member] = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer.tar)) as archive:
            for member in archive:
                name = os.path.normpath(member.name.lstrip("/"))
                directory, leaf = os.path.split(name)
                if leaf.startswith(".wh."):
                    del tree[os.path.join(directory, leaf.removeprefix(".wh."))]
                elif member.islnk():
                    tree[name] = tree[os.path.normpath(member.linkname)]
                else:
                    content = archive.extractfile(member) if member.isfile() else None
                    tree[name] = (member, hashlib.sha256(content.read()).digest() if content else b"")
    return tree


def compare(path: Path, inside: str, wanted: dict[str, Member]) -> None:
    assert inside in wanted, f"{inside} is not in the layers"
    member, digest = wanted[inside]
    found = path.lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
        member.uid, member.gid, member.mode if not member.issym() else stat.S_IMODE(found.st_mode)), inside
    if inside != "run":
        assert int(found.st_mtime) == int(member.mtime), inside
    if member.isdir():
        assert stat.S_ISDIR(found.st_mode), inside
    elif member.issym():
        assert os.readlink(path) == member.linkname, inside
    elif member.isfile():
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == digest, inside
        capability = member.pax_headers.get("SCHILY.xattr.security.capability")
        names = [name for name in os.listxattr(path) if name != "security.selinux"]
        assert names == (["security.capability"] if capability is not None else []), inside
