# SPDX-License-Identifier: Apache-2.0
"""Damage of every kind is found, by kind; repair removes it and nothing sound, and a second pull makes all whole."""

from __future__ import annotations

import json
import os

import pytest

from bootcd.errors import Busy
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.store.fsck import check, repair
from bootcd.store.gc import collect
from bootcd.store.layers import layer_name
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository

from .conftest import Image, base_members, file, make_tar

LARGE = measure(b"y" * 65, Algorithm.SHA512)
NEW = measure(b"new" * 100, Algorithm.SHA512)


@pytest.fixture
def whole(repo, two_layers):
    images = two_layers.store(repo, "os")
    ids = images.commit_images(two_layers.digest)
    return repo, two_layers, ids


def kinds(report):
    return {finding.kind for finding in report.findings}


def flip(repo, digest):
    with open(repo.objects.path(digest), "r+b") as target:
        first = target.read(1)
        target.seek(0)
        target.write(bytes([first[0] ^ 1]))


def rebuild(repo, image, tag="os"):
    """Pull again, as the operation does: layers that are missing, then documents, then images."""
    for diff_id in OciImages(repo).missing(image.digest) if OciImages(repo).has(image.digest) else image.diff_ids:
        assert diff_id in (*image.diff_ids, image.config_digest)
    return image.store(repo, tag).commit_images(image.digest)


def test_a_sound_repository(whole):
    repo, *_ = whole
    report = check(repo)
    assert report.ok
    assert (report.streams, report.images) == (4, 2)
    assert report.objects == len(list(repo.objects.all()))
    assert repair(repo, report) == []
    assert check(repo).ok


@pytest.mark.parametrize("victim", ["file", "image", "boot_image", "layer", "config", "manifest"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_repair_and_pull_again(whole, victim, damage):
    repo, image, ids = whole
    digest = {
        "file": NEW, "image": ids.image, "boot_image": ids.boot_image,
        "layer": repo.streams.id(layer_name(image.diff_ids[0])),
        "config": repo.streams.id(f"oci-config-{image.config_digest}"),
        "manifest": repo.streams.id(f"oci-manifest-{image.digest}"),
    }[victim]
    if damage == "flip":
        flip(repo, digest)
    else:
        os.unlink(repo.objects.path(digest))
    sound = {one for one in repo.objects.all() if one != digest}
    report = check(repo)
    expected = {
        ("flip", "file"): {"object-digest-mismatch"},
        ("flip", "image"): {"object-digest-mismatch", "image-open-failed"},
        ("flip", "layer"): {"object-digest-mismatch", "stream-open-failed"},
        ("remove", "file"): {"missing-object-ref", "image-missing-object"},
        ("remove", "image"): {"broken-symlink", "missing-named-ref"},
        ("remove", "layer"): {"broken-symlink", "missing-named-ref"},
        ("remove", "config"): {"broken-symlink", "missing-named-ref"},
        ("remove", "manifest"): {"broken-symlink"},
    }.get((damage, victim))
    if expected:
        assert expected <= kinds(report)
    assert not report.ok
    assert repair(repo, report) == ["os"]
    assert set(repo.objects.all()) == sound
    assert rebuild(repo, image) == ids
    assert check(repo).ok
    collect(repo)
    assert check(repo).ok


def test_metadata_only_does_not_read_objects(whole):
    repo, *_ = whole
    flip(repo, NEW)
    assert check(repo, metadata_only=True).ok
    assert not check(repo).ok


def test_repair_names_only_what_is_hurt(whole):
    repo, image, _ = whole
    other = Image(make_tar(*base_members()), make_tar(file("usr/other", b"other" * 100)))
    other.store(repo, "other").commit_images(other.digest)
    flip(repo, NEW)
    assert repair(repo, check(repo)) == ["os"]
    assert OciImages(repo).missing(other.digest) == []
    assert OciImages(repo).missing(image.digest) == [image.diff_ids[1]]


def test_repair_looks_again_before_it_removes(whole):
    repo, *_ = whole
    flip(repo, NEW)
    report = check(repo)
    flip(repo, NEW)
    assert repair(repo, report) == []
    assert check(repo).ok


def test_layers_without_an_image_are_named_themselves(repo, two_layers):
    two_layers.store(repo, None)
    repo.streams.remove(f"oci-manifest-{two_layers.digest}")
    repo.streams.remove(f"oci-config-{two_layers.config_digest}")
    flip(repo, NEW)
    assert repair(repo, check(repo)) == [two_layers.diff_ids[1]]


def test_other_things_in_the_way(whole):
    repo, *_ = whole
    path = repo.path
    for foreign in (f"{path}/streams/file", f"{path}/objects/{NEW.hex()[:2]}/junk"):
        with open(foreign, "w"):
            pass
    os.symlink("../../gone", f"{path}/streams/refs/oci/dangling")
    os.symlink("../objects/zz/y", f"{path}/images/odd")
    with open(f"{path}/meta.json", "w") as meta:
        meta.write("{}")
    report = check(repo)
    assert {"entry-not-symlink", "object-invalid-name", "broken-symlink", "metadata-parse-failed"} <= kinds(report)
    repair(repo, report)
    assert os.path.exists(f"{path}/streams/file")
    assert {finding.what for finding in check(repo).findings} == {
        "streams/file", f"objects/{NEW.hex()[:2]}/junk", "meta.json"}


def test_repair_needs_the_repository_alone(whole):
    repo, *_ = whole
    with Repository.open(repo.path), pytest.raises(Busy):
        repair(repo, check(repo))


@pytest.mark.interop
def test_cfsctl_agrees(whole, cfsctl):
    repo, *_ = whole
    flip(repo, NEW)
    os.unlink(repo.objects.path(LARGE))
    ours = [finding for finding in check(repo).findings if not finding.kind.startswith("oci-")]
    theirs = json.loads(cfsctl("--repo", repo.path, "fsck", "--json"))
    assert theirs["ok"] is False
    assert {finding.kind for finding in ours} == {error.split(":")[1].strip() if error.startswith("fsck:") else error
                                                 for error in theirs["errors"]}
