# SPDX-License-Identifier: Apache-2.0
"""Contents of files by SHA-256, found among objects that are named otherwise."""

from __future__ import annotations

import hashlib
import os

import pytest

from bootcd.formats.fsverity import Algorithm, measure
from bootcd.store.contents import Contents
from bootcd.store.layers import SMALL, import_layer, layer_name
from bootcd.store.repository import Repository

from .conftest import directory, file, make_tar, member, reader, sha256

FILES = [b"t", b"x" * 64, b"x" * 65, b"y" * 65, os.urandom(5000), os.urandom(64) * (SMALL // 32)]


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def wanted(*contents: bytes) -> dict[bytes, int]:
    return {digest(content): len(content) for content in contents}


def fill(repo: Repository, *contents: bytes) -> str:
    tar = make_tar(directory("d"), *(file(f"d/{number}", content) for number, content in enumerate(contents)),
                   (member("l", b"2", linkname="d"), b""))
    import_layer(repo, sha256(tar), reader(tar))
    return layer_name(sha256(tar))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_found_and_read(tmp_path, algorithm):
    with Repository.init(tmp_path / "r", algorithm) as repo:
        assert not Contents(repo)
        assert Contents(repo).find(wanted(*FILES)) == set()
        fill(repo, *FILES[:3])
        fill(repo, *FILES[2:])
        contents = Contents(repo)
        assert contents
        others = [b"T", b"z" * 65, b"x" * 66, b""]
        assert contents.find(wanted(*FILES, *others)) == {digest(content) for content in FILES}
        for content in FILES:
            assert b"".join(contents.read(digest(content))) == content


def test_asked_again(repo):
    fill(repo, *FILES)
    contents = Contents(repo)
    for content in FILES:  # two of one size among them
        assert contents.find(wanted(content)) == {digest(content)}
        assert contents.find(wanted(content)) == {digest(content)}


def test_a_look_that_has_ended_reads_no_more(repo):
    contents = [bytes([number]) * 100 for number in range(20)]
    fill(repo, *contents)
    asked = []
    looking = Contents(repo)
    found = looking.find(wanted(*contents), lambda: len(asked) > 5 or asked.append(1))
    assert len(found) < 10
    assert looking.find(wanted(*contents)) == set(wanted(*contents))


def test_another_size_is_not_read(repo):
    fill(repo, b"a" * 100, b"b" * 200)
    contents = Contents(repo)
    # It has this digest, but nobody said that it has this size.
    assert contents.find({digest(b"a" * 100): 200}) == set()


def test_damage_is_not_here(repo):
    broken = fill(repo, b"a" * 100)
    fill(repo, b"b" * 100, b"c" * 100, b"d" * 100)
    changed, gone = (measure(data * 100, repo.algorithm) for data in (b"b", b"c"))
    os.chmod(repo.objects.path(changed), 0o644)
    with open(repo.objects.path(changed), "r+b") as stream:
        stream.write(b"?")
    os.unlink(repo.objects.path(gone))
    os.unlink(repo.objects.path(repo.streams.id(broken)))
    contents = Contents(repo)
    assert contents.find(wanted(*(data * 100 for data in (b"a", b"b", b"c", b"d")))) == {digest(b"d" * 100)}
