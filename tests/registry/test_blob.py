# SPDX-License-Identifier: Apache-2.0
"""LayerReader and read_blob, over real sockets that break, lie and stall."""

from __future__ import annotations

import gzip
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import (
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    DiffIdMismatch,
    LayerTooLarge,
    OciError,
    SourceUnreachable,
)
from bootcd.formats.oci import Descriptor
from bootcd.model import ImageReference
from bootcd.registry.blob import LayerReader, read_blob
from bootcd.registry.client import RegistrySource
from bootcd.registry.sources import SourceOptions
from kit.images import Layer, sha256
from kit.pulling import described
from kit.scripted_server import Reply, ScriptedServer, Seen

TAR = random.Random(2).randbytes(700_000) + bytes(1_500_000)
GZIP, ZSTD, PLAIN = (Layer(tar=TAR, compression=kind) for kind in ("gzip", "zstd", None))
OPTIONS = SourceOptions(backoff=0.01, max_backoff=0.5, read_timeout=5.0)
MAX = 10 << 20


class Counter:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.done = 0
        self.notes: list[str] = []

    def begin(self, stage: str, total: int = 0) -> None: ...

    def advance(self, count: int) -> None:
        self.done += count

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def source(server: ScriptedServer) -> Iterator[RegistrySource]:
    opened = RegistrySource(ImageReference.parse(f"{server.host}/os:1"), OPTIONS)
    yield opened
    opened.close()


def path(layer: Layer) -> str:
    return f"/v2/os/blobs/{layer.digest}"


def read_layer(source: RegistrySource, layer: Layer, *, max_size: int = MAX, progress: Counter | None = None) -> bytes:
    with LayerReader(source, described(layer), layer.diff_id, max_size=max_size, progress=progress) as reader:
        return b"".join(iter(lambda: reader.read(1 << 20), b""))


@pytest.mark.parametrize("layer", [GZIP, ZSTD, PLAIN], ids=["gzip", "zstd", "plain"])
class TestEveryCompression:
    def test_whole(self, server: ScriptedServer, source: RegistrySource, layer: Layer) -> None:
        server.serve(path(layer), Reply(body=layer.blob))
        progress = Counter()
        assert read_layer(source, layer, progress=progress) == TAR
        assert progress.done == len(layer.blob)

    def test_goes_on_where_the_connection_broke(
        self, server: ScriptedServer, source: RegistrySource, layer: Layer
    ) -> None:
        size = len(layer.blob)
        server.serve(path(layer), Reply(body=layer.blob, cut_after=200_000), Reply(body=layer.blob, cut_after=300_001),
                     Reply(body=layer.blob))
        progress = Counter()
        assert read_layer(source, layer, progress=progress) == TAR
        assert progress.done == size
        assert [seen.headers.get("range") for seen in server.seen if seen.path == path(layer)] == [
            None, "bytes=200000-", "bytes=500001-",
        ], progress.notes
        assert len(progress.notes) == 2

    def test_a_server_that_ignores_range(self, server: ScriptedServer, source: RegistrySource, layer: Layer) -> None:
        server.serve(path(layer), Reply(body=layer.blob, cut_after=200_000), Reply(body=layer.blob, ranges=False))
        progress = Counter()
        assert read_layer(source, layer, progress=progress) == TAR
        assert progress.done == len(layer.blob)

    def test_wrong_bytes(self, server: ScriptedServer, source: RegistrySource, layer: Layer) -> None:
        blob = bytearray(layer.blob)
        blob[350_000] ^= 1
        server.serve(path(layer), Reply(body=bytes(blob)))
        with pytest.raises(BlobMismatch, match=layer.digest):
            read_layer(source, layer)

    def test_too_large(self, server: ScriptedServer, source: RegistrySource, layer: Layer) -> None:
        server.serve(path(layer), Reply(body=layer.blob))
        with pytest.raises(LayerTooLarge, match="more than 1000000 bytes"):
            read_layer(source, layer, max_size=1_000_000)

    def test_wrong_diff_id(self, server: ScriptedServer, source: RegistrySource, layer: Layer) -> None:
        server.serve(path(layer), Reply(body=layer.blob))
        with LayerReader(source, described(layer), sha256(b"other"), max_size=MAX) as reader:
            got = 0
            while got < len(TAR):
                got += len(reader.read(1 << 20))
            for _ in range(2):
                with pytest.raises(DiffIdMismatch, match=layer.diff_id):
                    reader.read(1 << 20)


