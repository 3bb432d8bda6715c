# SPDX-License-Identifier: Apache-2.0
"""Images that are made of a bare tree: other tools read them, and they have the digest of the tree."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bootcd.errors import BootcdError, LayerConflict, NotBootable, OciError, TarError, UsageError
from bootcd.formats.fsverity import Algorithm
from bootcd.ops import rootfs
from bootcd.ops.fromrootfs import COMPRESSIONS, MadeImage, from_rootfs, parse_labels
from bootcd.ops.trees import canonical
from crash.program import snapshot
from kit.os_images import os_image
from kit.rootfs import add_uki, clean_rootfs, digest, write

TIME = "2025-01-01T00:00:00Z"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = clean_rootfs(tmp_path / "root")
    os.link(root / "usr/bin/su", root / "usr/bin/sudo")
    os.mkfifo(root / "usr/pipe")
    write(root, "usr/share/large", os.urandom(3_000_000))
    write(root, os.fsdecode("usr/share/näme".encode("latin-1")), b"x" * 65)
    os.utime(root / "etc/passwd", ns=(5, 1_234_567_890_123_456_789))
    add_uki(root)
    return root


def make(source: Path, target: Path, tag: str = "v1", **options: object) -> MadeImage:
    return from_rootfs(os.fspath(source), f"oci:{target}:{tag}", labels={}, created=TIME, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_image_has_the_digest_of_its_tree(root: Path, tmp_path: Path, compression: str) -> None:
    made = make(root, tmp_path / "layout", compression=compression)
    assert made.digest == digest(root)
    image = f"oci:{tmp_path}/layout:v1"
    for algorithm in Algorithm:
        one, other = canonical(image, algorithm), canonical(str(root), algorithm)
        assert [path for path, _ in one.walk()] == [path for path, _ in other.walk()]
    blob = tmp_path / "layout/blobs" / made.layer_digest.replace(":", "/")
    assert blob.stat().st_size == made.layer_size


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, zstandard.compress])
def test_an_image_of_a_tar(root: Path, tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    tar = tmp_path / "root.tar"
    subprocess.run(["tar", "-c", "-f", tar, "-C", root, "--format=pax", "."], check=True)
    tar.write_bytes(squeeze(tar.read_bytes()))
    assert make(tar, tmp_path / "layout").digest == digest(root)


def test_the_same_tree_makes_the_same_image(root: Path, tmp_path: Path) -> None:
    assert make(root, tmp_path / "one").manifest_digest == make(root, tmp_path / "two").manifest_digest


def test_skopeo_takes_it(root: Path, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    from_rootfs(str(root), f"oci:{tmp_path}/layout:v1", labels={"a": "b"}, created=TIME)
    done = subprocess.run(["skopeo", "inspect", f"oci:{tmp_path}/layout:v1"], check=True, capture_output=True)
    said = json.loads(done.stdout)
    assert said["Labels"] == {"a": "b", "containers.bootc": "1", "org.opencontainers.image.version": "1"}
    assert said["Created"] == TIME
    subprocess.run(["skopeo", "copy", f"oci:{tmp_path}/layout:v1", f"oci-archive:{tmp_path}/archive"], check=True,
                   capture_output=True)
    assert canonical(f"oci-archive:{tmp_path}/archive", Algorithm.SHA512)


def test_a_layout_keeps_its_other_images(root: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    os_image("1.0").write_layout(layout, "other")
    make(root, layout)
    write(root, "etc/more")
    make(root, layout)
    index = json.loads((layout / "index.json").read_bytes())
    names = [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]]
    assert names == ["other", "v1"]
    assert canonical(f"oci:{layout}:other", Algorithm.SHA512)


def test_what_lies_in_run_is_no_part_of_it(root: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(root / "run/s"))
    assert make(root, tmp_path / "layout").digest == digest(root)


# --- bad input --------------------------------------------------------------------------------------------------------


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(("before", "error"), [
    (lambda root: bound(root / "usr/s"), TarError), (lambda root: write(root, "etc/.wh.x"), TarError),
    (lambda root: shutil.rmtree(root / "sysroot"), NotBootable),
    (lambda root: shutil.rmtree(root / "usr"), NotBootable), (shutil.rmtree, BootcdError),
    (lambda root: (shutil.rmtree(root), write(root.parent, "root", b"x" * 2000)), TarError),
])
def test_a_tree_that_makes_no_image(
    root: Path, tmp_path: Path, before: Callable[[Path], object], error: type[BootcdError],
) -> None:
    before(root)
    with pytest.raises(error):
        make(root, tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_an_image_that_is_there_stays_when_the_next_is_none(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "layout")
    state = snapshot(tmp_path / "layout")
    write(root, "etc/.wh.x")
    with pytest.raises(TarError):
        make(root, tmp_path / "layout")
    assert snapshot(tmp_path / "layout") == state


def test_a_file_that_changes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = rootfs.Rootfs.open

    def change(self: rootfs.Rootfs, file: object) -> int:
        if self.where(file).name == "large":  # type: ignore[arg-type]
            write(root, "usr/share/large", b"shorter")
        return opened(self, file)  # type: ignore[arg-type]

    monkeypatch.setattr(rootfs.Rootfs, "open", change)
    with pytest.raises(BootcdError, match="usr/share/large changed while it was read"):
        make(root, tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_tars_that_make_no_image(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("no/parent"))
    with pytest.raises(LayerConflict):
        make(tmp_path / "tar", tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


@pytest.mark.parametrize("target", ["docker://quay.io/x/y", "oci-archive:x", "oci:x@sha256:" + "0" * 64])
def test_other_places(root: Path, target: str) -> None:
    with pytest.raises(UsageError, match="is no place for an image"):
        from_rootfs(str(root), target, labels={})


def test_a_directory_that_is_something_else(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OciError, match="is no image layout"):
        make(root, root)


@pytest.mark.parametrize("text", ["", "x", "=x"])
def test_labels(text: str) -> None:
    assert parse_labels(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(UsageError):
        parse_labels([text])
