# SPDX-License-Identifier: Apache-2.0
"""OCI images in a repository, and that cfsctl sees in ours what we see in its, to the last id."""

from __future__ import annotations

import json
import os

import pytest

from bootcd.errors import BlobMismatch, ImageNotFound, LayerConflict, OciError, RepositoryDamaged, UsageError
from bootcd.formats.dump import format_dump
from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import Directory, RegularFile, Symlink
from bootcd.store.layers import import_layer, layer_name
from bootcd.store.metadata import Metadata
from bootcd.store.ociimages import OciImages, decode_tag, encode_tag
from bootcd.store.repository import Repository

from .conftest import Image, base_members, directory, file, make_config, make_manifest, make_tar, reader, sha256


def test_store_list_and_inspect(repo, two_layers):
    images = two_layers.store(repo, "registry.example/os:1")
    assert images.tags() == {"registry.example/os:1": two_layers.digest}
    (stored,) = images.list()
    assert stored.tags == ("registry.example/os:1",)
    assert stored.manifest_digest == two_layers.digest
    assert stored.config_digest == two_layers.config_digest
    assert stored.layer_refs == tuple(two_layers.diff_ids)
    assert stored.config.labels == {"a": "b"}
    assert stored.size == sum(map(len, two_layers.blobs))
    assert images.manifest_data(two_layers.digest) == two_layers.manifest
    assert images.config_data(two_layers.config_digest) == two_layers.config
    for name in ("registry.example/os:1", two_layers.digest, "@" + two_layers.digest, two_layers.digest[7:19]):
        assert images.inspect(name) == stored
    for name in ("nothing", "", "@sha256:" + "0" * 64, "abc"):
        with pytest.raises(ImageNotFound):
            images.inspect(name)
    assert images.missing(two_layers.digest) == []
    assert images.missing("sha256:" + "0" * 64) == ["sha256:" + "0" * 64]


def test_tags(repo, two_layers):
    images = two_layers.store(repo, None)
    assert images.tags() == {}
    for tag in ("a", "a/b:c", "100%", "%2F", "x%25y/z", "ünïcode", "localhost/bootcd-" + two_layers.digest):
        assert decode_tag(encode_tag(tag)) == tag
        assert images.tag(two_layers.digest, tag)
        assert not images.tag(two_layers.digest, tag)
        assert images.resolve(tag) == two_layers.digest
    assert os.readlink(f"{repo.path}/streams/refs/oci/a%2Fb:c") == f"../../oci-manifest-{two_layers.digest}"
    assert images.untag("a/b:c")
    assert not images.untag("a/b:c")
    for tag in ("", ".", "..", "@x", "new\nline", "nul\0", "x" * 256, "/" * 100):
        with pytest.raises(UsageError):
            images.tag(two_layers.digest, tag)
    with pytest.raises(ImageNotFound):
        images.tag("sha256:" + "0" * 64, "t")


def test_parts_must_be_there_first(repo, two_layers):
    images = OciImages(repo)
    with pytest.raises(RepositoryDamaged, match=f"layer {two_layers.diff_ids[0]} is missing"):
        images.put_config(two_layers.config)
    with pytest.raises(ImageNotFound, match="oci-config"):
        images.put_manifest(two_layers.manifest)
    with pytest.raises(OciError):
        images.put_config(b"{}")
    assert repo.streams.names() == []


def test_a_document_must_be_what_its_name_says(repo, two_layers):
    images = two_layers.store(repo)
    other = repo.streams.id(f"oci-config-{two_layers.config_digest}")
    repo.streams.links.link("oci-config-sha256:" + "0" * 64, other)
    with pytest.raises(BlobMismatch, match="another document"):
        images.config("sha256:" + "0" * 64)


def test_the_tree(repo, two_layers):
    root = two_layers.store(repo).tree(two_layers.config_digest)
    names = {path for path, _ in root.walk()}
    assert b"/usr/share/empty" not in names
    assert b"/usr/share/new" in names
    assert root.mtime == 1_700_000_005
    assert root.lookup(b"/usr/bin/hard") is root.lookup(b"/usr/bin/tool")
    large = root.lookup(b"/usr/share/large")
    assert isinstance(large, RegularFile)
    assert large.size == 800
    assert isinstance(root.lookup(b"/usr/bin/soft"), Symlink)
    assert isinstance(root.lookup(b"/usr/share/sticky"), Directory)