@pytest.mark.parametrize("cut", [0, 1, 65_535, 65_536, 65_537, len(GZIP.blob) - 1])
@pytest.mark.parametrize("reset", [False, True])
def test_cut_anywhere(server: ScriptedServer, source: RegistrySource, cut: int, reset: bool) -> None:
    server.serve(path(GZIP), Reply(body=GZIP.blob, cut_after=cut, reset=reset), Reply(body=GZIP.blob))
    assert read_layer(source, GZIP) == TAR


def test_a_short_body_without_length_is_a_cut(server: ScriptedServer, source: RegistrySource) -> None:
    server.serve(path(GZIP), Reply(body=GZIP.blob, length=None, cut_after=100_000), Reply(body=GZIP.blob, length=None))
    assert read_layer(source, GZIP) == TAR


def test_chunked_bodies(server: ScriptedServer, source: RegistrySource) -> None:
    whole = Reply(body=GZIP.blob, chunked=True)
    server.serve(path(GZIP), replace(whole, cut_after=101_000), whole)
    assert read_layer(source, GZIP) == TAR


def test_gives_up_after_attempts_without_progress(server: ScriptedServer, source: RegistrySource) -> None:
    server.serve(path(GZIP), Reply(body=GZIP.blob, cut_after=1000), Reply(body=GZIP.blob, cut_after=0))
    with pytest.raises(SourceUnreachable, match=f"blob {GZIP.digest}: .*gave up after 5 attempts") as caught:
        read_layer(source, GZIP)
    assert server.host in str(caught.value)
    assert server.paths() == [path(GZIP)] * 5


def test_progress_resets_the_count(server: ScriptedServer, source: RegistrySource) -> None:
    cuts = [Reply(body=GZIP.blob, cut_after=1000)] * 12
    server.serve(path(GZIP), *cuts, Reply(body=GZIP.blob))
    assert read_layer(source, GZIP) == TAR


def test_a_stalled_connection_times_out(server: ScriptedServer) -> None:
    source = RegistrySource(ImageReference.parse(f"{server.host}/os:1"), replace(OPTIONS, read_timeout=0.3))
    server.serve(path(GZIP), Reply(body=GZIP.blob, cut_after=70_000, stall=10), Reply(body=GZIP.blob))
    assert read_layer(source, GZIP) == TAR
    source.close()


class TestSizes:
    def test_a_longer_body_is_refused_at_once(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(GZIP), Reply(body=b"", length=1 << 40, cut_after=0))
        with pytest.raises(BlobMismatch, match="has 1099511627776 bytes, not"):
            read_layer(source, GZIP)

    def test_a_longer_body_without_length(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(PLAIN), Reply(body=PLAIN.blob + b"more", chunked=True))
        with pytest.raises(BlobMismatch, match="more than"):
            read_layer(source, PLAIN)

    def test_a_shorter_body(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(PLAIN), Reply(body=PLAIN.blob[:-1]))
        with pytest.raises(BlobMismatch, match="bytes, not"):
            read_layer(source, PLAIN)

    def test_another_file_at_the_second_attempt(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(PLAIN), Reply(body=PLAIN.blob, cut_after=70_000), Reply(body=bytes(len(PLAIN.blob) + 9)))
        with pytest.raises(BlobMismatch):
            read_layer(source, PLAIN)

    @pytest.mark.parametrize(("content_range", "expected"), [
        ("bytes 5-10/20", BlobMismatch), ("nonsense", SourceUnreachable), (f"bytes 99999-100000/{len(PLAIN.blob)}",
                                                                            SourceUnreachable)])
    def test_a_wrong_range(self, server: ScriptedServer, source: RegistrySource, content_range: str,
                           expected: type[BootcdError]) -> None:
        server.serve(path(PLAIN), Reply(body=PLAIN.blob, cut_after=70_000),
                     Reply(206, PLAIN.blob, {"Content-Range": content_range}, ranges=False))
        with pytest.raises(expected):
            read_layer(source, PLAIN)

    def test_an_earlier_range_is_used(self, server: ScriptedServer, source: RegistrySource) -> None:
        size = len(PLAIN.blob)
        early = Reply(206, PLAIN.blob[1000:], {"Content-Range": f"bytes 1000-{size - 1}/{size}"}, ranges=False)
        server.serve(path(PLAIN), Reply(body=PLAIN.blob, cut_after=70_000), early)
        assert read_layer(source, PLAIN) == TAR

    def test_range_not_satisfiable(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(PLAIN), Reply(body=PLAIN.blob, cut_after=70_000), Reply(416, ranges=False))
        with pytest.raises(BlobMismatch):
            read_layer(source, PLAIN)


