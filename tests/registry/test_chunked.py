# SPDX-License-Identifier: Apache-2.0
"""Parts of blobs, and layers made of them; what comes of whole pulls is in tests/ops/test_byfile.py."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from bootcd.errors import BlobMismatch, SourceUnreachable
from bootcd.formats.oci import Descriptor, Manifest
from bootcd.model import ImageReference, SilentProgress
from bootcd.registry.blob import LayerReader
from bootcd.registry.chunked import examine
from bootcd.registry.client import RegistrySource
from bootcd.registry.mirrored import Mirrored
from bootcd.registry.opening import open_source
from bootcd.registry.sources import Ranged
from kit.chunked import ChunkedLayer
from kit.images import File, ImageBuilder
from kit.pulling import FAST, serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen

KEPT, NEW = os.urandom(600_000), os.urandom(200_000)
LAYER = ChunkedLayer([File("kept", KEPT), File("new", NEW)])
IMAGE = ImageBuilder([LAYER])
BLOBS = f"/v2/os/blobs/{LAYER.digest}"


class Here:
    """The content of one file."""

    def find(self, wanted: Mapping[bytes, int], ended: Callable[[], bool]) -> set[bytes]:
        return {hashlib.sha256(KEPT).digest()} & set(wanted)

    def read(self, digest: bytes) -> Iterator[bytes]:
        yield KEPT


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        serve_image(running, IMAGE)
        yield running


def source_of(host: str) -> Ranged:
    source = open_source(ImageReference.parse(f"{host}/os:1"), FAST)
    assert isinstance(source, Ranged)
    return source


def descriptor() -> Descriptor:
    return Manifest.parse(IMAGE.manifest_bytes).layers[0]


def test_who_gives_parts(tmp_path: Path) -> None:
    reference = ImageReference.parse("127.0.0.1:1/os:1")
    assert isinstance(RegistrySource(reference, FAST), Ranged)
    assert isinstance(Mirrored(reference, FAST, []), Ranged)
    IMAGE.write_layout(tmp_path, "1")
    assert not isinstance(open_source(ImageReference.parse(f"oci:{tmp_path}:1")), Ranged)


@pytest.mark.skipif(not available(), reason="docker-registry is not installed")
def test_one_connection_is_enough(tmp_path: Path) -> None:
    with RegistryServer(tmp_path) as registry:
        push(IMAGE, f"{registry.address}/os:1")
        source = source_of(registry.address)
        assert isinstance(source, RegistrySource)
        for number in range(20):
            start, size = number * 1000, 1 + number * 10_000
            assert b"".join(source.part(descriptor(), start, size)) == LAYER.blob[start : start + size]
        pools = source._http._session.get_adapter("http://").poolmanager.pools  # type: ignore[attr-defined]
        key, = pools.keys()
        assert pools[key].num_connections == 1
        source.close()


def test_a_part_that_is_longer(server: ScriptedServer) -> None:
    size = len(LAYER.blob)
    server.serve(BLOBS, Reply(206, bytes(100), {"Content-Range": f"bytes 10-19/{size}"}))
    source = source_of(server.host)
    with pytest.raises(BlobMismatch, match="has more than"):
        list(source.part(descriptor(), 10, 10))
    server.serve(BLOBS, Reply(206, bytes(10), {"Content-Range": "bytes 10-19/99"}))
    with pytest.raises(BlobMismatch, match=f"has 99 bytes, not {size}"):
        list(source.part(descriptor(), 10, 10))
    server.serve(BLOBS, Reply(206, bytes(10), {"Content-Range": f"bytes 10-29/{size}"}))
    with pytest.raises(SourceUnreachable, match="another part than bytes 10 to 19"):
        list(source.part(descriptor(), 10, 10))
    source.close()


def test_a_layer(server: ScriptedServer) -> None:
    source = source_of(server.host)
    layer = examine(source, descriptor(), Here())
    assert layer.is_worth_it
    assert len(NEW) < layer.size < len(NEW) + 10_000
    with LayerReader(source, descriptor(), LAYER.diff_id, max_size=1 << 20,
                     pieces=partial(layer.open, Here(), SilentProgress())) as reader:
        assert b"".join(iter(lambda: reader.read(1 << 20), b"")) == LAYER.tar
        assert reader.received == layer.size
    source.close()


def test_closed_while_a_run_stalls(server: ScriptedServer) -> None:
    source = source_of(server.host)
    layer = examine(source, descriptor(), Here())
    stalling = threading.Event()

    def stall(seen: Seen) -> Reply:
        if len([one for one in server.seen if one.path == BLOBS]) == 3:
            stalling.set()
            return Reply(body=LAYER.blob, cut_after=1000, stall=30)
        return Reply(body=LAYER.blob)

    server.serve(BLOBS, stall)
    before = time.monotonic()
    with LayerReader(source, descriptor(), LAYER.diff_id, max_size=1 << 20,
                     pieces=partial(layer.open, Here(), SilentProgress())) as reader:
        assert reader.read(100)
        assert stalling.wait(10)
        time.sleep(0.2)  # until the answer has begun: before, nothing wakes up who waits for it
    assert time.monotonic() - before < 15
    assert not any(thread.name.startswith("layer ") for thread in threading.enumerate())
    source.close()
