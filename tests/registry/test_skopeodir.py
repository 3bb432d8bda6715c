# SPDX-License-Identifier: Apache-2.0
"""`dir:` directories. That skopeo's are read is in test_local_peers.py, that signatures count in test_carried.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootcd.errors import BlobMismatch, BlobNotFound, BootcdError, ImageNotFound, OciError, SourceUnreachable
from bootcd.formats.oci import MAX_DOCUMENT
from bootcd.model import ImageReference
from bootcd.registry.skopeodir import SkopeoDirectory
from kit.images import ImageBuilder, IndexBuilder, sha256, to_json
from kit.pulling import AMD64, ARM64, FAST, IMAGE, LAYERS, fetch, pull


def write_copy(directory: Path, image: ImageBuilder | IndexBuilder = IMAGE) -> str:
    directory.mkdir()
    (directory / "version").write_bytes(b"Directory Transport Version: 1.1\n")
    (directory / "manifest.json").write_bytes(image.manifest_bytes)
    for digest, data in image.blobs().items():
        (directory / digest[7:]).write_bytes(data)
    for digest, (_, data) in image.manifests().items():
        if digest != image.manifest_digest:
            (directory / f"{digest[7:]}.manifest.json").write_bytes(data)
    return f"dir:{directory}"


def test_pull(tmp_path: Path) -> None:
    reference = write_copy(tmp_path / "a")
    assert pull(reference) == [layer.tar for layer in LAYERS]
    assert fetch(reference).digest == fetch(f"{reference}@{IMAGE.manifest_digest}").digest == IMAGE.manifest_digest
    with pytest.raises(ImageNotFound, match=f"the image there is {IMAGE.manifest_digest}"):
        fetch(f"{reference}@{sha256(b'')}")
    (tmp_path / "a/version").unlink()
    assert fetch(reference).digest == IMAGE.manifest_digest


def test_index(tmp_path: Path) -> None:
    images = [ImageBuilder(LAYERS[:1], platform=platform) for platform in (AMD64, ARM64)]
    index = IndexBuilder(images)
    reference = write_copy(tmp_path / "a", index)
    for image in images:
        fetched = fetch(reference, platform=image.platform)
        assert (fetched.digest, fetched.reference_digest) == (image.manifest_digest, index.manifest_digest)
    path = tmp_path / f"a/{images[0].manifest_digest[7:]}.manifest.json"
    path.write_bytes(path.read_bytes().replace(b"gzip", b"zstd"))
    with pytest.raises(BlobMismatch, match="has digest"):
        fetch(reference)
    path.unlink()
    with pytest.raises(BlobNotFound):
        fetch(reference)


def test_signatures_are_those_of_the_manifest(tmp_path: Path) -> None:
    index = IndexBuilder([ImageBuilder(LAYERS[:1], platform=AMD64)])
    reference = write_copy(tmp_path / "a", index)
    inner = index.images[0].manifest_digest
    for name in ("signature-1", "signature-2", "signature-4", f"{inner[7:]}-signature-1"):
        (tmp_path / "a" / name).write_bytes(name.encode())
    source = SkopeoDirectory(ImageReference.parse(reference), FAST)
    assert list(source.signatures(index.manifest_digest)) == [
        ("signature-1", b"signature-1"), ("signature-2", b"signature-2")]
    assert [data for _, data in source.signatures(inner)] == [f"{inner[7:]}-signature-1".encode()]
    assert list(source.signatures("sha256:../../etc/passwd")) == []
    (tmp_path / "a/signature-1").write_bytes(bytes(1 << 20))
    assert len(next(source.signatures(index.manifest_digest))[1]) < 1 << 18


def test_missing_and_wrong(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="there is no directory"):
        fetch(f"dir:{tmp_path}/missing")
    reference = write_copy(tmp_path / "a")
    path = tmp_path / "a" / LAYERS[0].digest[7:]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BlobMismatch, match="bytes, not"):
        pull(reference)
    path.unlink()
    with pytest.raises(BlobNotFound, match=LAYERS[0].digest):
        pull(reference)
    path.symlink_to("/dev/zero")
    with pytest.raises(SourceUnreachable, match="not a regular file"):
        pull(reference)
    (tmp_path / "a/version").write_bytes(b"Directory Transport Version: 2.0\n")
    with pytest.raises(OciError, match="version"):
        fetch(reference)


@pytest.mark.parametrize("content", [
    b"", b"[]", b"{}", b"\xff", b" " * (MAX_DOCUMENT + 1), b"[" * 100_000,
    to_json({**IMAGE.manifest, "layers": [{"mediaType": "x", "digest": "sha256:../x", "size": 1}]}),
    to_json({**IMAGE.manifest, "config": {"mediaType": "x", "digest": sha256(b""), "size": 1 << 47}}),
])
def test_malformed(tmp_path: Path, content: bytes) -> None:
    reference = write_copy(tmp_path / "a")
    (tmp_path / "a/manifest.json").write_bytes(content)
    with pytest.raises(OciError, match=f"^dir:{tmp_path}/a: "):
        fetch(reference)


@pytest.mark.parametrize("name", ["version", "manifest.json"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    reference = write_copy(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    os.mkfifo(tmp_path / "a" / name)
    with pytest.raises(SourceUnreachable, match=f"{name}: not a regular file"):
        fetch(reference)
    with pytest.raises(BootcdError):
        fetch("dir:a\0b")
    (tmp_path / "a" / name).unlink()
    if name == "manifest.json":
        with pytest.raises(OciError, match=r"no manifest\.json") as caught:
            fetch(reference)
        assert "oci:DIRECTORY" in caught.value.hint
