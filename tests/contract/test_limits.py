# SPDX-License-Identifier: Apache-2.0
"""Limits of a download, by whichever face they are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bootcd.errors import DownloadTooLarge
from kit.images import Dir, File, ImageBuilder, Layer
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer
from kit.world import World

LAYER = Layer([Dir("usr"), File("usr/large", bytes(range(256)) * 400)], compression=None)
IMAGE = ImageBuilder([LAYER])
SIZE = len(LAYER.blob)


@pytest.fixture
def source(world: World) -> Iterator[str]:
    """An installation, and a registry with `IMAGE`."""
    world.install(os_image("1.0"))
    with ScriptedServer() as server:
        serve_image(server, IMAGE)
        yield f"{server.host}/os:1"


def test_nothing_is_pulled_beyond_the_limit(world: World, source: str) -> None:
    with pytest.raises(DownloadTooLarge, match=rf"{SIZE} bytes in 1 of 1 layers .* one run may download {SIZE - 1}$"):
        world.host.image_pull(source, name="x", max_download=SIZE - 1)
    with pytest.raises(DownloadTooLarge):
        world.host.switch(source, max_download=1)
    assert world.host.image_pull(source, name="x", max_rate=10_000_000, max_download=SIZE).stats.downloaded == SIZE


def test_what_is_here_counts_for_nothing(world: World, source: str) -> None:
    world.host.image_pull(source, name="x")
    assert world.host.image_pull(source, name="y", max_download=1).stats.downloaded == 0


def test_a_local_image_is_no_download(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    assert world.host.upgrade(max_rate=1, max_download=1).outcome == "deployed"


def test_what_is_left_of_a_download_is_told_and_collected(world: World) -> None:
    world.install(os_image("1.0"))
    digest = f"sha256:{'1' * 64}"
    (world.sysroot / "state/bootcd/downloads").mkdir()
    (world.sysroot / "state/bootcd/downloads" / digest).write_bytes(b"12345")
    told = [(one.name, one.verdict, one.size) for topic in ("space", "collect")
            for one in world.host.explain(topic).reasons if one.kind == "download"]
    assert told == [(digest, "may go", 5), (digest, "goes", 5)]
    assert [(item.kind, item.name) for item in world.host.cleanup().items] == [("download", digest)]
    assert not list((world.sysroot / "state/bootcd/downloads").iterdir())
