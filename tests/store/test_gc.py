# SPDX-License-Identifier: Apache-2.0
"""Collection removes what no ref leads to, exactly as cfsctl does, and nothing else whenever it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bootcd.errors import Busy, RepositoryDamaged
from bootcd.store.fsck import check
from bootcd.store.gc import collect
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository

from .conftest import Image, base_members, directory, file, make_tar


@pytest.fixture
def filled(tmp_path):
    """Two images that share a layer, the second without a tag; one EROFS image kept by name; a stray object."""
    shared = make_tar(*base_members())
    kept = Image(shared, make_tar(file("usr/share/kept", b"kept" * 100)))
    lost = Image(shared, make_tar(directory("usr/lost"), file("usr/lost/file", b"lost" * 100)))
    named = Image(make_tar(directory("usr", mtime=1), directory("boot"), directory("sysroot"),
                           file("usr/named", b"named" * 100)))
    with Repository.init(tmp_path / "r") as repo:
        kept.store(repo, "kept").commit_images(kept.digest)
        lost.store(repo, None).commit_images(lost.digest)
        ids = named.store(repo, None).commit_images(named.digest)
        repo.images.name("bootcd/x", ids.boot_image)
        repo.objects.put(b"stray")
    return tmp_path / "r", kept, lost, named, ids


def state(path):
    return sorted(os.path.relpath(os.path.join(where, name), path) for where, dirs, names in os.walk(path)
                  for name in names + [one for one in dirs if os.path.islink(os.path.join(where, one))])


def test_collect(filled):
    path, kept, lost, _, ids = filled
    with Repository.open(path) as repo:
        before = state(path)
        planned = collect(repo, dry_run=True)
        assert state(path) == before
        assert collect(repo) == planned
        assert planned.objects_removed > 5
        assert planned.images_pruned == 3 == len(planned.image_names)
        assert f"oci-manifest-{lost.digest}" in planned.stream_names
        oci = OciImages(repo)
        assert oci.missing(kept.digest) == []
        assert oci.images(kept.config_digest).image in repo.images.digests()
        assert oci.manifests() == [kept.digest]
        assert repo.images.digests().count(ids.boot_image) == 1
        assert repo.images.read(ids.boot_image).objects() <= set(repo.objects.all())
        assert check(repo).ok
        assert collect(repo).objects_removed == 0


def test_extra_roots(filled):
    path, _, lost, _, ids = filled
    with Repository.open(path) as repo:
        result = collect(repo, dry_run=True, extra_images=[ids.image.hex()],
                         extra_streams=[f"oci-manifest-{lost.digest}"])
        assert f"oci-manifest-{lost.digest}" not in result.stream_names
        assert ids.image.hex() not in result.image_names


@pytest.mark.interop
def test_the_same_as_cfsctl(filled, cfsctl):
    path, *_ = filled
    copy = path.parent / "copy"
    shutil.copytree(path, copy, symlinks=True)
    cfsctl("--repo", copy, "gc")
    with Repository.open(path) as repo:
        collect(repo)
    assert state(path) == state(copy)
    assert json.loads(cfsctl("--repo", path, "fsck", "--json"))["ok"] is True


def test_somebody_else_has_it_open(filled):
    with Repository.open(filled[0]) as repo, Repository.open(filled[0]), pytest.raises(Busy):
        collect(repo)


def test_a_root_that_cannot_be_read_stops_everything(filled):
    path, _, _, _, ids = filled
    with Repository.open(path) as repo:
        with open(repo.objects.path(ids.boot_image), "r+b") as image:
            image.write(b"damaged")
        before = state(path)
        with pytest.raises(RepositoryDamaged, match="nothing is collected"):
            collect(repo)
        assert state(path) == before


def test_broken_links_and_leftovers_go(filled):
    path, *_ = filled
    (path / "streams/refs/oci/gone").symlink_to("../../oci-manifest-sha256:" + "0" * 64)
    (path / "images" / ("0" * 128)).symlink_to("../objects/00/" + "0" * 126)
    old = path / "objects/.tmp-object-abcdef"
    old.write_bytes(b"123")
    os.utime(old, (time.time() - 100_000,) * 2)
    with Repository.open(path) as repo:
        result = collect(repo)
    assert not (path / "streams/refs/oci/gone").is_symlink()
    assert "0" * 128 in result.image_names
    assert not old.exists()


CRASHER = """
import sys
sys.path[:0] = sys.argv[2:]
from bootcd.store.gc import collect
from bootcd.store.repository import Repository
with Repository.open(sys.argv[1]) as repo:
    collect(repo)
"""


@pytest.mark.parametrize("point", ["gc.before_sync", "images.before_unlink:2", "streams.before_unlink:2",
                                   "gc.after_links", "objects.before_remove:4", "gc.after_objects"])
def test_a_crash_during_collection(filled, point):
    path, kept, _, _, ids = filled
    source = str(Path(sys.modules["bootcd"].__path__[0]).parent)
    arguments = [sys.executable, "-c", CRASHER, path, source]
    assert subprocess.run(arguments, env={"BOOTCD_CRASH_AT": point}, check=False).returncode == 137
    with Repository.open(path) as repo:
        assert check(repo).ok
        collect(repo)
        assert check(repo).ok
        assert OciImages(repo).missing(kept.digest) == []
        assert repo.images.has(ids.boot_image)
        assert collect(repo, dry_run=True).objects_removed == 0
