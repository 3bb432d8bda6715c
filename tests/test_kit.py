# SPDX-License-Identifier: Apache-2.0
"""The test kit, tested by programs that others wrote: its tars by GNU tar and Python, its layouts by skopeo."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from kit.images import (
    CharDevice,
    Dir,
    File,
    Hardlink,
    ImageBuilder,
    IndexBuilder,
    Layer,
    Opaque,
    Symlink,
    Whiteout,
    sha256,
)
from kit.small_debian import CAP_NET_RAW, cpio

ENTRIES = [
    Dir("usr", uid=5, mode=0o2755),
    File("usr/Grüße", b"x" * 70, mode=0o4755,
         xattrs={"security.capability": CAP_NET_RAW, "user.binary": bytes(range(256))}),
    File(b"usr/\xff\xfe", b"not text"),
    File("d/" * 70 + "ustar-prefix", b""),
    File("long/" * 60 + "pax-path", b""),
    Hardlink("usr/alias", "usr/Grüße"),
    Symlink("link", "/target" * 30),
    CharDevice("null", 1, 3, mode=0o666),
    File("early", mtime=-1.5, uid=3_000_000),
    Whiteout("usr/gone"),
    Opaque("etc"),
]


def test_python_reads_our_tars() -> None:
    with tarfile.open(fileobj=io.BytesIO(Layer(ENTRIES).tar), errors="surrogateescape") as archive:
        found = archive.getmembers()
    assert [info.name.encode("utf-8", "surrogateescape") for info in found] == [
        b"usr", "usr/Grüße".encode(), b"usr/\xff\xfe", b"d/" * 70 + b"ustar-prefix", b"long/" * 60 + b"pax-path",
        b"usr/alias", b"link", b"null", b"early", b"usr/.wh.gone", b"etc/.wh..wh..opq"]
    assert (found[0].isdir(), found[0].mode, found[0].uid) == (True, 0o2755, 5)
    assert (found[5].islnk(), found[5].linkname) == (True, "usr/Grüße")
    assert found[6].linkname == "/target" * 30
    assert (found[7].devmajor, found[7].devminor) == (1, 3)
    assert (found[8].mtime, found[8].uid) == (-1.5, 3_000_000)


def test_gnu_tar_reads_our_tars(tmp_path: Path) -> None:
    file = tmp_path / "layer.tar"
    file.write_bytes(Layer(ENTRIES).tar)
    done = subprocess.run(["tar", "--list", "--quoting-style=literal", "--file", file], capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == len(ENTRIES)


@pytest.mark.parametrize("compression", ["gzip", "zstd", None])
def test_layout_is_consistent(compression: str | None, tmp_path: Path) -> None:
    image = ImageBuilder([Layer(ENTRIES, compression)], {"version": "1"})  # type: ignore[arg-type]
    image.write_layout(tmp_path, "one")
    image.write_layout(tmp_path, "two")
    IndexBuilder([image]).write_layout(tmp_path, "one")
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert [item["annotations"]["org.opencontainers.image.ref.name"] for item in index["manifests"]] == ["two", "one"]
    for blob in (tmp_path / "blobs/sha256").iterdir():
        assert sha256(blob.read_bytes()) == "sha256:" + blob.name


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_reads_our_layouts(tmp_path: Path) -> None:
    image = ImageBuilder([Layer(ENTRIES, "gzip"), Layer([], "zstd"), Layer([], None)], {"version": "1"})
    image.write_layout(tmp_path / "layout", "tag")
    image.write_archive(tmp_path / "archive.tar", "tag")
    sources = [f"oci:{tmp_path}/layout:tag"]
    if os.geteuid() == 0:  # skopeo 1.9 unpacks archives with their owners
        sources.append(f"oci-archive:{tmp_path}/archive.tar:tag")
    for source in sources:
        done = subprocess.run(["skopeo", "inspect", source], capture_output=True, check=True)
        found = json.loads(done.stdout)
        assert (found["Digest"], found["Labels"]) == (image.manifest_digest, {"version": "1"})


@pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")
def test_busybox_reads_our_initramfs() -> None:
    archive = cpio([("bin", 0o040755, b""), ("bin/sh", 0o120777, b"busybox"), ("init", 0o100755, b"#!/bin/sh\n")])
    done = subprocess.run(["busybox", "cpio", "-t"], input=archive, capture_output=True, check=True)
    assert done.stdout.split() == [b"bin", b"bin/sh", b"init"]