def test_the_same_layer_twice(repo):
    layer = make_tar(*base_members())
    image = Image(layer, make_tar(directory("usr/x")), layer)
    images = image.store(repo)
    assert images.inspect("test").layer_refs == (image.diff_ids[0], image.diff_ids[1])
    ids = images.commit_images(image.digest)
    assert repo.images.has(ids.image)


def test_commit_images(repo, two_layers):
    images = two_layers.store(repo)
    ids = images.commit_images(two_layers.digest)
    assert ids.image != ids.boot_image
    assert images.inspect("test").images == ids
    assert images.commit_images(two_layers.digest) == ids
    root = repo.images.read(ids.image).root()
    assert b"\n".join(format_dump(root)) == b"\n".join(format_dump(images.tree(two_layers.config_digest)))
    assert repo.images.read(ids.boot_image).objects() <= set(repo.objects.all())
    # A second manifest of the same config, compressed otherwise, follows the config to its new id.
    repo.images.links.unlink(ids.image.hex())
    assert images.commit_images(two_layers.digest) == ids
    assert repo.images.has(ids.image)


def test_commit_images_takes_the_tree_of_the_caller(repo, two_layers):
    images = two_layers.store(repo)
    tree = images.tree(two_layers.config_digest)
    ids = images.commit_images(two_layers.digest, tree=tree)
    assert ids == images.commit_images(two_layers.digest)


def test_two_manifests_of_one_config(repo, two_layers):
    images = two_layers.store(repo, "first")
    other = make_manifest(two_layers.config, [b"other compression", b"of the same"])
    digest = images.put_manifest(other, "second")
    ids = images.commit_images(digest)
    assert images.images(two_layers.config_digest) == ids
    config = repo.streams.id(f"oci-config-{two_layers.config_digest}")
    for one in (two_layers.digest, digest):
        refs = repo.streams.open(f"oci-manifest-{one}").named_refs
        assert refs[f"config:{two_layers.config_digest}"] == config
    # Putting it all once more loses nothing.
    images.put_config(two_layers.config)
    assert images.images(two_layers.config_digest) == ids


@pytest.mark.parametrize(("default", "extra", "keys"), [
    (Version.V0, (), {"composefs.image.v1", "composefs.image.boot.v1"}),
    (Version.V2, (), {"composefs.image", "composefs.image.boot"}),
    (Version.V1, (Version.V2,), {"composefs.image", "composefs.image.boot", "composefs.image.v1",
                                 "composefs.image.boot.v1"}),
])
def test_formats_have_their_keys(tmp_path, two_layers, default, extra, keys):
    Repository.init(tmp_path / "r", version=default).close()
    (tmp_path / "r/meta.json").write_bytes(Metadata(Algorithm.SHA512, default, extra).format())
    with Repository.open(tmp_path / "r") as repo:
        ids = two_layers.store(repo).commit_images(two_layers.digest)
        refs = repo.streams.open(f"oci-config-{two_layers.config_digest}").named_refs
        assert {key for key in refs if key.startswith("composefs")} == keys
        assert repo.images.read(ids.image).version == default


def test_a_layer_that_does_not_fit_is_named(repo):
    image = Image(make_tar(directory("usr"), file("no/parent/file", b"x")))
    images = image.store(repo)
    with pytest.raises(LayerConflict) as caught:
        images.tree(image.config_digest)
    assert image.diff_ids[0] in caught.value.__notes__[0]


# --- cfsctl -----------------------------------------------------------------------------------------------------


def named_refs(repo, name):
    return dict(repo.streams.open(name).named_refs)


