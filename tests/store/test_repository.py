# SPDX-License-Identifier: Apache-2.0
"""Creating, opening and locking repositories, and their names."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    BootcdError,
    Busy,
    ImageNotFound,
    MetadataError,
    RepositoryConflict,
    RepositoryDamaged,
    RepositoryError,
    RepositoryNotFound,
    RepositoryTooNew,
    Unsupported,
    UsageError,
)
from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.splitstream import ContentType, Writer
from bootcd.store.metadata import Metadata
from bootcd.store.repository import Repository

DEFAULT = b"""{
  "version": 1,
  "algorithm": "fsverity-sha512-12",
  "features": {
    "compatible": [],
    "read-only-compatible": [
      "v1_erofs"
    ],
    "incompatible": []
  },
  "erofs_formats": {
    "default": 1
  }
}
"""


def edit(path, **changes):
    """Change meta.json as another program might."""
    document = json.loads((path / "meta.json").read_bytes())
    document.update(changes)
    (path / "meta.json").write_text(json.dumps(document))


def test_a_new_repository(tmp_path):
    with Repository.init(tmp_path / "a/b") as repo:
        assert (repo.algorithm, repo.version) == (Algorithm.SHA512, Version.V1)
        repo.require_writable()
    assert (tmp_path / "a/b/meta.json").read_bytes() == DEFAULT
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b/meta.json").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path / "a/b") == ["meta.json"]


def test_init_again_needs_the_same_settings(tmp_path):
    Repository.init(tmp_path / "r").close()
    Repository.init(tmp_path / "r").close()
    with pytest.raises(RepositoryConflict, match="other settings"):
        Repository.init(tmp_path / "r", Algorithm.SHA256)
    (tmp_path / "x/objects").mkdir(parents=True)
    with pytest.raises(RepositoryConflict, match=r"no meta\.json"):
        Repository.init(tmp_path / "x")


def test_demanding_fs_verity(tmp_path):
    try:
        with Repository.init(tmp_path / "r", insecure=False) as repo:
            assert repo.secure
    except Unsupported:
        assert not (tmp_path / "r/meta.json").exists()
    with Repository.init(tmp_path / "s", insecure=True) as repo:
        assert not repo.secure
    with pytest.raises(RepositoryConflict, match="without fs-verity"):
        Repository.init(tmp_path / "s", insecure=False)


@pytest.mark.parametrize(("algorithm", "version", "extra"), [
    (Algorithm.SHA256, Version.V0, ()), (Algorithm.SHA256, Version.V2, ()),
    (Algorithm.SHA512, Version.V1, (Version.V2,)),
    (Algorithm.SHA512, Version.V2, (Version.V0, Version.V1)),
])
def test_metadata_round_trip(algorithm, version, extra):
    metadata = Metadata(algorithm, version, extra)
    assert Metadata.parse(metadata.format()) == metadata
    assert (b"v1_erofs" in metadata.format()) == (version == Version.V1)


def test_metadata_of_older_repositories():
    def parse(features, **more):
        ro = {"read-only-compatible": features}
        return Metadata.parse(json.dumps(
            {"version": 1, "algorithm": "fsverity-sha256-12", "features": ro, **more}).encode())

    assert parse([]).version == Version.V2
    assert parse(["v1_erofs"]).version == Version.V1
    assert parse(["v1_erofs"], erofs_formats={"default": 2}).version == Version.V1
    assert parse(["v1_erofs"], erofs_formats={"default": 2, "extra": [0]}).version == Version.V2
    assert parse([], erofs_formats={"default": 0, "extra": [0, 1]}).versions == (Version.V0, Version.V1)
    assert Metadata.parse(b'{"version": 1, "algorithm": "fsverity-sha256-12"}').version == Version.V2


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["version", "algorithm", "features", "erofs_formats", "default", "extra", "incompatible"]),
        inner, max_size=5)).map(lambda value: json.dumps(value).encode())))
def test_any_bytes_as_metadata_raise_only_our_errors(data):
    with contextlib.suppress(BootcdError):
        Metadata.parse(data)


def test_deep_and_large_metadata():
    for data in (b"[" * 100_000, b'{"version":' + b"9" * 10_000 + b"}", b" " * (2 << 20)):
        with pytest.raises((MetadataError, RepositoryTooNew)):
            Metadata.parse(data)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(RepositoryNotFound, match="no repository at"):
        Repository.open(tmp_path / "gone")
    with pytest.raises(RepositoryNotFound, match=r"no meta\.json"):
        Repository.open(tmp_path)
    (tmp_path / "objects").mkdir()
    with pytest.raises(RepositoryError, match="older composefs") as caught:
        Repository.open(tmp_path)
    assert "cfsctl" in caught.value.hint
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(MetadataError, match=f"repository {tmp_path}"):
        Repository.open(tmp_path)


def test_newer_repositories_are_refused(tmp_path):
    path = tmp_path / "r"
    for changes in ({"version": 2}, {"features": {"incompatible": ["holograms"]}}, {"erofs_formats": {"default": 3}}):
        Repository.init(path).close()
        edit(path, **changes)
        with pytest.raises(RepositoryTooNew, match=f"repository {path}"):
            Repository.open(path)
        os.unlink(path / "meta.json")


def test_unknown_read_only_features_allow_reading(tmp_path):
    path = tmp_path / "r"
    with Repository.init(path) as repo:
        digest = repo.objects.put(b"hello")
    edit(path, features={"read-only-compatible": ["v1_erofs", "shiny"]})
    with Repository.open(path) as repo:
        assert repo.objects.read(digest) == b"hello"
        for act in (lambda: repo.objects.put(b"new"), repo.objects.writer, lambda: repo.objects.remove(digest),
                    lambda: repo.streams.put("s", b"x"), lambda: repo.streams.links.ref("r", "s"),
                    lambda: repo.streams.untag("r")):
            with pytest.raises(RepositoryTooNew, match="can only be read: unknown features 'shiny'"):
                act()


def test_open_holds_a_shared_lock(tmp_path):
    with Repository.init(tmp_path / "r") as repo, Repository.open(tmp_path / "r") as other:
        fd = os.open(tmp_path / "r", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(Busy, match=f"repository {tmp_path}/r is in use"), repo.exclusive(0.05):
            pass
        other.close()
        with repo.exclusive():
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(Busy):
                Repository.open(tmp_path / "r", wait=0.05)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(fd)


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with Repository.init(tmp_path / "r") as repo:
        for number in range(100):
            repo.objects.put(bytes([number]))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.interop
def test_meta_json_equals_cfsctls(tmp_path, cfsctl):
    for algorithm in Algorithm:
        for version in Version:
            theirs, ours = tmp_path / f"t{algorithm.label}{version}", tmp_path / f"o{algorithm.label}{version}"
            chosen = ("--algorithm", algorithm.identifier, "--erofs-version", int(version))
            cfsctl("init", "--insecure", *chosen, theirs)
            Repository.init(ours, algorithm, version, insecure=True).close()
            assert (ours / "meta.json").read_bytes() == (theirs / "meta.json").read_bytes()
            with Repository.open(theirs) as repo:
                assert (repo.algorithm, repo.version) == (algorithm, version)


def stream(repo, content=b"content"):
    writer = Writer(repo.algorithm, ContentType.OCI_BLOB)
    writer.write_inline(content)
    return writer.finish()


def test_streams_and_their_refs(repo):
    data = stream(repo)
    digest = repo.streams.put("oci-blob-sha256:1", data)
    assert repo.streams.names() == ["oci-blob-sha256:1"]
    assert repo.streams.id("oci-blob-sha256:1") == digest
    assert b"".join(repo.streams.open("oci-blob-sha256:1", ContentType.OCI_BLOB).chunks()) == b"content"
    link = os.readlink(f"{repo.path}/streams/oci-blob-sha256:1")
    assert link == f"../objects/{digest.hex()[:2]}/{digest.hex()[2:]}"

    assert repo.streams.tag("oci/a", "oci-blob-sha256:1")
    assert repo.streams.tag("deep/er/still", "oci-blob-sha256:1")
    assert os.readlink(f"{repo.path}/streams/refs/oci/a") == "../../oci-blob-sha256:1"
    assert os.path.exists(f"{repo.path}/streams/refs/deep/er/still")
    assert repo.streams.refs() == {"deep/er/still": "oci-blob-sha256:1", "oci/a": "oci-blob-sha256:1"}
    assert repo.streams.untag("oci/a")
    assert not repo.streams.untag("oci/a")
    assert list(repo.streams.refs()) == ["deep/er/still"]


def test_names_that_do_not_exist_or_must_not(repo):
    with pytest.raises(ImageNotFound, match="no stream 'x'"):
        repo.streams.open("x")
    with pytest.raises(ImageNotFound):
        repo.streams.tag("t", "x")
    assert not repo.streams.has("../meta.json")
    for name in ("", ".", "..", "a/b", "refs", "new\nline", "n" * 256):
        with pytest.raises(UsageError, match="cannot be a name"):
            repo.streams.put(name, stream(repo))
    repo.streams.put("x", stream(repo))
    for ref in ("", "/a", "a//b", "../a", "a/..", "a/"):
        with pytest.raises(UsageError, match="cannot be a ref"):
            repo.streams.tag(ref, "x")
        assert not repo.streams.untag(ref)


def test_what_others_put_there_is_reported(repo):
    repo.streams.put("x", stream(repo))
    with open(f"{repo.path}/streams/file", "w"):
        pass
    with pytest.raises(RepositoryDamaged, match="streams/file is no symlink"):
        repo.streams.links.target("file")
    os.symlink("/etc/passwd", f"{repo.path}/streams/out")
    with pytest.raises(RepositoryDamaged, match="no path of an object"):
        repo.streams.open("out")


def test_read_only_file_system(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    Repository.init(tmp_path / "r").close()
    subprocess.run(["mount", "--bind", "-o", "ro", tmp_path / "r", tmp_path / "r"], check=True)
    try:
        with Repository.open(tmp_path / "r") as repo, pytest.raises(BootcdError, match="read-only"):
            repo.objects.put(b"x")
    finally:
        subprocess.run(["umount", tmp_path / "r"], check=True)
