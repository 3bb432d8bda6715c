# SPDX-License-Identifier: Apache-2.0
"""Bytes of a broken download in a file: the next process goes on there, and believes none of them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import BlobMismatch, SourceUnreachable
from bootcd.formats.oci import Descriptor
from bootcd.linux.room import Room
from bootcd.model import ImageReference
from bootcd.registry import partial
from bootcd.registry.blob import LayerReader
from bootcd.registry.client import RegistrySource
from bootcd.registry.opening import open_source
from bootcd.registry.partial import OLD, SMALL, Partials
from bootcd.registry.sources import SourceOptions
from kit.images import Layer, sha256
from kit.pulling import described
from kit.scripted_server import Reply, ScriptedServer

LAYER = Layer(tar=random.Random(7).randbytes(SMALL + 1_000_000), compression=None)
SIZE = len(LAYER.blob)
PATH = f"/v2/os/blobs/{LAYER.digest}"
HALF = 5_000_000
OPTIONS = SourceOptions(backoff=0.01, max_backoff=0.1, attempts=2, read_timeout=5.0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def source(server: ScriptedServer) -> Iterator[RegistrySource]:
    opened = RegistrySource(ImageReference.parse(f"{server.host}/os:1"), OPTIONS)
    yield opened
    opened.close()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the file of `LAYER` is."""
    return tmp_path / "downloads" / LAYER.digest


def read(source: RegistrySource, kept: Path) -> bytes:
    with LayerReader(source, described(LAYER), LAYER.diff_id, max_size=2 * SIZE,
                     partial=Partials(kept.parent).of(described(LAYER))) as reader:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))