@pytest.mark.interop
@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("version", [Version.V1, Version.V2])
def test_ids_equal_those_of_cfsctl(tmp_path, cfsctl, two_layers, algorithm, version):
    layout = two_layers.layout(tmp_path / "layout")
    theirs = tmp_path / "theirs"
    cfsctl("init", "--insecure", "--algorithm", algorithm.identifier, "--erofs-version", str(int(version)), theirs)
    cfsctl("--repo", theirs, "oci", "pull", "--bootable", f"oci:{layout}:latest", "test")
    with Repository.init(tmp_path / "ours", algorithm, version) as ours, Repository.open(theirs) as other:
        images = two_layers.store(ours)
        ids = images.commit_images(two_layers.digest)
        for diff_id in two_layers.diff_ids:
            assert ours.streams.id(layer_name(diff_id)) == other.streams.id(layer_name(diff_id))
        assert sorted(ours.streams.names()) == sorted(other.streams.names())
        assert ours.streams.refs() == other.streams.refs()
        config = f"oci-config-{two_layers.config_digest}"
        assert named_refs(ours, config) == named_refs(other, config)
        assert ours.streams.id(config) == other.streams.id(config)
        manifest = f"oci-manifest-{two_layers.digest}"
        # The order of layers in a rewritten manifest is random upstream, hence its id as well.
        assert set(named_refs(ours, manifest).items()) == set(named_refs(other, manifest).items())
        assert ours.images.links.names() == other.images.links.names()
        # And we read theirs.
        listed = OciImages(other).list()
        assert listed == images.list()
        assert listed[0].images == ids
        assert OciImages(other).commit_images(two_layers.digest) == ids


@pytest.mark.interop
@pytest.mark.parametrize("algorithm", Algorithm)
def test_cfsctl_uses_what_we_wrote(tmp_path, cfsctl, two_layers, algorithm):
    with Repository.init(tmp_path / "r", algorithm) as repo:
        images = two_layers.store(repo, "registry.example/os:1")
        ids = images.commit_images(two_layers.digest)
        repo.images.name("bootcd/it", ids.boot_image)
        dump = b"".join(format_dump(images.tree(two_layers.config_digest))).decode()
    ctl = ("--repo", tmp_path / "r")
    assert json.loads(cfsctl(*ctl, "fsck", "--json"))["ok"] is True
    assert "ok" in cfsctl(*ctl, "oci", "fsck")
    (listed,) = json.loads(cfsctl(*ctl, "oci", "images", "--json"))["images"]
    assert two_layers.digest in json.dumps(listed)
    assert "registry.example/os:1" in json.dumps(listed)
    inspected = json.loads(cfsctl(*ctl, "oci", "inspect", "registry.example/os:1"))
    assert inspected["config"] == two_layers.config.decode()
    assert cfsctl(*ctl, "oci", "inspect", "registry.example/os:1", "--manifest") == two_layers.manifest.decode() + "\n"
    assert cfsctl(*ctl, "oci", "compute-id", "registry.example/os:1").strip() == ids.image.hex()
    assert cfsctl(*ctl, "oci", "compute-id", "--bootable", "registry.example/os:1").strip() == ids.boot_image.hex()
    assert cfsctl(*ctl, "oci", "dump", "registry.example/os:1") == dump
    listed_objects = cfsctl(*ctl, "image-objects", ids.image.hex()).split()
    with Repository.open(tmp_path / "r") as repo:
        objects = repo.images.read(ids.image).objects()
    assert sorted(line.partition(":")[2] for line in listed_objects) == sorted(one.hex() for one in objects)
    tar = cfsctl(*ctl, "oci", "layer", two_layers.diff_ids[1])
    assert tar.encode() == two_layers.tars[1]
    cfsctl(*ctl, "gc")
    assert json.loads(cfsctl(*ctl, "fsck", "--json"))["ok"] is True
    with Repository.open(tmp_path / "r") as repo:
        assert OciImages(repo).missing(two_layers.digest) == []
        assert OciImages(repo).images(two_layers.config_digest) == ids


@pytest.mark.interop
def test_layers_imported_by_both(tmp_path, cfsctl):
    """Odd but valid: no end of archive, much padding, hard links, long names."""
    plain = make_tar(*base_members())
    for number, tar in enumerate((plain, plain + bytes(10240), make_tar(), make_tar(file("a", b"b" * 65)))):
        cfsctl("init", "--insecure", tmp_path / f"t{number}")
        cfsctl("--repo", tmp_path / f"t{number}", "oci", "import-layer", sha256(tar), input=tar)
        with Repository.open(tmp_path / f"t{number}") as theirs, Repository.init(tmp_path / f"o{number}") as ours:
            import_layer(ours, sha256(tar), reader(tar))
            assert ours.streams.id(layer_name(sha256(tar))) == theirs.streams.id(layer_name(sha256(tar)))


def test_config_of_no_layers(repo):
    config = make_config([])
    images = OciImages(repo)
    images.put_config(config)
    images.put_manifest(make_manifest(config, []), "empty")
    assert images.list()[0].layer_refs == ()
