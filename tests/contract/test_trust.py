# SPDX-License-Identifier: Apache-2.0
"""The gate before the pull, by whichever face: what the policy does not let in leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.config import Config
from bootcd.errors import BootcdError, PolicyRejected, SignatureMissing, SignatureRejected, TrustPolicyError
from kit.images import ImageBuilder
from kit.os_images import os_image
from kit.signing import Signatures, key_signature, write_key
from kit.world import World

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = "vendor.example/os:stable"


class Guarded:
    """A world with a policy. Images are signed by `KEY` as `NAME`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.policy = world.directory / "policy.json"
        world.config = Config(trust_policy=str(self.policy), trust_registries_d=str(world.directory / "stores"))
        self.key = write_key(KEY, world.directory / "vendor.pub")

    def demand(self, *requirements: dict[str, Any]) -> None:
        self.policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {
            "oci": {str(self.world.directory): list(requirements)}}}))

    def demand_signature(self) -> None:
        self.demand({"type": "sigstoreSigned", "keyPath": self.key, "signedIdentity": {
            "type": "exactReference", "dockerReference": NAME}})

    def sign(self, image: ImageBuilder, name: str = NAME) -> None:
        digest = image.manifest_digest
        write_layout(Signatures([key_signature(KEY, digest, name)]), self.world.directory / "layout")

    def stored(self) -> set[Path]:
        return {path for path in self.world.sysroot.rglob("*") if path.is_file() and "bootcd" not in path.parts}


def write_layout(signatures: Signatures, layout: Path) -> None:
    """Beside the images of a layout, under the tag that a registry would have."""
    for digest, data in (*signatures.blobs().items(), (signatures.manifest_digest, signatures.manifest_bytes)):
        (layout / "blobs" / digest.replace(":", "/")).write_bytes(data)
    index = json.loads((layout / "index.json").read_text())
    about = json.loads(signatures.signatures[0].payload)["critical"]["image"]["docker-manifest-digest"]
    index["manifests"].append({"mediaType": signatures.media_type, "digest": signatures.manifest_digest,
                               "size": len(signatures.manifest_bytes),
                               "annotations": {"org.opencontainers.image.ref.name": Signatures.tag(about)}})
    (layout / "index.json").write_text(json.dumps(index))


@pytest.fixture
def guarded(world: World) -> Guarded:
    return Guarded(world)


def test_a_signed_image_is_installed_and_says_by_whom(guarded: Guarded) -> None:
    world, image = guarded.world, os_image("1.0")
    world.publish(image)
    guarded.sign(image)
    guarded.demand_signature()
    info = world.host.install(world.image).deployment
    assert info is not None
    assert info.verification == "signed"
    assert info.policy == f'{guarded.policy}: transports.oci["{world.directory}"]'
    assert len(info.signed_by) == 1
    assert "vendor.pub" in info.signed_by[0]
    assert world.host.status().deployments[0].signed_by == info.signed_by


@pytest.mark.parametrize("ask", [
    lambda world: world.host.check(), lambda world: world.host.upgrade(),
    lambda world: world.host.upgrade(download_only=True), lambda world: world.host.switch(world.image),
    lambda world: world.host.image_pull(world.image),
], ids=["check", "upgrade", "download", "switch", "image pull"])
def test_whoever_asks_an_unsigned_image_is_refused_and_leaves_nothing(
    guarded: Guarded, ask: Callable[[World], object]
) -> None:
    world = guarded.world
    guarded.demand({"type": "insecureAcceptAnything"})
    assert world.install(os_image("1.0")).verification == "accepted"
    before = guarded.stored()
    guarded.demand_signature()
    world.publish(os_image("1.1"))
    with pytest.raises(SignatureMissing, match="sigstoreSigned") as caught:
        ask(world)
    assert str(guarded.policy) in str(caught.value)
    assert str(world.directory) in str(caught.value)
    assert guarded.stored() == before
    assert world.versions() == ["1.0"]


def test_the_reason_of_a_refusal_is_told(guarded: Guarded) -> None:
    world, image = guarded.world, os_image("1.0")
    world.publish(image)
    cases: list[tuple[Callable[[], None], type[BootcdError], str]] = [
        (lambda: guarded.demand({"type": "reject"}), PolicyRejected, "rejects every image"),
        (guarded.demand_signature, SignatureMissing, "there is none"),
        (lambda: guarded.sign(image, "other.example/os:1"), SignatureRejected, "other.example"),
        (lambda: guarded.demand({"type": "trustMe"}), TrustPolicyError, "trustMe"),
        (guarded.policy.unlink, TrustPolicyError, "cannot be read"),
    ]
    for prepare, kind, says in cases:
        prepare()
        with pytest.raises(kind, match=says):
            world.host.install(world.image)
    assert not world.host.status().deployments


def test_a_tag_that_moves_to_an_unsigned_image_is_not_followed(guarded: Guarded) -> None:
    world, image = guarded.world, os_image("1.0")
    world.publish(image)
    guarded.sign(image)
    guarded.demand_signature()
    first = world.host.install(world.image).deployment
    world.publish(os_image("1.1"))
    with pytest.raises(SignatureMissing):
        world.host.upgrade()
    assert world.host.status().deployments == (first,)


def test_verify_explains_and_takes_nothing(guarded: Guarded) -> None:
    world, image = guarded.world, os_image("1.0")
    guarded.demand({"type": "insecureAcceptAnything"})
    world.install(image)
    before = guarded.stored()
    guarded.demand_signature()
    report = world.host.image_verify(world.image)
    assert (report.accepted, report.verification, report.requirements[0].signatures) == (False, "rejected", ())
    guarded.sign(image, "other.example/os:1")
    (signature,) = world.host.image_verify(world.image).requirements[0].signatures
    assert "other.example" in signature.reason
    guarded.demand({"type": "insecureAcceptAnything"})
    assert world.host.image_verify(world.image).accepted
    assert guarded.stored() == before


def test_an_older_image_is_taken_only_when_asked_for(world: World) -> None:
    first = world.install(os_image("2.0"))
    world.publish(os_image("1.0"))
    assert "version 1.0" in world.host.check().rejected
    result = world.host.upgrade()
    assert result.outcome == "rejected"
    assert "--allow-downgrade" in result.message
    assert [one.id for one in world.host.status().deployments] == [first.id]
    update = world.host.status().update
    assert update is not None
    assert update.rejected == world.host.check().rejected
    assert world.host.upgrade(allow_downgrade=True).outcome == "deployed"
    assert world.versions() == ["1.0", "2.0"]


def test_a_machine_that_follows_a_digest_is_pinned_to_it(world: World) -> None:
    image = os_image("1.0")
    world.install(image)
    world.host.switch(f"oci:{world.directory}/layout@{image.manifest_digest}")
    world.publish(os_image("2.0"), "other")
    result = world.host.upgrade()
    assert result.outcome == "unchanged"
    assert "pinned to" in result.message