def test_missing_blob(source: RegistrySource) -> None:
    with pytest.raises(BlobNotFound, match=GZIP.digest):
        read_layer(source, GZIP)


def test_bad_compressed_data_of_a_correct_blob_is_the_images_fault(
    server: ScriptedServer, source: RegistrySource
) -> None:
    layer = Layer(tar=TAR, compression="gzip")
    layer.__dict__["blob"] = b"this is no gzip data" * 1000
    server.serve(path(layer), Reply(body=layer.blob))
    with pytest.raises(OciError, match="not valid gzip data"):
        read_layer(source, layer)


@pytest.mark.parametrize("tail", [b"\0", b"garbage", gzip.compress(b"more", mtime=0)])
def test_what_follows_the_compressed_data(server: ScriptedServer, source: RegistrySource, tail: bytes) -> None:
    layer = Layer(tar=TAR, compression="gzip")
    layer.__dict__["blob"] = GZIP.blob + tail
    server.serve(path(layer), Reply(body=layer.blob))
    with pytest.raises((OciError, DiffIdMismatch)):
        read_layer(source, layer)


def test_read_gives_what_is_asked_for(server: ScriptedServer, source: RegistrySource) -> None:
    server.serve(path(GZIP), Reply(body=GZIP.blob))
    sizes = random.Random(3)
    with LayerReader(source, described(GZIP), GZIP.diff_id, max_size=MAX) as reader:
        data = bytearray()
        while True:
            size = sizes.choice([1, 512, 4096, 100_000, 1 << 22])
            piece = reader.read(size)
            assert len(piece) <= size
            if not piece:
                break
            data += piece
        assert data == TAR
        assert reader.read(10) == b""


class TestClose:
    def threads(self) -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("layer ")]

    @pytest.mark.parametrize("stalling", [
        Reply(body=GZIP.blob, cut_after=100_000, stall=30),  # in the middle of the body
        Reply(503, headers={"Retry-After": "30"}),  # between two attempts
        Reply(body=GZIP.blob),  # waiting for its reader, or done
    ])
    def test_ends_the_thread_promptly(
        self, server: ScriptedServer, stalling: Reply
    ) -> None:
        options = SourceOptions(read_timeout=30.0)
        source = RegistrySource(ImageReference.parse(f"{server.host}/os:1"), options)
        server.serve(path(GZIP), stalling)
        reader = LayerReader(source, described(GZIP), GZIP.diff_id, max_size=MAX)
        time.sleep(0.15)
        assert self.threads() or not stalling.stall
        start = time.monotonic()
        reader.close()
        assert time.monotonic() - start < 10
        assert not self.threads()
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        source.close()

    def test_a_reader_that_waits_is_woken(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(path(GZIP), Reply(body=GZIP.blob, cut_after=0, stall=30))
        reader = LayerReader(source, described(GZIP), GZIP.diff_id, max_size=MAX)
        threading.Timer(0.1, reader.close).start()
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)

    def test_a_full_queue_holds_the_download(self, server: ScriptedServer, source: RegistrySource) -> None:
        layer = Layer(tar=bytes(64 << 20), compression="gzip")
        server.serve(path(layer), Reply(body=layer.blob))
        with LayerReader(source, described(layer), layer.diff_id, max_size=1 << 30) as reader:
            time.sleep(0.3)
            assert reader._queued <= 10 << 20
        assert not self.threads()

    def test_what_unpacks_is_ended_too(self, server: ScriptedServer, source: RegistrySource) -> None:
        """By the thread, and not when the last reference to it goes: it may hold files, or a lock."""
        ended = threading.Event()

        def unpack(pieces: Iterator[bytes]) -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 20)
            finally:
                ended.set()

        server.serve(path(GZIP), Reply(body=GZIP.blob))
        reader = LayerReader(source, described(GZIP), GZIP.diff_id, max_size=3 << 20, unpack=unpack)
        with pytest.raises(LayerTooLarge):
            list(iter(lambda: reader.read(1 << 20), b""))
        assert ended.wait(5)
        reader.close()


