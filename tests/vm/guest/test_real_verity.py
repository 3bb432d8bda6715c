# SPDX-License-Identifier: Apache-2.0
"""Secure repositories on file systems that have fs-verity: ext4 and btrfs. The kernel's answers are real."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootcd.errors import ObjectMismatch, RepositoryConflict, Unsupported
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.linux import mount, verity
from bootcd.store.fsck import check, repair
from bootcd.store.images import Images
from bootcd.store.layers import import_layer
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from kit.images import Dir, File, ImageBuilder, Layer
from kit.os_images import os_image
from vm.guest.conftest import Volume

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

LARGE = os.urandom(16 << 10)
"""Content of one file: four pages, in one piece on the disk."""


def image() -> ImageBuilder:
    return os_image("1.0", [Dir("usr/share"), File("usr/share/large", LARGE), File("usr/share/other", b"other" * 50)])


def store(repo: Repository, image: ImageBuilder) -> bytes:
    """Import everything and return the digest of the composefs image."""
    for layer in image.layers:
        rest = memoryview(layer.tar)
        position = 0

        def read(n: int) -> bytes:
            nonlocal position
            data = bytes(rest[position : position + n])  # noqa: B023
            position += len(data)
            return data

        import_layer(repo, layer.diff_id, read)
    images = OciImages(repo)
    images.put_config(image.config_bytes)
    images.put_manifest(image.manifest_bytes, "test")
    digest = images.commit_images(image.manifest_digest, boot=False).image
    assert digest is not None
    return digest


def kernel_digest(path: str | Path, algorithm: Algorithm) -> bytes | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return verity.measure(fd, algorithm)
    finally:
        os.close(fd)


@contextlib.contextmanager
def mounted(images: Images, digest: bytes, path: Path) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    fd = images.mount(digest)
    try:
        mount.attach(fd, path)
    finally:
        os.close(fd)
    try:
        yield path
    finally:
        mount.umount(path)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_object_has_the_digest_that_the_kernel_measures(volume: Volume, algorithm: Algorithm) -> None:
    sizes = [0, 1, 4095, 4096, 4097, 128 * 4096, 128 * 4096 + 1, (1 << 20) + 5, 3 << 20]
    with Repository.init(volume.path / "r", algorithm) as repo:
        assert repo.secure
        assert kernel_digest(volume.path / "r/meta.json", algorithm) is not None
        for size in sizes:
            content = os.urandom(size)
            assert repo.objects.put(content) == measure(content, algorithm)
            with repo.objects.writer() as writer:
                writer.write(content + b"streamed")
                writer.commit()
        repo.streams.put("some-name", b"stream")
        digests = list(repo.objects.all())
        assert len(digests) == 2 * len(sizes) + 1
        for digest in digests:
            assert kernel_digest(repo.objects.path(digest), algorithm) == digest
    with volume.unmounted():
        pass
    with Repository.open(volume.path / "r") as repo:
        assert repo.secure
        assert {digest for digest in repo.objects.all() if repo.objects.read(digest) is not None} == set(digests)


def test_objects_cannot_be_written(volume: Volume) -> None:
    with Repository.init(volume.path / "r") as repo:
        path = repo.objects.path(repo.objects.put(b"x" * 100))
        for mode in ("r+b", "ab", "wb"):
            with pytest.raises(PermissionError):
                open(path, mode).close()


def test_settings_are_kept(volume: Volume) -> None:
    Repository.init(volume.path / "r", insecure=False).close()
    with pytest.raises(RepositoryConflict, match="with fs-verity"):
        Repository.init(volume.path / "r", insecure=True)
    Repository.init(volume.path / "insecure", insecure=True).close()
    with Repository.open(volume.path / "insecure") as repo:
        assert not repo.secure
        assert kernel_digest(repo.objects.path(repo.objects.put(b"x" * 100)), repo.algorithm) is None
    with pytest.raises(RepositoryConflict, match="without fs-verity"):
        Repository.init(volume.path / "insecure", insecure=False)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_mounted_tree_demands_verity_and_reads_right(volume: Volume, tmp_path: Path, algorithm: Algorithm) -> None:
    with Repository.init(volume.path / "r", algorithm) as repo:
        digest = store(repo, image())
        with mounted(repo.images, digest, tmp_path / "m") as top:
            line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(top) in line)
            assert "verity=require" in line
            assert f"composefs:{digest.hex()}" in line
            assert (top / "usr/share/large").read_bytes() == LARGE
            assert (top / "usr/share/other").read_bytes() == b"other" * 50
            assert (top / "usr/lib/modules/6.12.0-test/vmlinuz").read_bytes() == b"kernel one"
            with pytest.raises(OSError, match="Read-only"):
                (top / "usr/new").touch()
        assert check(repo).ok


def remove_verity(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def other_content(path: Path) -> None:
    path.unlink()
    path.write_bytes(LARGE[::-1])
    fd = os.open(path, os.O_RDONLY)
    try:
        verity.enable(fd, Algorithm.SHA512)
    finally:
        os.close(fd)


def empty(path: Path) -> None:
    path.unlink()
    path.touch()


@pytest.mark.parametrize(("spoil", "kind"), [
    (remove_verity, "object-verity-missing"), (empty, "object-verity-missing"),
    (other_content, "object-digest-mismatch")])
def test_a_replaced_object_is_refused(volume: Volume, tmp_path: Path, spoil: Callable[[Path], None], kind: str
                                      ) -> None:
    digest = measure(LARGE, Algorithm.SHA512)
    with Repository.init(volume.path / "r") as repo:
        top = store(repo, image())
        spoil(Path(repo.objects.path(digest)))
        with pytest.raises(ObjectMismatch):
            repo.objects.read(digest)
        refuses(repo.images, top, tmp_path / "m")
        report = check(repo)
        assert [(one.kind, one.what) for one in report.findings] == [(kind, f"objects/{digest.hex()}")]
        assert repo.objects.insert(digest, LARGE)
        assert check(repo).ok
        with mounted(repo.images, top, tmp_path / "m") as path:
            assert (path / "usr/share/large").read_bytes() == LARGE


def refuses(images: Images, image: bytes, where: Path) -> None:
    """The kernel gives EIO for the one file, and the others."""
    with mounted(images, image, where) as path:
        with pytest.raises(OSError, match="Input/output error"):
            (path / "usr/share/large").read_bytes()
        assert (path / "usr/share/other").read_bytes() == b"other" * 50


def test_damage_of_the_disk_is_refused_found_and_repaired(volume: Volume, tmp_path: Path) -> None:
    digest = measure(LARGE, Algorithm.SHA512)
    with Repository.init(volume.path / "r") as repo:
        top = store(repo, image())
        repo.sync()
    volume.damage(LARGE[4096:8192])
    with Repository.open(volume.path / "r") as repo:
        assert kernel_digest(repo.objects.path(digest), repo.algorithm) == digest
        refuses(repo.images, top, tmp_path / "m")
        with pytest.raises(ObjectMismatch, match="cannot be read"):
            repo.objects.read(digest)
        with pytest.raises(ObjectMismatch, match="cannot be read"):
            list(repo.objects.chunks(digest))
        assert check(repo, metadata_only=True).ok
        report = check(repo)
        assert [one.what for one in report.findings] == [f"objects/{digest.hex()}"]
        assert repair(repo, report) == ["test"]
        assert not repo.objects.has(digest)
        assert store(repo, image()) == top
        assert check(repo).ok
        with mounted(repo.images, top, tmp_path / "m") as path:
            assert (path / "usr/share/large").read_bytes() == LARGE


def test_a_damaged_image_is_refused(volume: Volume, tmp_path: Path) -> None:
    entries = [Dir("usr"), *(File(f"usr/file{number}", b"%d" % number) for number in range(500))]
    many = os_image("1.0", more=[Layer(entries)])
    with Repository.init(volume.path / "r") as repo:
        top = store(repo, many)
        data = repo.objects.read(top)
        repo.sync()
    volume.damage(data[len(data) // 4096 // 2 * 4096 :][:4096])
    with Repository.open(volume.path / "r") as repo:
        with pytest.raises(ObjectMismatch):
            repo.images.read(top)
        with mounted(repo.images, top, tmp_path / "m") as path, pytest.raises(OSError, match="Input/output error"):
            read_all(path)
        report = check(repo)
        assert {one.what for one in report.findings} >= {f"objects/{top.hex()}", f"images/{top.hex()}"}
        assert repair(repo, report) == ["test"]
        assert store(repo, many) == top
        assert check(repo).ok


def read_all(top: Path) -> None:
    for path in top.iterdir():
        if path.is_dir() and not path.is_symlink():
            read_all(path)
        elif path.is_file():
            path.read_bytes()


def test_blocks_that_are_too_small(small_blocks: Volume) -> None:
    with Repository.init(small_blocks.path / "r") as repo:
        assert not repo.secure
        repo.objects.put(b"x" * 100)
        assert check(repo).ok
    with pytest.raises(Unsupported, match="sha512 and blocks of 4096 bytes"):
        Repository.init(small_blocks.path / "other", insecure=False)


@pytest.mark.interop
@pytest.mark.parametrize("algorithm", Algorithm)
def test_cfsctl_agrees(volume: Volume, algorithm: Algorithm) -> None:
    if shutil.which("cfsctl") is None:
        pytest.skip("needs cfsctl")

    def cfsctl(*words: str | Path) -> None:
        done = subprocess.run(["cfsctl", *words], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    with Repository.init(volume.path / "ours", algorithm) as repo:
        store(repo, image())
    cfsctl("--repo", volume.path / "ours", "fsck")
    cfsctl("--repo", volume.path / "ours", "oci", "fsck")
    cfsctl("--repo", volume.path / "theirs", "init", "--algorithm", algorithm.identifier)
    with Repository.open(volume.path / "theirs") as repo:
        assert repo.secure
        assert repo.algorithm is algorithm
        store(repo, image())
        assert check(repo).ok
    cfsctl("--repo", volume.path / "theirs", "fsck")
