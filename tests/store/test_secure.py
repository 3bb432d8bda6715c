# SPDX-License-Identifier: Apache-2.0
"""What a secure repository insists on.

Few machines that run tests have fs-verity. Where there is none, an extended attribute plays the kernel: only the two
ioctls are replaced, and all that decides what to do with their answers is real.
"""

from __future__ import annotations

import os
import threading

import pytest

from bootcd.errors import ObjectMismatch, PermissionDenied, Unsupported
from bootcd.formats.fsverity import measure
from bootcd.linux import verity
from bootcd.store.fsck import check, repair
from bootcd.store.repository import Repository

ATTRIBUTE = "user.test-verity"


@pytest.fixture
def busy():
    """How many times to answer that the file is open for writing."""
    return [0]


@pytest.fixture
def secure(tmp_path, monkeypatch, busy):
    def enable(fd, algorithm):
        if busy[0]:
            busy[0] -= 1
            raise verity.FileBusy("open for writing")
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            digest = measure(file.read(), algorithm)
        os.setxattr(f"/proc/self/fd/{fd}", ATTRIBUTE, digest)

    def kernel_measure(fd, algorithm):
        try:
            return os.getxattr(f"/proc/self/fd/{fd}", ATTRIBUTE)
        except OSError:
            return None

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        os.setxattr(fd, ATTRIBUTE, b"x")
    except (Unsupported, PermissionDenied, OSError):
        pytest.skip("no extended attributes here")
    finally:
        os.close(fd)
    monkeypatch.setattr(verity, "enable", enable)
    monkeypatch.setattr(verity, "measure", kernel_measure)
    with Repository.init(tmp_path / "r") as repo:
        assert repo.secure
        yield repo


def test_objects_get_verity_and_are_measured(secure):
    digest = secure.objects.put(b"x" * 100)
    assert os.getxattr(secure.objects.path(digest), ATTRIBUTE) == digest
    assert secure.objects.read(digest) == b"x" * 100
    with secure.objects.writer() as writer:
        writer.write(b"y" * 100)
        assert os.getxattr(secure.objects.path(writer.commit()), ATTRIBUTE)
    assert check(secure).ok


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_a_busy_file_is_tried_again_and_then_copied(secure, busy, times):
    busy[0] = times
    digest = secure.objects.put(b"x" * 100)
    assert secure.objects.read(digest) == b"x" * 100


def test_a_file_that_stays_busy_is_an_error(secure, busy):
    busy[0] = 1000
    with pytest.raises(verity.FileBusy):
        secure.objects.put(b"x" * 100)
    assert list(secure.objects.all()) == []


@pytest.mark.parametrize("spoil", [lambda path: os.removexattr(path, ATTRIBUTE),
                                   lambda path: os.setxattr(path, ATTRIBUTE, bytes(64))], ids=["missing", "other"])
def test_without_the_right_digest_an_object_is_refused_and_replaced(secure, spoil):
    digest = secure.objects.put(b"x" * 100)
    spoil(secure.objects.path(digest))
    with pytest.raises(ObjectMismatch, match="fs-verity"):
        secure.objects.read(digest)
    report = check(secure)
    assert {finding.kind for finding in report.findings} <= {"object-verity-missing", "object-digest-mismatch"}
    assert not report.ok
    assert secure.objects.insert(digest, b"x" * 100)
    assert check(secure).ok
    spoil(secure.objects.path(digest))
    repair(secure, check(secure))
    assert not secure.objects.has(digest)


def test_many_threads(secure):
    threads = [threading.Thread(target=lambda: [secure.objects.put(bytes([n]) * 99) for n in range(50)])
               for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(secure.objects.all())) == 50
    assert check(secure).ok