class TestSmallBlobs:
    def test_read(self, server: ScriptedServer, source: RegistrySource) -> None:
        data = b'{"some": "config"}'
        server.serve(f"/v2/os/blobs/{sha256(data)}", Reply(body=data))
        assert read_blob(source, Descriptor("a/b", sha256(data), len(data)), 100) == data

    def test_sha512(self, server: ScriptedServer, source: RegistrySource) -> None:
        data = b'{"some": "config"}'
        digest = "sha512:" + hashlib.sha512(data).hexdigest()
        server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))
        assert read_blob(source, Descriptor("a/b", digest, len(data)), 100) == data

    def test_limit(self, server: ScriptedServer, source: RegistrySource) -> None:
        with pytest.raises(OciError, match="more than the 100"):
            read_blob(source, Descriptor("a/b", sha256(b""), 101), 100)
        assert server.seen == []

    def test_wrong_bytes(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(f"/v2/os/blobs/{sha256(b'data')}", Reply(body=b"atad"))
        with pytest.raises(BlobMismatch, match="has digest"):
            read_blob(source, Descriptor("a/b", sha256(b"data"), 4), 100)

    def test_empty(self, server: ScriptedServer, source: RegistrySource) -> None:
        server.serve(f"/v2/os/blobs/{sha256(b'')}", Reply())
        assert read_blob(source, Descriptor("a/b", sha256(b""), 0), 100) == b""


def test_foreign_layers_and_other_types_are_refused(source: RegistrySource) -> None:
    foreign = replace(described(GZIP), urls=("https://example.org/layer",))
    with pytest.raises(OciError, match="foreign"):
        LayerReader(source, foreign, GZIP.diff_id, max_size=MAX)
    with pytest.raises(OciError, match="no file system layer"):
        LayerReader(source, replace(described(GZIP), media_type="text/html"), GZIP.diff_id, max_size=MAX)


def test_layer_of_a_layout(tmp_path: Path) -> None:
    from bootcd.registry.ocidir import OciDirectory
    from kit.images import ImageBuilder

    ImageBuilder([ZSTD]).write_layout(tmp_path / "layout", "1")
    source = OciDirectory(ImageReference.parse(f"oci:{tmp_path}/layout:1"), OPTIONS)
    with LayerReader(source, described(ZSTD), ZSTD.diff_id, max_size=MAX) as reader:
        assert b"".join(iter(lambda: reader.read(1 << 20), b"")) == TAR
    (tmp_path / "layout/blobs" / ZSTD.digest.replace(":", "/")).write_bytes(bytes(len(ZSTD.blob)))
    with (
        LayerReader(source, described(ZSTD), ZSTD.diff_id, max_size=MAX) as reader,
        pytest.raises(BlobMismatch),
    ):
        reader.read(1)


def test_seen_is_what_was_sent(server: ScriptedServer, source: RegistrySource) -> None:
    seen: list[Seen] = []

    def answer(request: Seen) -> Reply:
        seen.append(request)
        return Reply(body=GZIP.blob)

    server.serve(path(GZIP), answer)
    read_layer(source, GZIP)
    assert seen[0].headers["user-agent"].startswith("bootcd/")
    assert seen[0].headers["accept-encoding"] == "identity"
    assert "authorization" not in seen[0].headers
    assert "cookie" not in seen[0].headers
