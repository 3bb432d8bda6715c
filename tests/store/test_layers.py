# SPDX-License-Identifier: Apache-2.0
"""Importing layers: every byte is kept, nothing half-done is visible."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bootcd.errors import BootcdError, DiffIdMismatch, RootFull, TarError
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.splitstream import ContentType, External
from bootcd.store.layers import SMALL, has_layer, import_layer, layer_name
from bootcd.store.repository import Repository

from .conftest import base_members, directory, file, make_tar, reader, sha256


def reassemble(repo: Repository, diff_id: str) -> bytes:
    stream = repo.streams.open(layer_name(diff_id), ContentType.OCI_LAYER)
    return b"".join(repo.objects.read(part.digest) if isinstance(part, External) else part for part in stream.chunks())


def many_files() -> bytes:
    members = [directory("usr")]
    for number in range(2000):
        members.append(file(f"usr/{number}", os.urandom(4) * (number % 700)))
    members.append(file("usr/large", os.urandom(64) * (SMALL // 32)))
    members += [file(f"usr/after-{number}", b"a" * 100) for number in range(10)]
    return make_tar(*members)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("build", [lambda: make_tar(*base_members()), many_files, make_tar],
                         ids=["kinds", "many", "empty"])
def test_a_layer_can_be_put_together_again(tmp_path, algorithm, build):
    tar = build()
    diff_id = sha256(tar)
    with Repository.init(tmp_path / "r", algorithm) as repo:
        stats = import_layer(repo, diff_id, reader(tar))
        assert reassemble(repo, diff_id) == tar
        assert has_layer(repo, diff_id)
        again = import_layer(repo, diff_id, reader(tar))
        assert again.objects_written == 0
        assert again.objects_reused == stats.objects_written + stats.objects_reused
        assert again.bytes_reused == stats.bytes_written + stats.bytes_reused


def test_objects_are_those_above_the_threshold(repo):
    tar = make_tar(file("a", b"x" * 64), file("b", b"x" * 65), file("c", b"x" * 65), file("d", b"z" * (SMALL + 1)))
    stats = import_layer(repo, sha256(tar), reader(tar))
    assert (stats.objects_written, stats.bytes_written) == (2, 65 + SMALL + 1)
    assert (stats.objects_reused, stats.bytes_reused) == (1, 65)
    stream = repo.streams.open(layer_name(sha256(tar)))
    sha512 = Algorithm.SHA512
    assert stream.object_refs == [measure(b"x" * 65, sha512), measure(b"z" * (SMALL + 1), sha512)]
    assert stream.size == len(tar)


def test_reads_may_be_short(repo):
    tar = make_tar(*base_members())
    source = reader(tar)
    import_layer(repo, sha256(tar), lambda n: source(min(n, 777)))
    assert reassemble(repo, sha256(tar)) == tar


def test_the_digest_may_be_known_only_at_the_end(repo):
    tar = make_tar(*base_members())
    import_layer(repo, lambda: sha256(tar), reader(tar))
    assert has_layer(repo, sha256(tar))


def test_a_wrong_layer_gets_no_name(repo):
    tar = many_files()
    source = reader(tar)

    def lying(n: int) -> bytes:
        data = source(n)
        if not data:
            raise DiffIdMismatch("not what it should be")
        return data

    with pytest.raises(DiffIdMismatch):
        import_layer(repo, sha256(tar), lying)
    assert repo.streams.names() == []
    assert threading.active_count() == 1


@pytest.mark.parametrize("cut", [100, 512 * 40 + 5, 900_000, -2_000_000])
def test_a_cut_layer_gets_no_name(repo, cut):
    tar = many_files()
    with pytest.raises(TarError):
        import_layer(repo, "sha256:" + "0" * 64, reader(tar[:cut]))
    assert repo.streams.names() == []
    assert threading.active_count() == 1


def test_an_interrupt_ends_the_threads(repo):
    tar = many_files()
    source = reader(tar)
    calls = 0

    def interrupted(n: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return source(n)

    with pytest.raises(KeyboardInterrupt):
        import_layer(repo, sha256(tar), interrupted)
    assert threading.active_count() == 1
    import_layer(repo, sha256(tar), reader(tar))
    assert reassemble(repo, sha256(tar)) == tar


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("size", [60_000, SMALL * 3])
def test_a_full_disk_while_a_worker_writes(tmp_path, size):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", tmp_path], check=True)
    try:
        with Repository.init(tmp_path / "repo") as repo:
            tar = make_tar(*[file(str(number), os.urandom(16) * (size // 16)) for number in range(100)])
            with pytest.raises(RootFull, match="No space left"):
                import_layer(repo, sha256(tar), reader(tar))
            assert repo.streams.names() == []
            assert threading.active_count() == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)


CRASHER = """
import sys
sys.path[:0] = sys.argv[3:]
from bootcd.store.layers import import_layer
from bootcd.store.repository import Repository
with Repository.open(sys.argv[1]) as repo, open(sys.argv[2], "rb") as tar:
    import_layer(repo, "sha256:test", tar.read)
"""


@pytest.mark.parametrize(("point", "named"), [
    ("objects.before_link:7", False), ("objects.after_link:20", False), ("streams.before_sync", False),
    ("streams.before_link", False), ("replace_symlink.after_create", True), ("streams.after_link", True),
])
def test_a_crash_anywhere_leaves_whole_objects_and_the_next_run_completes(tmp_path, point, named):
    tar = many_files()
    (tmp_path / "tar").write_bytes(tar)
    Repository.init(tmp_path / "r").close()
    source = str(Path(sys.modules["bootcd"].__path__[0]).parent)
    arguments = [sys.executable, "-c", CRASHER, tmp_path / "r", tmp_path / "tar", source]
    assert subprocess.run(arguments, env={"BOOTCD_CRASH_AT": point}, check=False).returncode == 137
    with Repository.open(tmp_path / "r") as repo:
        for digest in repo.objects.all():
            repo.objects.read(digest)
        assert has_layer(repo, "sha256:test") == named
    assert subprocess.run(arguments, check=False).returncode == 0
    with Repository.open(tmp_path / "r") as repo:
        assert reassemble(repo, "sha256:test") == tar


def test_nothing_but_our_errors_for_junk(repo):
    tar = bytearray(make_tar(*base_members()[:12]))
    for position in range(0, len(tar), 97):
        junk = bytes(tar[:position]) + bytes([tar[position] ^ 0x55]) + bytes(tar[position + 1 :])
        try:
            import_layer(repo, "sha256:junk", reader(junk))
        except BootcdError:
            continue
        assert reassemble(repo, "sha256:junk") == junk


@pytest.mark.parametrize("which", [1, 2])
def test_an_interruption_while_a_thread_starts(tmp_path, monkeypatch, which):
    """Ctrl-C, or SIGTERM of a worker, in Thread.start(): the thread runs, but its starter never learns of it."""
    started = []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        real(thread)
        started.append(thread)
        if len(started) == which:
            raise KeyboardInterrupt

    tar = many_files()
    with Repository.init(tmp_path / "r") as repo:
        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            import_layer(repo, sha256(tar), reader(tar))
        monkeypatch.undo()
        assert len(started) == which
        for thread in started:
            thread.join(5)
            assert not thread.is_alive()
        import_layer(repo, sha256(tar), reader(tar))
        assert reassemble(repo, sha256(tar)) == tar
