# SPDX-License-Identifier: Apache-2.0
"""How a pull would go is told by the caller's own process, whichever face it has; and what is told comes true."""

from __future__ import annotations

import pytest

from bootcd.config import Config
from bootcd.errors import BootcdError, ImageNotFound, NoMatchingPlatform, PolicyRejected, RegistryBlocked
from bootcd.model import Platform
from kit.images import ImageBuilder
from kit.os_images import os_image
from kit.pulling import LAYERS
from kit.world import World


def test_a_pull_that_works(world: World) -> None:
    world.install(os_image("1.0"))
    digest = world.publish(os_image("1.1"))
    before = world.files()
    found = world.host.doctor(world.image)
    assert (found.works, found.exit_status, found.error) == (True, 0, "")
    assert next(step for step in found.steps if step.step == "manifest").facts["digest"] == digest
    layers = next(step for step in found.steps if step.step == "layers")
    assert (layers.state, layers.facts["missing"], layers.facts["whole"]) == ("ok", "1", "1")
    assert "1 of 2 layers are not here" in layers.says[0]
    assert world.files() == before
    assert world.host.check().manifest_digest == digest


def test_what_fails_is_what_a_pull_fails_with(world: World) -> None:
    world.install(os_image("1.0"))
    world.publish(ImageBuilder(LAYERS[:1], platform=Platform("linux", "s390x")), "foreign")
    policy, blocked = world.directory / "policy.json", world.directory / "registries.conf"
    policy.write_text('{"default": [{"type": "reject"}]}')
    blocked.write_text('[[registry]]\nlocation = "quay.io"\nblocked = true\n')
    layout = world.image.removesuffix(":latest")
    for image, config, kind in (
        (f"{layout}:nothing", Config(), ImageNotFound), (f"{layout}:foreign", Config(), NoMatchingPlatform),
        ("quay.io/team/os:1", Config(registry_registries_file=str(blocked)), RegistryBlocked),
        (world.image, Config(trust_policy=str(policy)), PolicyRejected),
    ):
        world.config = config
        found = world.host.doctor(image)
        with pytest.raises(BootcdError) as caught:
            world.host.image_pull(image)
        assert type(caught.value) is kind
        assert (found.works, found.error, found.exit_status) == (False, kind.bus_name(), kind.exit_status)
        assert found.message == str(caught.value)
