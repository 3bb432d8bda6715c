# SPDX-License-Identifier: Apache-2.0
"""The bytes from a medium, and still the registry is followed: by whichever face."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.config import Config
from bootcd.errors import BootcdError, ImageNotFound, SignatureMissing, SignatureRejected, SourceUnreachable, UsageError
from kit import registry_server
from kit.docker_archives import saved
from kit.os_images import os_image
from kit.push import push
from kit.registry_server import RegistryServer
from kit.signing import Signatures, key_signature, write_key
from kit.world import World

KEY = ec.generate_private_key(ec.SECP256R1())
pytestmark = pytest.mark.skipif(not registry_server.available(), reason="docker-registry is not installed")


class Place:
    """A registry that can be away, and a stick."""

    def __init__(self, world: World, registry: RegistryServer) -> None:
        self.world = world
        self.registry = registry
        self.image = f"{registry.address}/team/os:stable"
        self.layout = world.directory / "stick"
        self.stick = f"oci:{self.layout}"

    def install(self, version: str) -> None:
        push(os_image(version), self.image)
        self.world.host.install(self.image)

    def carry(self, version: str, *, signed_as: str = "") -> str:
        """Put a version on the stick, and nothing else."""
        image = os_image(version)
        (self.layout / "index.json").unlink(missing_ok=True)
        image.write_layout(self.layout)
        if signed_as:
            signatures = Signatures([key_signature(KEY, image.manifest_digest, signed_as)])
            signatures.add_to(self.layout, image.manifest_digest)
        return image.manifest_digest

    def follows(self) -> list[str]:
        return [one.image for one in self.world.host.status().deployments]


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Place]:
    with RegistryServer(tmp_path / "registry") as registry:
        yield Place(world, registry)


def test_an_upgrade_from_a_stick_follows_the_registry_further(place: Place) -> None:
    place.install("1.0")
    digest = place.carry("1.1")
    place.registry.stop()
    result = place.world.host.upgrade(take_from=place.stick)
    assert (result.outcome, result.deployment and result.deployment.image) == ("deployed", place.image)
    assert result.deployment is not None
    assert result.deployment.manifest_digest == digest
    assert place.world.host.upgrade(take_from=place.stick).outcome == "unchanged"
    place.registry.start()
    push(os_image("1.1"), place.image)
    assert not place.world.host.check().available
    assert place.world.host.upgrade().outcome == "unchanged"
    push(os_image("1.2"), place.image)
    assert place.world.host.check().available
    assert place.world.host.upgrade().outcome == "deployed"
    assert set(place.follows()) == {place.image}


def test_an_older_image_on_a_stick_is_a_downgrade(place: Place) -> None:
    place.install("2.0")
    place.carry("1.0")
    result = place.world.host.upgrade(take_from=place.stick)
    assert result.outcome == "rejected"
    assert place.stick in result.message
    assert place.world.host.upgrade(take_from=place.stick, allow_downgrade=True).outcome == "deployed"


def test_it_can_only_be_downloaded(place: Place) -> None:
    place.install("1.0")
    place.carry("1.1")
    assert place.world.host.upgrade(take_from=place.stick, download_only=True).outcome == "staged"
    assert place.world.host.upgrade(take_from=place.stick).outcome == "deployed"


def test_switch_follows_a_reference_that_nobody_could_ask_yet(place: Place) -> None:
    place.world.install(os_image("1.0"))
    place.carry("3.0")
    place.registry.stop()
    result = place.world.host.switch(place.image, take_from=place.stick)
    assert (result.outcome, result.deployment and result.deployment.image) == ("deployed", place.image)
    assert place.follows()[0] == place.image


def test_an_installation_from_a_stick(place: Place) -> None:
    place.carry("1.0")
    place.registry.stop()
    result = place.world.host.install(place.image, take_from=place.stick)
    assert (result.outcome, result.deployment and result.deployment.image) == ("deployed", place.image)


def test_a_relative_path_is_that_of_who_asks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.install("1.0")
    place.carry("1.1")
    monkeypatch.chdir(place.layout.parent)
    assert place.world.host.upgrade(take_from=f"oci:{place.layout.name}").outcome == "deployed"


def test_the_policy_of_what_is_followed_decides(place: Place) -> None:
    world, directory = place.world, place.world.directory
    place.install("1.0")
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {
        "oci": {"": [{"type": "insecureAcceptAnything"}]},  # which is not what counts
        "docker": {place.registry.address: [
            {"type": "sigstoreSigned", "keyPath": write_key(KEY, directory / "key.pub")}]}}}))
    world.config = Config(trust_policy=str(policy), trust_registries_d=str(directory / "stores"))
    place.carry("1.1")
    with pytest.raises(SignatureMissing, match=f"^{place.image} from {place.stick} .* there is none"):
        world.host.upgrade(take_from=place.stick)
    place.carry("1.1", signed_as="other.example/os:1")
    with pytest.raises(SignatureRejected, match=r"other\.example"):
        world.host.upgrade(take_from=place.stick)
    assert world.versions() == ["1.0"]
    place.carry("1.1", signed_as=place.image)
    deployment = world.host.upgrade(take_from=place.stick).deployment
    assert deployment is not None
    assert (deployment.verification, deployment.image) == ("signed", place.image)


def test_a_pin_holds(place: Place) -> None:
    place.install("1.0")
    pinned = f"{place.registry.address}/team/os@{os_image('1.0').manifest_digest}"
    place.world.host.switch(pinned)
    place.carry("1.1")
    with pytest.raises(ImageNotFound, match=os_image("1.0").manifest_digest):
        place.world.host.upgrade(take_from=place.stick)
    place.carry("1.0")
    assert place.world.host.upgrade(take_from=place.stick).outcome == "unchanged"


NO_PLACES: dict[str, type[BootcdError]] = {
    "quay.io/team/os:1": UsageError, "nonsense": UsageError, "docker-daemon:os:1": UsageError,
    "oci:/nowhere/at/all": SourceUnreachable, "docker-archive:/dev/zero": SourceUnreachable,
    "tar:/nowhere": SourceUnreachable, "dir:/": BootcdError, "containers-storage:[overlay@/nowhere]x": ImageNotFound,
}


def test_what_is_no_place_to_take_from(place: Place) -> None:
    place.install("1.0")
    for text, kind in NO_PLACES.items():
        with pytest.raises(kind) as caught:
            place.world.host.upgrade(take_from=text)
        assert text in str(caught.value)
    assert place.world.versions() == ["1.0"]


def test_a_machine_can_follow_every_local_place(place: Place) -> None:
    world = place.world
    world.install(os_image("1.0"))
    archive = saved(world.directory / "os.tar", (os_image("1.1"), "quay.io/team/os:1"))
    assert world.host.switch(f"{archive}:quay.io/team/os:1").outcome == "deployed"
    assert not world.host.check().available
    os.unlink(world.directory / "os.tar")
    saved(world.directory / "os.tar", (os_image("1.2"), "quay.io/team/os:1"))
    assert world.host.check().available
    assert world.host.upgrade().outcome == "deployed"
    assert world.versions()[:2] == ["1.2", "1.1"]
