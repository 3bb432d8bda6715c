# SPDX-License-Identifier: Apache-2.0
"""Digests that images state, by the keys of composefs-rs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bootcd.errors import OciError
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.oci import Manifest
from bootcd.formats.sealing import Role, Stated, key, of_artifact, of_image
from kit.images import ImageBuilder

D256, D512 = "ab" * 32, "cd" * 64


def manifest(top: dict[str, str], config: dict[str, str], layer: dict[str, str] | None = None) -> Manifest:
    document: dict[str, Any] = ImageBuilder([]).manifest
    document["annotations"] = top
    document["config"]["annotations"] = config
    document["layers"] = [{"mediaType": "x/y", "digest": f"sha256:{D256}", "size": 0, "annotations": layer or {}}]
    return Manifest.parse(json.dumps(document).encode())


def test_keys() -> None:
    assert [key(role, Algorithm.SHA512) for role in Role] == [
        "composefs.manifest.fsverity-sha512-12", "composefs.config.fsverity-sha512-12",
        "composefs.merged.erofs.v1.fsverity-sha512-12", "composefs.merged.bootable.erofs.v1.fsverity-sha512-12"]


def test_what_an_image_states_stands_where_it_belongs() -> None:
    found = of_image(manifest({
        "composefs.merged.erofs.v1.fsverity-sha256-12": D256,
        "composefs.merged.bootable.erofs.v1.fsverity-sha512-12": D512,
        "composefs.manifest.fsverity-sha256-12": D256, "composefs.config.fsverity-sha256-12": D256, "other": "x",
    }, {"composefs.config.fsverity-sha512-12": D512, "composefs.merged.erofs.v1.fsverity-sha256-12": D256}))
    assert [(one.role, one.algorithm.label, one.digest.hex()) for one in found] == [
        (Role.CONFIG, "sha512", D512), (Role.MERGED, "sha256", D256), (Role.BOOTABLE, "sha512", D512)]
    assert found[0].origin == "the annotations of its config"


def test_what_an_artifact_states() -> None:
    found = of_artifact(manifest({}, {}, {"composefs.manifest.fsverity-sha256-12": D256}), "it")
    assert found == (Stated(Role.MANIFEST, Algorithm.SHA256, bytes.fromhex(D256), "it"),)


@pytest.mark.parametrize("name", [
    "composefs.merged.erofs.v1.fsverity-sha512-16", "composefs.merged.erofs.v2.fsverity-sha512-12",
    "composefs.merged.erofs.v1.fsverity-sha512-12.sig", "composefs.merged.fsverity-sha512-12",
    "composefs.config.erofs.v1.fsverity-sha512-12", "composefs.layer.erofs.v1.fsverity-sha512-12", "composefs.merged",
])
def test_what_is_not_known_is_passed_over(name: str) -> None:
    assert of_image(manifest({name: "anything"}, {name: "anything"})) == ()


@pytest.mark.parametrize("value", ["", D256, D512.upper(), D512[:-1] + "g", f" {D512}"],
                         ids=["empty", "short", "upper-case", "no-hex", "space"])
def test_what_is_no_digest_is_an_error(value: str) -> None:
    with pytest.raises(OciError, match=r"its config: composefs\.config\.fsverity-sha512-12: .* is no digest"):
        of_image(manifest({}, {"composefs.config.fsverity-sha512-12": value}))
