# SPDX-License-Identifier: Apache-2.0
"""Updates that come as deltas: the same deployment as from the whole image, or a refusal that says why."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import DeltaUnusable
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit import deltas
from kit.deltas import DeltaBuilder
from kit.images import File, ImageBuilder
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer
from kit.world import World


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _image(version: str) -> ImageBuilder:
    """Some of its files are the same in each version, and a large one has a few bytes that are not."""
    program = bytearray(_noise(1, 400_000))
    program[200_000:200_003] = version.encode()
    extra = [File("usr/lib/program", bytes(program), mode=0o755), File("usr/lib/data", _noise(2, 1_000_000)),
             File("usr/lib/news", f"what is new in {version}\n".encode() * 20)]
    return os_image(version, extra)


def test_a_delta_from_a_stick_and_one_from_the_registry(world: World, tmp_path: Path) -> None:
    images = [_image(version) for version in ("1.0", "1.1", "1.2", "1.3")]
    DeltaBuilder(images[0], images[1]).write_archive(tmp_path / "update.oci-delta")
    DeltaBuilder(images[2], images[3]).write_layout(tmp_path / "other")
    with ScriptedServer() as server:
        serve_image(server, images[0])
        image = f"{server.host}/os:1"
        world.host.install(image)

        with pytest.raises(DeltaUnusable, match=f"is made from image {images[2].manifest_digest}, which is not here"):
            world.host.upgrade(take_from=f"oci:{tmp_path}/other")
        told = world.host.doctor(f"oci:{tmp_path}/other")
        with pytest.raises(DeltaUnusable) as caught:
            world.host.image_pull(f"oci:{tmp_path}/other")
        assert (told.works, told.error, told.message) == (False, DeltaUnusable.bus_name(), str(caught.value))
        assert world.versions() == ["1.0"]

        result = world.host.upgrade(take_from=f"oci-archive:{tmp_path}/update.oci-delta")
        assert (result.outcome, result.deployment and result.deployment.image) == ("deployed", image)
        assert result.pull is not None
        assert 0 < result.pull.downloaded < 20_000
        assert world.host.upgrade(take_from=f"oci-archive:{tmp_path}/update.oci-delta").outcome == "unchanged"
        serve_image(server, images[1])
        assert world.host.check().available is False

        deltas.serve(server, DeltaBuilder(images[1], images[2]))
        serve_image(server, images[2])
        told = world.host.doctor(image)
        result = world.host.upgrade()
        assert result.deployment is not None
        assert result.deployment.id == _id_of(images[2], tmp_path / "whole")
        assert result.pull is not None
        assert 0 < result.pull.downloaded < 20_000
        facts = told.steps[-1].facts
        assert (facts["by-delta"], facts["download-size"]) == ("1", str(result.pull.downloaded))
    assert world.host.fsck().ok


def _id_of(image: ImageBuilder, directory: Path) -> str:
    """The deployment that the whole image makes."""
    image.write_layout(directory / "layout", "1")
    host = DirectHost(directory / "sysroot", directory / "esp", Config(), SilentProgress())
    deployment = host.install(f"oci:{directory}/layout:1").deployment
    assert deployment is not None
    return deployment.id


@pytest.mark.skipif(not deltas.available(), reason="oci-delta is not installed")
def test_a_delta_of_the_tool_itself(world: World, tmp_path: Path) -> None:
    old, new = _image("1.0"), _image("1.1")
    world.install(old)
    (tmp_path / "stick").mkdir()
    place = deltas.oci_delta(tmp_path / "stick", old, new)
    assert place.stat().st_size < 50_000
    result = world.host.upgrade(take_from=f"oci-archive:{place}")
    assert result.outcome == "deployed"
    assert result.deployment is not None
    assert result.deployment.manifest_digest == new.manifest_digest
    assert result.deployment.id == _id_of(new, tmp_path / "other")
    assert result.pull is not None
    assert 0 < result.pull.downloaded < 10_000
    assert world.host.fsck().ok
