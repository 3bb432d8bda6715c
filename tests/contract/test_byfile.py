# SPDX-License-Identifier: Apache-2.0
"""A layer that is pulled by file, and one that shall not be: what is said is what came."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bootcd.config import Config
from kit.chunked import ChunkedLayer
from kit.images import Dir, File, ImageBuilder, Layer
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer
from kit.world import World


@pytest.mark.parametrize("by_file", [True, False])
def test_the_sum_says_what_came(world: World, by_file: bool) -> None:
    world.config = replace(Config(), pull_by_file=by_file)
    kept = [Dir("usr"), *(File(f"usr/{number}", random.Random(number).randbytes(200_000)) for number in range(10))]
    world.install(os_image("1.0"))
    world.publish(ImageBuilder([Layer(kept)]), "kept")
    world.host.image_pull(f"oci:{world.directory}/layout:kept", name="kept")
    layer = ChunkedLayer([*kept, File("usr/new", random.Random(99).randbytes(50_000))])
    image = ImageBuilder([layer])
    with ScriptedServer() as server:
        serve_image(server, image)
        stats = world.host.image_pull(f"{server.host}/os:1", name="new").stats
        parts = [seen.headers["range"].removeprefix("bytes=").split("-") for seen in server.seen
                 if seen.path.endswith(layer.digest) and "range" in seen.headers]
    came = sum(int(last) - int(first) + 1 for first, last in parts)
    assert (stats.layers, stats.layers_fetched) == (1, 1)
    assert stats.downloaded + stats.reused == len(layer.blob)
    assert stats.downloaded == (came if by_file else len(layer.blob))
    assert (50_000 < came < 60_000) == by_file
    assert (stats.objects_written, stats.objects_reused) == (1, 10)
    assert world.host.fsck().ok
