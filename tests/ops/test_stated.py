# SPDX-License-Identifier: Apache-2.0
"""Digests are stated by one end and checked by the other: in annotations, in artifacts, of every part of an image."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootcd.errors import NotBootable, OciError, StatedDigestMismatch, UsageError
from bootcd.formats import sealing
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.model import SilentProgress
from bootcd.ops.adddigests import add_digests
from bootcd.ops.direct import DirectHost
from bootcd.ops.fromrootfs import from_rootfs
from kit.artifacts import ArtifactBuilder, serve_list
from kit.images import Dir, File, ImageBuilder, IndexBuilder, Layer, sha256, to_json
from kit.os_images import os_image
from kit.pulling import serve_image
from kit.rootfs import clean_rootfs
from kit.scripted_server import Reply, ScriptedServer
from kit.world import World

MERGED = sealing.key(sealing.Role.MERGED, Algorithm.SHA512)
BOOTABLE = sealing.key(sealing.Role.BOOTABLE, Algorithm.SHA512)
CONFIG = sealing.key(sealing.Role.CONFIG, Algorithm.SHA512)
MANIFEST = sealing.key(sealing.Role.MANIFEST, Algorithm.SHA512)
WRONG = "ab" * 64


@pytest.fixture
def world(tmp_path: Path) -> World:
    """1.0 is installed, and 1.1 is published, without a word about its digests."""
    world = World(tmp_path, lambda it: DirectHost(it.sysroot, it.esp, it.config, SilentProgress()), tmp_path)
    world.install(os_image("1.0"))
    world.publish(os_image("1.1"))
    return world


def change(world: World, edit: Callable[[dict[str, Any]], object]) -> None:
    """Publish the manifest that `latest` names with a change."""
    layout = world.directory / "layout"
    index = json.loads((layout / "index.json").read_text())
    (entry,) = (one for one in index["manifests"] if one.get("annotations"))
    manifest = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_text())
    edit(manifest)
    data = to_json(manifest)
    (layout / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
    entry.update(digest=sha256(data), size=len(data))
    (layout / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("way", ["annotations", "artifact"])
def test_what_is_stated_is_what_a_machine_computes(world: World, way: str) -> None:
    before = world.directory / "layout/index.json"
    entries = len(json.loads(before.read_text())["manifests"])
    added = add_digests(world.image, way=way)
    after = json.loads(before.read_text())["manifests"]
    assert len(after) == entries + (way == "artifact")
    assert (added.artifact_digest != "") == (way == "artifact")
    assert add_digests(world.image, way=way) == added, "it is stated once, however often"
    assert json.loads(before.read_text())["manifests"] == after
    deployment = world.host.upgrade().deployment
    assert deployment is not None
    assert (deployment.version, deployment.id, deployment.manifest_digest) == (
        "1.1", added.bootable, added.manifest_digest)
    pulled = world.host.image_pull(world.image, name="plain").image
    assert pulled.id == added.merged


@pytest.mark.parametrize("way", ["annotations", "artifact"])
def test_a_made_image_states_its_digests(tmp_path: Path, way: str) -> None:
    root = clean_rootfs(tmp_path / "root")
    options: dict[str, Any] = {"labels": {}, "created": "2025-01-01T00:00:00Z"}
    made = from_rootfs(str(root), f"oci:{tmp_path}/one:v1", way=way, **options)
    from_rootfs(str(root), f"oci:{tmp_path}/two:v1", **options)
    added = add_digests(f"oci:{tmp_path}/two:v1", way=way)
    assert (made.manifest_digest, made.artifact_digest, made.digest) == (
        added.manifest_digest, added.artifact_digest, added.bootable)


@pytest.mark.parametrize(("name", "place", "said"), [
    (CONFIG, "config", "its config has the digest .{12}, and not abababababab as in the annotations of its config"),
    (MERGED, "", "its tree has the digest .{12}, and not abababababab as in the annotations of the image"),
    (BOOTABLE, "", "its bootable tree has the digest .{12}, and not abababababab as in the annotations of the image"),
], ids=["config", "merged", "bootable"])
def test_an_annotation_that_disagrees(world: World, name: str, place: str, said: str) -> None:
    add_digests(world.image, way="annotations")
    change(world, lambda manifest: (manifest[place] if place else manifest)["annotations"].update({name: WRONG}))
    with pytest.raises(StatedDigestMismatch, match=said):
        world.host.upgrade()
    assert [info.version for info in world.host.status().deployments] == ["1.0"]
    with pytest.raises(StatedDigestMismatch, match=said):
        world.host.image_pull(world.image, name="x", bootable=True)
    if place:
        with pytest.raises(StatedDigestMismatch, match=said):
            world.host.check()
    assert add_digests(world.image, way="annotations").bootable != WRONG
    assert world.host.upgrade().outcome == "deployed"


def test_what_cannot_be_compared_keeps_nothing_out(world: World) -> None:
    """Digests by another hash than that of the repository; and of a tree that boots, where it shall not."""
    other = sealing.key(sealing.Role.MERGED, Algorithm.SHA256)
    change(world, lambda manifest: manifest.update(annotations={other: "ab" * 32, BOOTABLE: WRONG}))
    world.host.image_pull(world.image, name="plain")
    change(world, lambda manifest: manifest.update(annotations={other: "ab" * 32}))
    assert world.host.upgrade().outcome == "deployed"


def test_an_annotation_that_is_no_digest(world: World) -> None:
    change(world, lambda manifest: manifest.update(annotations={MERGED: "abc"}))
    with pytest.raises(OciError, match=r"the annotations of the image: .*\"abc\" is no digest"):
        world.host.upgrade()


# --- artifacts at a registry ------------------------------------------------------------------------------------------


def artifact(image: ImageBuilder, annotations: dict[str, str]) -> ArtifactBuilder:
    return ArtifactBuilder(image, sealing.ARTIFACT, [(sealing.SIGNATURE, b"", {name: value})
                                                     for name, value in annotations.items()])


def test_an_artifact_at_a_registry(world: World, caplog: pytest.LogCaptureFixture) -> None:
    image = os_image("1.1")
    added = add_digests(world.image, way="artifact")
    right = {MANIFEST: measure(image.manifest_bytes, Algorithm.SHA512).hex(), MERGED: added.merged,
             BOOTABLE: added.bootable}
    with ScriptedServer() as server:
        serve_image(server, image)

        def switch() -> str:
            return world.host.switch(f"docker://{server.host}/os:1", download_only=True).outcome

        for name in right:
            serve_list(server, image, artifact(image, right), artifact(image, {name: WRONG}))
            with pytest.raises(StatedDigestMismatch, match="and not abababababab as in the artifact sha256:"):
                switch()
        serve_list(server, image, artifact(image, right), artifact(image, {MERGED: "no digest"}))
        server.serve(f"/v2/os/referrers/{image.manifest_digest}", Reply(418))
        with caplog.at_level(logging.INFO):
            assert switch() == "staged", "that none can be found does not matter"
        assert "artifacts with digests are not looked at" in caplog.text


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["dir:/x", "oci-archive:/x", "docker://quay.io/a/b", f"oci:/x@sha256:{'0' * 64}"],
                         ids=["dir", "archive", "registry", "digest"])
def test_other_places(target: str) -> None:
    with pytest.raises(UsageError, match="is no image in a layout"):
        add_digests(target, way="annotations")


def test_an_index_is_annotated_by_an_artifact_only(tmp_path: Path) -> None:
    image = os_image("1.0")
    IndexBuilder([image]).write_layout(tmp_path, "v1")
    with pytest.raises(UsageError, match="is an index"):
        add_digests(f"oci:{tmp_path}:v1", way="annotations")
    assert add_digests(f"oci:{tmp_path}:v1", way="artifact").manifest_digest == image.manifest_digest


def test_an_image_that_does_not_boot(tmp_path: Path) -> None:
    ImageBuilder([Layer([File("usr", b"")])]).write_layout(tmp_path / "none", "v1")
    with pytest.raises(NotBootable):
        add_digests(f"oci:{tmp_path}/none:v1", way="annotations")
    ImageBuilder([Layer([Dir("usr")])]).write_layout(tmp_path / "plain", "v1")
    added = add_digests(f"oci:{tmp_path}/plain:v1", way="annotations")
    assert added.bootable == ""
    assert added.merged