def break_off(server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
    server.serve(PATH, Reply(body=LAYER.blob, cut_after=HALF), Reply(404))
    with pytest.raises(Exception, match="the registry does not have it"):
        read(source, kept)
    assert kept.read_bytes() == LAYER.blob[:HALF]
    server.seen.clear()


def ranges(server: ScriptedServer) -> list[str | None]:
    return [seen.headers.get("range") for seen in server.seen if seen.path == PATH]


class TestResume:
    def test_only_the_rest_is_asked_for(self, server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
        break_off(server, source, kept)
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert ranges(server) == [f"bytes={HALF}-"]
        assert kept.read_bytes() == LAYER.blob, "it goes when the layer is in, which the reader does not know"

    def test_nothing_is_asked_for_when_all_is_there(
        self, server: ScriptedServer, source: RegistrySource, kept: Path
    ) -> None:
        kept.parent.mkdir()
        kept.write_bytes(LAYER.blob)
        assert read(source, kept) == LAYER.tar
        assert ranges(server) == []

    def test_a_server_that_ignores_range(self, server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
        break_off(server, source, kept)
        server.serve(PATH, Reply(body=LAYER.blob, ranges=False))
        assert read(source, kept) == LAYER.tar

    def test_another_break(self, server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
        break_off(server, source, kept)
        server.serve(PATH, Reply(body=LAYER.blob, cut_after=1000), Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert ranges(server) == [f"bytes={HALF}-", f"bytes={HALF + 1000}-"]

    def test_a_shorter_blob_at_the_server(self, server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
        break_off(server, source, kept)
        server.serve(PATH, Reply(416))
        with pytest.raises(BlobMismatch, match=f"less than {HALF}"):
            read(source, kept)

    @pytest.mark.parametrize("place", [0, HALF - 1])
    def test_wrong_bytes_in_the_file(
        self, server: ScriptedServer, source: RegistrySource, kept: Path, place: int
    ) -> None:
        break_off(server, source, kept)
        with kept.open("r+b") as file:
            file.seek(place)
            file.write(bytes([LAYER.blob[place] ^ 1]))
        server.serve(PATH, Reply(body=LAYER.blob))
        with pytest.raises(BlobMismatch, match="has digest"):
            read(source, kept)

    def test_a_file_that_is_too_long_is_begun_anew(
        self, server: ScriptedServer, source: RegistrySource, kept: Path
    ) -> None:
        kept.parent.mkdir()
        kept.write_bytes(LAYER.blob + b"more")
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert ranges(server) == [None]


class TestWhatIsKept:
    def test_no_small_blob(self, tmp_path: Path) -> None:
        assert Partials(tmp_path).of(Descriptor("a/b", sha256(b""), SMALL)) is None
        assert Partials(tmp_path).of(Descriptor("a/b", sha256(b""), SMALL + 1)) is not None

    def test_nothing_of_what_came_quickly(self, server: ScriptedServer, source: RegistrySource, kept: Path) -> None:
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert not kept.exists()

    def test_all_of_what_took_long(
        self, server: ScriptedServer, source: RegistrySource, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(partial, "QUICK", 0)
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert kept.read_bytes() == LAYER.blob
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700

    def test_what_a_reader_that_is_closed_has_got(
        self, server: ScriptedServer, source: RegistrySource, kept: Path
    ) -> None:
        server.serve(PATH, Reply(body=LAYER.blob, cut_after=HALF, stall=30))
        with LayerReader(source, described(LAYER), LAYER.diff_id, max_size=2 * SIZE,
                         partial=Partials(kept.parent).of(described(LAYER))) as reader:
            left = HALF
            while left:
                left -= len(reader.read(left))
        assert kept.read_bytes() == LAYER.blob[:HALF]

    @pytest.mark.parametrize("obstacle", ["directory", "link", "pipe", "file in place of the directory"])
    def test_what_is_in_the_way_stops_nothing(
        self, server: ScriptedServer, source: RegistrySource, kept: Path, tmp_path: Path, obstacle: str
    ) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"of somebody else")
        if obstacle.startswith("file"):
            kept.parent.write_bytes(b"")
        else:
            kept.parent.mkdir()
            {"directory": kept.mkdir, "link": lambda: kept.symlink_to(precious),
             "pipe": lambda: os.mkfifo(kept)}[obstacle]()
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert precious.read_bytes() == b"of somebody else"

    def test_a_full_disk_stops_nothing(
        self, server: ScriptedServer, source: RegistrySource, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tight = Room(free=20 << 20, total=1 << 30, inodes=None, inodes_total=None)
        monkeypatch.setattr(Room, "of", lambda path: tight)
        server.serve(PATH, Reply(body=LAYER.blob))
        assert read(source, kept) == LAYER.tar
        assert not kept.exists() or not kept.stat().st_size


class TestDirectory:
    def test_sizes_and_removal(self, tmp_path: Path) -> None:
        partials = Partials(tmp_path / "downloads")
        assert partials.sizes() == {}
        (tmp_path / "downloads").mkdir()
        (tmp_path / "downloads" / LAYER.digest).write_bytes(b"12345")
        (tmp_path / "downloads" / "of somebody else").write_bytes(b"1")
        assert partials.sizes() == {LAYER.digest: 5}
        partials.remove(LAYER.digest)
        partials.remove(LAYER.digest)
        assert os.listdir(tmp_path / "downloads") == ["of somebody else"]

    def test_what_is_old_goes_unless_it_is_wanted(self, tmp_path: Path) -> None:
        for number, age in enumerate((0, OLD + 60, OLD + 60)):
            path = tmp_path / sha256(bytes([number]))
            path.write_bytes(b"1")
            os.utime(path, (time.time() - age,) * 2)
        Partials(tmp_path).prune({sha256(b"\2")})
        assert sorted(os.listdir(tmp_path)) == sorted([sha256(b"\0"), sha256(b"\2")])

    def test_room_is_made_once(self, tmp_path: Path) -> None:
        partials = Partials(tmp_path)
        (tmp_path / LAYER.digest).write_bytes(b"12345")
        assert partials.clear()
        assert os.listdir(tmp_path) == []
        assert not partials.clear()
        assert partials.of(described(LAYER)) is None


class TestStall:
    """Times are a hundredth of those of a machine that works."""

    OPTIONS = SourceOptions(backoff=0.01, max_backoff=0.02, attempts=3, read_timeout=5.0, stall_bytes=4096,
                            stall_time=0.4)

    def read(self, server: ScriptedServer, layer: Layer, *, separate: bool = False) -> bytes:
        source = open_source(ImageReference.parse(f"{server.host}/os:1"), replace(self.OPTIONS, separate=separate))
        try:
            with LayerReader(source, described(layer), layer.diff_id, max_size=1 << 20) as reader:
                return b"".join(iter(lambda: reader.read(1 << 20), b""))
        finally:
            source.close()

    @pytest.mark.parametrize("separate", [False, pytest.param(True, marks=pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root, to give something up"))])
    def test_a_trickle_does_not_hold_the_job_for_ever(self, server: ScriptedServer, separate: bool) -> None:
        layer = Layer(tar=bytes(100_000), compression=None)
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, slow=(1, 0.05)))
        began = time.monotonic()
        with pytest.raises(SourceUnreachable, match=r"hardly any data for too long \(gave up after 3 attempts\)"):
            self.read(server, layer, separate=separate)
        assert time.monotonic() - began < 60

    def test_what_comes_then_is_used(self, server: ScriptedServer) -> None:
        layer = Layer(tar=random.Random(3).randbytes(100_000), compression=None)
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, slow=(10, 0.05)), Reply(body=layer.blob))
        assert self.read(server, layer) == layer.tar
        (_, asked) = [seen.headers.get("range") for seen in server.seen if seen.path.endswith(layer.digest)]
        assert asked is not None
        assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) < 4096

    def test_what_moves_is_not_ended_however_slow(self, server: ScriptedServer) -> None:
        layer = Layer(tar=bytes(30_000), compression=None)
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, slow=(1000, 0.05)))
        began = time.monotonic()
        assert self.read(server, layer) == layer.tar
        assert time.monotonic() - began > 3 * self.OPTIONS.stall_time, "too fast to show anything"
        assert server.paths() == [f"/v2/os/blobs/{layer.digest}"]

    def test_a_manifest_that_trickles(self, server: ScriptedServer) -> None:
        from bootcd.model import Platform

        server.serve("/v2/os/manifests/1", Reply(body=b" " * 10_000, slow=(1, 0.05)))
        source = RegistrySource(ImageReference.parse(f"{server.host}/os:1"), self.OPTIONS)
        with pytest.raises(SourceUnreachable, match="hardly any data"):
            source.manifest(Platform("linux", "amd64"))
        source.close()
