# SPDX-License-Identifier: Apache-2.0
"""Files of an image in the repository, by their paths in its layers."""

from __future__ import annotations

import json
import os

import pytest

from bootcd.errors import DeltaUnusable, ObjectMismatch
from bootcd.formats.fsverity import Algorithm
from bootcd.store.layers import import_layer
from bootcd.store.ociimages import OciImages
from bootcd.store.oldfiles import OldFile, OldFiles, has_files
from bootcd.store.repository import Repository

from .conftest import directory, file, make_tar, member, reader, sha256

LARGE = os.urandom(5_000_000)
LOWER = make_tar(directory("run"), directory("usr"), file("run/kept", b"k" * 100), file("usr/small", b"small"),
                 file("usr/gone", b"g" * 100), file("usr/large", b"old" * 100), file("usr/empty", b""))
UPPER = make_tar(file("usr/.wh.gone", b""), file("usr/large", LARGE),
                 (member("usr/hard", b"1", linkname="usr/large"), b""),
                 (member("usr/soft", b"2", linkname="large"), b""))


def fill(repo: Repository) -> str:
    for tar in (LOWER, UPPER):
        import_layer(repo, sha256(tar), reader(tar))
    return OciImages(repo).put_config(json.dumps({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(LOWER), sha256(UPPER)]}}).encode())


def content(old: OldFile) -> bytes:
    try:
        return old.read(old.size, 0)
    finally:
        old.close()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_files_of_all_layers(tmp_path, algorithm):
    with Repository.init(tmp_path / "r", algorithm) as repo:
        files = OldFiles(repo, fill(repo))
        assert content(files.open(b"usr/large")) == content(files.open(b"usr/hard")) == LARGE
        assert content(files.open(b"usr/small")) == b"small"
        assert content(files.open(b"usr/empty")) == b""
        assert content(files.open(b"run/kept")) == b"k" * 100  # which composefs leaves out
        large, small = files.open(b"usr/large"), files.open(b"usr/small")
        assert (large.read(7, 4_999_993), small.read(2, 3)) == (LARGE[-7:], b"ll")
        large.close()
        large.close()


@pytest.mark.parametrize("path", [b"", b"usr", b"usr/gone", b"usr/soft", b"usr/none", b"usr/large/x", b"../usr/large",
                                  b"usr/../usr/large", b"usr/\0", b"\xff"])
def test_what_is_no_file_of_it(tmp_path, path):
    with Repository.init(tmp_path / "r") as repo:
        files = OldFiles(repo, fill(repo))
        with pytest.raises(DeltaUnusable, match="needs the file '"):
            files.open(path)


def test_an_object_that_is_shorter_than_it_was(tmp_path):
    with Repository.init(tmp_path / "r") as repo:
        files = OldFiles(repo, fill(repo))
        old = files.open(b"usr/large")
        with pytest.raises(ObjectMismatch):
            old.read(10, 4_999_995)
        old.close()


def test_whether_all_of_an_image_is_here(tmp_path):
    with Repository.init(tmp_path / "r") as repo:
        config = fill(repo)
        assert has_files(repo, config)
        assert not has_files(repo, sha256(b"other"))
        (tmp_path / "r/streams" / f"oci-layer-{sha256(LOWER)}").unlink()
        assert not has_files(repo, config)
