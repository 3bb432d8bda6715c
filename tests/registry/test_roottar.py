# SPDX-License-Identifier: Apache-2.0
"""`tar:`: a root file system in a tar, as an image."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    BlobMismatch,
    BootcdError,
    ImageNotFound,
    LayerTooLarge,
    OciError,
    SourceUnreachable,
    TarError,
)
from bootcd.formats.oci import MAX_DOCUMENT, Config
from bootcd.model import ImageReference
from bootcd.registry.blob import read_blob
from bootcd.registry.opening import open_source
from kit.images import Dir, File, Layer, Symlink
from kit.pulling import AMD64, FAST, fetch, pull

NAMES = b'NAME="Test OS"\nPRETTY_NAME="Test OS 7"\nVERSION_ID=7\n'
ROOT = Layer([Dir("usr"), Dir("usr/lib"), Dir("etc"), File("usr/large", b"x" * 100_000),
              File("usr/lib/os-release", NAMES + b"#" * 100), Symlink("etc/os-release", "../usr/lib/os-release")])


def config_of(reference: str) -> Config:
    source = open_source(ImageReference.parse(reference), FAST)
    return Config.parse(read_blob(source, source.manifest(AMD64).manifest.config, MAX_DOCUMENT))


def write(path: Path, layer: Layer = ROOT) -> str:
    path.write_bytes(layer.tar)
    return f"tar:{path}"


def test_the_file_is_the_layer(tmp_path: Path) -> None:
    reference = write(tmp_path / "root.tar")
    assert pull(reference) == [ROOT.tar]
    config = config_of(reference)
    assert config.diff_ids == (ROOT.diff_id,)
    assert config.labels == {"org.opencontainers.image.version": "7", "org.opencontainers.image.title": "Test OS 7"}
    assert (config.os, config.architecture) == ("linux", "amd64")
    digest = fetch(reference).digest
    assert fetch(f"{reference}@{digest}").digest == digest
    assert fetch(write(tmp_path / "again.tar")).digest == digest
    with pytest.raises(ImageNotFound):
        fetch(f"{reference}@{ROOT.digest}")


def test_compressed(tmp_path: Path) -> None:
    plain = config_of(write(tmp_path / "root.tar"))
    for data in (gzip.compress(ROOT.tar), zstandard.ZstdCompressor().compress(ROOT.tar)):
        (tmp_path / "packed").write_bytes(data)
        assert pull(f"tar:{tmp_path}/packed") == [ROOT.tar]
        assert config_of(f"tar:{tmp_path}/packed") == plain
    for data, tool in ((lzma.compress(ROOT.tar), "unxz"), (bz2.compress(ROOT.tar), "bunzip2")):
        (tmp_path / "packed").write_bytes(data)
        with pytest.raises(OciError, match="compressed") as caught:
            fetch(f"tar:{tmp_path}/packed")
        assert tool in caught.value.hint


@pytest.mark.parametrize(("entries", "version"), [
    ([File("etc/os-release", b"VERSION_ID=1")], "1"), ([File("./usr/lib/os-release", b"IMAGE_VERSION=2")], "2"),
    ([File("etc/os-release", b"VERSION_ID=1"), File("usr/lib/os-release", b"VERSION_ID=2")], "2"),
    ([File("usr/lib/os-release", b"VERSION_ID=1"), File("usr/lib/os-release", b"VERSION_ID=2")], "2"),
    ([File("usr/lib/os-release", b"VERSION_ID=3\n" + b"#" * (1 << 20))], "3"), ([], None),
    ([File("usr/lib/os-release", b"\xff\0=\"")], None), ([Symlink("usr/lib/os-release", "/etc/passwd")], None),
    ([Dir("usr/lib/os-release")], None),
])
def test_the_version_is_that_of_os_release(tmp_path: Path, entries: list[File], version: str | None) -> None:
    config = config_of(write(tmp_path / "root.tar", Layer(entries)))
    assert config.labels.get("org.opencontainers.image.version") == version


def test_the_architecture_is_said_by_os_release(tmp_path: Path) -> None:
    for said, is_ in (("arm64", "arm64"), ("x86-64", "amd64"), ("pdp11", "amd64")):
        layer = Layer([File("usr/lib/os-release", f"ARCHITECTURE={said}".encode())])
        assert config_of(write(tmp_path / "root.tar", layer)).architecture == is_


def test_a_file_that_changes_before_it_is_pulled(tmp_path: Path) -> None:
    reference = write(tmp_path / "root.tar")
    source = open_source(ImageReference.parse(reference), FAST)
    (layer,) = source.manifest(AMD64).manifest.layers
    (tmp_path / "root.tar").write_bytes(ROOT.tar.replace(b"xxx", b"yyy"))
    with pytest.raises(BlobMismatch):
        read_blob(source, layer, 1 << 20)


def test_what_is_no_tar(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="there is no file"):
        fetch(f"tar:{tmp_path}/missing")
    with pytest.raises(SourceUnreachable, match="not a regular file"):
        fetch("tar:/dev/zero")
    for data in (b"x" * 2000, ROOT.tar[:100_000], gzip.compress(ROOT.tar)[:-20], b"\x1f\x8b", b"\x28\xb5\x2f\xfdxxx"):
        (tmp_path / "root.tar").write_bytes(data)
        with pytest.raises((TarError, OciError), match=f"^tar:{tmp_path}/root.tar: "):
            fetch(f"tar:{tmp_path}/root.tar")


def test_a_bomb(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(gzip.compress(ROOT.tar + bytes(64 << 20)))
    with pytest.raises(LayerTooLarge, match="more than 1000000 bytes"):
        fetch(f"tar:{tmp_path}/bomb", replace(FAST, max_layer_size=1_000_000))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_changed_byte_raises_only_our_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    file = tmp_path_factory.getbasetemp() / "changed-root.tar"
    content = bytearray(Layer([File("usr/lib/os-release", NAMES), File("x", b"y" * 100)]).tar)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with contextlib.suppress(BootcdError):
        json.loads(fetch(f"tar:{file}").data)
