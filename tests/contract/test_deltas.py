# SPDX-License-Identifier: Apache-2.0
"""Updates that come as deltas: the same deployment as from the whole image, or a refusal that says why."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit import deltas
from kit.images import File, ImageBuilder
from kit.os_images import os_image
from kit.world import World


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _image(version: str) -> ImageBuilder:
    """Some of its files are the same in each version, and a large one has a few bytes that are not."""
    program = bytearray(_noise(1, 400_000))
    program[200_000:200_003] = version.encode()
    extra = [File("usr/lib/program", bytes(program), mode=0o755), File("usr/lib/data", _noise(2, 100_000)),
             File("usr/lib/news", f"what is new in {version}\n".encode() * 20)]
    return os_image(version, extra)


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
