# SPDX-License-Identifier: Apache-2.0
"""A root directory, its tar, its OCI image, and what a machine composes of that have one digest."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bootcd.errors import (
    BlobMismatch,
    BootcdError,
    DiffIdMismatch,
    DumpError,
    ImageNotFound,
    LayerConflict,
    NotBootable,
    PolicyError,
    SourceUnreachable,
    TarError,
    UsageError,
)
from bootcd.formats.dump import format_dump
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.transform import XattrMode
from bootcd.formats.treediff import differences
from bootcd.ops.trees import canonical
from kit.docker_archives import saved
from kit.images import Dir, File, Hardlink, ImageBuilder, Layer, Whiteout
from kit.os_images import os_image
from kit.rootfs import archive, clean_rootfs, write
from kit.stores import StoreBuilder
from registry.test_skopeodir import write_copy

POLICY = "etc/selinux/targeted/contexts/files/file_contexts"


def digest_of(what: str | Path, version: Version = Version.V1, algorithm: Algorithm = Algorithm.SHA512) -> str:
    return measure(write_image(canonical(os.fspath(what), algorithm), version, algorithm), algorithm).hex()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = clean_rootfs(tmp_path / "root")
    os.link(root / "usr/bin/su", root / "usr/bin/sudo")
    (root / "var/run").unlink()
    (root / "run/lost").touch()
    os.utime(root / "etc/passwd", ns=(5, 1_234_567_890_123_456_789))
    write(root, "etc/selinux/config", "SELINUXTYPE=targeted\n")
    write(root, POLICY, "/.* system_u:object_r:default_t:s0\n/etc/.* system_u:object_r:etc_t:s0\n")
    return root


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, zstandard.compress])
def test_a_directory_and_its_tar(root: Path, tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    tar = archive(root, tmp_path / "root.tar")
    tar.write_bytes(squeeze(tar.read_bytes()))
    for version in Version:
        for algorithm in Algorithm:
            assert digest_of(tar, version, algorithm) == digest_of(root, version, algorithm)


def test_a_directory_and_its_image(root: Path, tmp_path: Path) -> None:
    tar = archive(root, tmp_path / "root.tar")
    ImageBuilder([Layer(tar=tar.read_bytes(), compression="zstd")]).write_layout(tmp_path / "layout", "v1")
    assert digest_of(f"oci:{tmp_path}/layout:v1") == digest_of(root)


def test_an_image_in_every_place(root: Path, tmp_path: Path) -> None:
    """The same layers, however they are packed there."""
    tar = archive(root, tmp_path / "root.tar")
    image = ImageBuilder([Layer(tar=tar.read_bytes(), compression="gzip"), Layer([File("usr/bin/more", b"x" * 100)])])
    image.write_layout(tmp_path / "layout", "v1")
    expected = digest_of(f"oci:{tmp_path}/layout:v1")
    assert digest_of(f"oci-archive:{image.write_archive(tmp_path / 'archive.tar', 'v1')}:v1") == expected
    assert digest_of(saved(tmp_path / "saved.tar", (image, "quay.io/a/b:1"))) == expected
    assert digest_of(write_copy(tmp_path / "copy", image)) == expected
    store = StoreBuilder(tmp_path / "store", ImageBuilder([Layer([Dir("usr"), File("usr/a", b"a" * 1000)])]), "os:1")
    store_layout = ImageBuilder([Layer([Dir("usr"), File("usr/a", b"a" * 1000)])])
    store_layout.write_layout(tmp_path / "other", "v1")
    digests = [measure(write_image(canonical(name, Algorithm.SHA512, boot=False), Version.V1, Algorithm.SHA512),
                       Algorithm.SHA512) for name in (store.reference("os:1"), f"oci:{tmp_path}/other:v1")]
    assert digests[0] == digests[1]
    assert digest_of(f"tar:{tar}") == digest_of(tar)


def test_an_image_of_layers(root: Path, tmp_path: Path) -> None:
    tar = archive(root, tmp_path / "root.tar")
    (root / "etc/group").unlink()
    write(root, "usr/bin/big", b"big" * 100_000)
    os.utime(root / "usr/bin/big", (1_700_000_000, 1_700_000_000))
    os.link(root / "usr/bin/big", root / "usr/bin/bigger")
    for path in ("etc", "usr/bin"):
        os.utime(root / path, (1_700_000_000, 1_700_000_000))
    layer = Layer([Dir("etc"), Whiteout("etc/group"), Dir("usr/bin"), File("usr/bin/big", b"big" * 100_000),
                   Hardlink("usr/bin/bigger", "usr/bin/big")], compression="gzip")
    ImageBuilder([Layer(tar=tar.read_bytes()), layer]).write_layout(tmp_path / "layout", "v1")
    assert digest_of(f"oci:{tmp_path}/layout:v1") == digest_of(root)


def test_what_a_dump_and_an_image_say_is_taken_as_it_is(root: Path, tmp_path: Path) -> None:
    tree = canonical(str(root), Algorithm.SHA512)
    (tmp_path / "dump").write_bytes(b"".join(format_dump(tree)))
    (tmp_path / "image").write_bytes(write_image(tree, Version.V1, Algorithm.SHA512))
    for name in ("dump", "image"):
        assert list(differences(tree, canonical(str(tmp_path / name), Algorithm.SHA512))) == []


def test_labels_come_from_the_policy_in_the_tar(root: Path, tmp_path: Path) -> None:
    tree = canonical(str(archive(root, tmp_path / "root.tar")), Algorithm.SHA512)
    node = tree.lookup(b"/etc/passwd")
    assert node is not None
    assert node.xattrs[b"security.selinux"] == b"system_u:object_r:etc_t:s0"


def test_xattrs_of_users_count_when_they_shall(root: Path, tmp_path: Path) -> None:
    try:
        os.setxattr(root / "etc/passwd", "user.note", b"x")
    except OSError:
        pytest.skip("no xattrs here")
    tar = archive(root, tmp_path / "root.tar")
    for mode in XattrMode:
        trees = [canonical(str(one), Algorithm.SHA512, mode) for one in (root, tar)]
        assert list(differences(*trees)) == []
        assert (b"user.note" in trees[0].lookup(b"/etc/passwd").xattrs) == (  # type: ignore[union-attr]
            mode is XattrMode.KEEP_USER)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "error"), [
    (b"", NotBootable), (b"noise" * 500, TarError), (b"/ 0 nonsense\n", DumpError),
    (gzip.compress(b"x" * 2000, mtime=0), TarError), (bytes(10240), NotBootable),
])
def test_files_that_are_no_images(tmp_path: Path, content: bytes, error: type[BootcdError]) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(error):
        canonical(str(tmp_path / "file"), Algorithm.SHA512)


def test_a_tar_that_is_cut_off(root: Path, tmp_path: Path) -> None:
    tar = archive(root, tmp_path / "root.tar")
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(TarError):
        canonical(str(tar), Algorithm.SHA512)


def test_an_image_that_is_elsewhere() -> None:
    with pytest.raises(UsageError, match="cannot be read here"):
        canonical("docker://quay.io/a/b", Algorithm.SHA512)


@pytest.mark.parametrize("place", ["oci:", "oci-archive:", "docker-archive:", "dir:", "containers-storage:", "tar:"])
def test_an_image_that_is_not_there(tmp_path: Path, place: str) -> None:
    name = f"[overlay@{tmp_path}]none" if place == "containers-storage:" else f"{tmp_path}/none"
    with pytest.raises((SourceUnreachable, ImageNotFound)):
        canonical(f"{place}{name}", Algorithm.SHA512)


def test_a_layer_that_is_another(tmp_path: Path) -> None:
    os_image("1.0").write_layout(tmp_path / "layout", "v1")
    blobs = sorted((tmp_path / "layout/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(blobs[-1].read_bytes())
    content[-1] ^= 1
    blobs[-1].write_bytes(content)
    with pytest.raises((BlobMismatch, DiffIdMismatch)):
        canonical(f"oci:{tmp_path}/layout:v1", Algorithm.SHA512)


def test_a_file_without_its_directory(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("no/parent"))
    with pytest.raises(LayerConflict, match="its parent does not exist"):
        canonical(str(tmp_path / "tar"), Algorithm.SHA512)


def test_a_policy_that_makes_no_sense(root: Path, tmp_path: Path) -> None:
    write(root, POLICY, "/etc( system_u:object_r:etc_t:s0\n" * 4)
    for what in (root, archive(root, tmp_path / "root.tar")):
        with pytest.raises(PolicyError, match="file_contexts:1"):
            canonical(str(what), Algorithm.SHA512)
