# SPDX-License-Identifier: Apache-2.0
"""Objects: written once, complete or absent."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

from bootcd.errors import ObjectMismatch, RepositoryDamaged, RootFull
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.store.objects import parse_object_path
from bootcd.store.repository import Repository


def test_put_and_read(repo):
    digest = repo.objects.put(b"hello")
    assert digest == measure(b"hello", Algorithm.SHA512)
    assert repo.objects.read(digest) == b"hello"
    assert repo.objects.size(digest) == 5
    assert list(repo.objects.all()) == [digest]
    path = repo.objects.path(digest)
    assert path == f"{repo.path}/objects/{digest.hex()[:2]}/{digest.hex()[2:]}"
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_an_existing_object_is_not_written_again(repo):
    digest = repo.objects.put(b"hello")
    before = os.stat(repo.objects.path(digest))
    assert not repo.objects.insert(digest, b"hello")
    assert repo.objects.put(b"hello") == digest
    with repo.objects.writer() as writer:
        writer.write(b"hel")
        writer.write(b"lo")
        assert writer.commit() == digest
        assert not writer.written
    after = os.stat(repo.objects.path(digest))
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_a_power_cut_left_empty_is_replaced(repo):
    digest = repo.objects.put(b"hello")
    os.truncate(repo.objects.path(digest), 0)
    assert repo.objects.insert(digest, b"hello")
    assert repo.objects.read(digest) == b"hello"
    assert sorted(os.listdir(repo.path + "/objects")) == [digest.hex()[:2]]


@pytest.mark.parametrize("size", [5, 3 << 20])
def test_other_content_of_the_same_size_is_replaced(repo, size):
    """Without fs-verity, content that has just come is not taken to be there for its size alone."""
    if repo.secure:
        pytest.skip("the kernel guards the object")
    good = b"h" * size
    with repo.objects.writer() as writer:
        writer.write(good)
        digest = writer.commit()
    for again in ("writer", "insert"):
        with open(repo.objects.path(digest), "r+b") as file:
            file.write(b"j")
        with pytest.raises(ObjectMismatch, match="other content"):
            repo.objects.open_verified(digest)
        if again == "insert":
            assert repo.objects.insert(digest, good)
        else:
            with repo.objects.writer() as writer:
                writer.write(good)
                assert writer.commit() == digest
                assert writer.written
        assert b"".join(repo.objects.chunks(digest)) == good


def test_writer_streams_and_leaves_nothing_behind(repo):
    with repo.objects.writer() as writer:
        writer.write(bytes(3 << 20))
        assert list(repo.objects.all()) == []
        assert writer.commit() == measure(bytes(3 << 20), Algorithm.SHA512)
        assert writer.written
    with repo.objects.writer() as writer:
        writer.write(b"given up")
    assert len(list(repo.objects.all())) == 1
    assert len(os.listdir(repo.path + "/objects")) == 1


def test_missing_and_damaged(repo):
    digest = repo.objects.put(b"hello")
    other = bytes(64)
    assert not repo.objects.has(other)
    for ask in (repo.objects.size, repo.objects.open, repo.objects.read, repo.objects.remove):
        with pytest.raises(RepositoryDamaged, match=f"object {other.hex()} is missing"):
            ask(other)
    with open(repo.objects.path(digest), "r+b") as file:
        file.write(b"j")
    with pytest.raises(ObjectMismatch, match="other content"):
        repo.objects.read(digest)
    with pytest.raises(RepositoryDamaged, match="more than 4"):
        repo.objects.read(repo.objects.put(b"12345"), limit=4)


def test_remove(repo):
    digest = repo.objects.put(b"hello")
    assert repo.objects.remove(digest) == 5
    assert not repo.objects.has(digest)


def test_leftovers_go_after_their_time(repo):
    repo.objects.put(b"hello")
    for name, age in [("old", 1000), ("new", 0)]:
        path = f"{repo.path}/objects/.tmp-object-{name}"
        with open(path, "wb") as file:
            file.write(b"123")
        os.utime(path, (time.time() - age,) * 2)
    assert repo.objects.remove_leftovers(500, dry_run=True) == (1, 3)
    assert repo.objects.remove_leftovers(500) == (1, 3)
    assert ".tmp-object-new" in os.listdir(f"{repo.path}/objects")


def test_many_threads_may_write_the_same(repo):
    contents = [bytes([i % 50]) * 100 for i in range(200)]
    new: list[bool] = []

    def work() -> None:
        new.extend(repo.objects.insert(measure(c, Algorithm.SHA512), c) for c in contents)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 50
    assert len(list(repo.objects.all())) == 50


def test_a_strange_name_is_an_error(repo):
    digest = repo.objects.put(b"hello")
    os.link(repo.objects.path(digest), repo.objects.path(digest) + "x")
    with pytest.raises(RepositoryDamaged, match="no object name"):
        list(repo.objects.all())
    for text in ("ab", "ab/cd", "abc/" + "0" * 61, "ZZ/" + "0" * 62, "../objects/ab/" + "0" * 126):
        with pytest.raises(RepositoryDamaged, match="no path of an object"):
            parse_object_path(text, 32)
    assert parse_object_path("../objects/ab/" + "0" * 62, 32) == b"\xab" + bytes(31)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_full_disk(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=True)
    try:
        with Repository.init(tmp_path / "repo") as repo:
            small = repo.objects.put(b"small")
            with pytest.raises(RootFull, match=r"cannot write object .*: No space left"):
                repo.objects.put(os.urandom(1 << 20))
            with repo.objects.writer() as writer:
                writer.write(os.urandom(128 << 10))
                with pytest.raises(RootFull, match="after 131072 bytes"):
                    writer.write(os.urandom(512 << 10))
            assert list(repo.objects.all()) == [small]
            repo.objects.put(b"works again")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
