# SPDX-License-Identifier: Apache-2.0
"""Mirrors, played by servers that are empty, lie or break off: the image comes, whole and verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bootcd.errors import BootcdError, ImageNotFound, RegistryBlocked, SourceUnreachable
from bootcd.model import ImageReference
from bootcd.registry.opening import open_source
from bootcd.registry.registries import Registries, parse
from bootcd.registry.sources import SourceOptions
from kit.images import ImageBuilder, Layer
from kit.pulling import AMD64, FAST, IMAGE, LAYERS, pull, serve_image
from kit.scripted_server import Reply, ScriptedServer

OTHER = ImageBuilder([Layer(tar=bytes(1024))], platform=AMD64)
NAME = "images.example/team/os:1"
"""Nothing in the tests can resolve it."""


@pytest.fixture
def mirror() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def origin() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


def table(origin: ScriptedServer, *mirrors: str) -> Registries:
    lines = ["[[registry]]", 'prefix = "images.example/team"', f'location = "{origin.host}"']
    for host in mirrors:
        lines += ["[[registry.mirror]]", f'location = "{host}"']
    return Registries(parse("\n".join(lines).encode(), "test"))


def pulled(registries: Registries, options: SourceOptions = FAST) -> list[bytes]:
    return pull(NAME, options, registries)


def test_a_mirror_that_has_it_is_the_only_one_asked(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    serve_image(mirror)
    assert pulled(table(origin, mirror.host)) == [layer.tar for layer in LAYERS]
    assert origin.seen == []


def test_an_empty_mirror(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    serve_image(origin)
    assert pulled(table(origin, mirror.host)) == [layer.tar for layer in LAYERS]
    assert mirror.paths() == ["/v2/os/manifests/1"], "who had no manifest is not asked for layers"


def test_a_mirror_that_nobody_listens_at(origin: ScriptedServer) -> None:
    serve_image(origin)
    assert pulled(table(origin, "127.0.0.1:1")) == [layer.tar for layer in LAYERS]


def test_a_mirror_that_lies_about_a_digest(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    serve_image(origin)
    mirror.serve(f"/v2/os/manifests/{IMAGE.manifest_digest}", Reply(body=OTHER.manifest_bytes))
    source = open_source(ImageReference.parse(f"images.example/team/os@{IMAGE.manifest_digest}"), FAST,
                         table(origin, mirror.host))
    assert source.manifest(AMD64).digest == IMAGE.manifest_digest
    source.close()


def test_a_mirror_without_one_layer(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    serve_image(origin)
    serve_image(mirror)
    missing = f"/v2/os/blobs/{LAYERS[1].digest}"
    mirror.serve(missing, Reply(404))
    assert pulled(table(origin, mirror.host)) == [layer.tar for layer in LAYERS]
    assert missing in origin.paths()


def test_a_mirror_that_breaks_off_in_the_middle(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    """The rest comes from the next place: its digest tells whether the halves belong together."""
    serve_image(origin)
    serve_image(mirror)
    path = f"/v2/os/blobs/{LAYERS[2].digest}"
    mirror.serve(path, Reply(body=LAYERS[2].blob, cut_after=50_000))
    assert pulled(table(origin, mirror.host)) == [layer.tar for layer in LAYERS]
    (rest,) = (seen for seen in origin.seen if seen.path == path)
    assert rest.headers["range"] == "bytes=50000-"


def test_nobody_has_it(mirror: ScriptedServer, origin: ScriptedServer) -> None:
    with pytest.raises(ImageNotFound) as caught:
        pulled(table(origin, mirror.host))
    assert f"{origin.host}/os:1: the registry has no such image" in str(caught.value)
    assert f"elsewhere: {mirror.host}/os:1: the registry has no such image" in str(caught.value)


def test_the_registry_says_what_there_is_not(origin: ScriptedServer) -> None:
    """A mirror that nobody listens at keeps nobody from knowing that there are no signatures."""
    serve_image(origin)
    source = open_source(ImageReference.parse(NAME), FAST, table(origin, "127.0.0.1:1"))
    for _ in range(2):  # before and after the registry has become the first to be asked
        with pytest.raises(ImageNotFound, match=f"{origin.host}/os.*elsewhere: 127.0.0.1:1/os"):
            source.companion("sha256-none.sig")
        source.manifest(AMD64)
    source.close()


def test_a_mirror_does_not_say_what_there_is_not(mirror: ScriptedServer) -> None:
    """It may lack what the registry has, which cannot be asked."""
    serve_image(mirror)
    tables = f'[[registry]]\nprefix = "images.example/team"\nlocation = "127.0.0.1:1"\n' \
             f'[[registry.mirror]]\nlocation = "{mirror.host}"\n'
    source = open_source(ImageReference.parse(NAME), FAST, Registries(parse(tables.encode(), "test")))
    source.manifest(AMD64)
    with pytest.raises(SourceUnreachable, match="refused"):
        source.companion("sha256-none.sig")
    source.close()


def test_a_mirror_is_not_insecure_because_the_registry_is(origin: ScriptedServer) -> None:
    """Plain HTTP to a host that is not loopback by its name."""
    with ScriptedServer() as server:
        serve_image(server)
        alias = f"127.1:{server.host.rpartition(':')[2]}"
        with pytest.raises(BootcdError):
            pulled(table(origin, alias), replace(FAST, insecure=True))
        assert server.seen == []


def test_blocked_before_anybody_is_asked(origin: ScriptedServer) -> None:
    blocked = f'[[registry]]\nlocation = "{origin.host}"\nblocked = true\n'
    with pytest.raises(RegistryBlocked):
        pull(f"{origin.host}/os:1", FAST, Registries(parse(blocked.encode(), "test")))
    assert origin.seen == []


def test_another_location_without_mirrors(origin: ScriptedServer) -> None:
    serve_image(origin)
    assert pulled(table(origin)) == [layer.tar for layer in LAYERS]
    with pytest.raises(SourceUnreachable, match="cannot be resolved"):
        pull(NAME)
