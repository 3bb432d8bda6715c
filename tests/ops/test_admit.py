# SPDX-License-Identifier: Apache-2.0
"""The order in which a registry is asked: the tag once, then the signatures, then what was let in, by its digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.config import Config
from bootcd.errors import SignatureRejected
from bootcd.model import Platform, SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.store.repository import Repository
from kit.images import Dir, ImageBuilder, Layer
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.signing import Signatures, key_signature, write_key

pytestmark = pytest.mark.skipif(not available(), reason="docker-registry is not installed")

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def test_nothing_but_signatures_is_fetched_before_the_gate(tmp_path: Path) -> None:
    image = ImageBuilder([Layer([Dir("usr")])], platform=Platform.current())
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "sigstoreSigned",
                                               "keyPath": write_key(KEY, tmp_path / "key.pub")}]}))
    sysroot = tmp_path / "sysroot"
    Repository.init(sysroot / "composefs").close()
    config = Config(trust_policy=str(policy), trust_registries_d=str(tmp_path / "none"))
    host = DirectHost(sysroot, None, config, SilentProgress())
    with RegistryServer(tmp_path / "registry") as registry:
        name = f"{registry.address}/team/os:1"
        digest = push(image, name).digest
        signatures = {key: Signatures([key_signature(key, digest, name)]) for key in (KEY, OTHER)}
        tag = Signatures.tag(digest)

        push(signatures[OTHER], f"{registry.address}/team/os:{tag}")
        before = len(registry.requests())
        with pytest.raises(SignatureRejected, match="not made by a key"):
            host.image_pull(name)
        assert asked(registry, before) == ["manifests/1", f"manifests/{tag}", *payloads(signatures[OTHER])]

        push(signatures[KEY], f"{registry.address}/team/os:{tag}")
        before = len(registry.requests())
        host.image_pull(name)
        # What is attached to the image can take it out again, so it is asked for before the layers.
        attached = [f"referrers/{digest}?artifactType=application%2Fvnd.composefs.metadata.v1",
                    f"manifests/{digest.replace(':', '-')}"]
        config, *layers = (f"blobs/{one['digest']}" for one in (image.manifest["config"], *image.manifest["layers"]))
        assert asked(registry, before) == [
            "manifests/1", f"manifests/{tag}", *payloads(signatures[KEY]), config, *attached, *layers]



def asked(registry: RegistryServer, since: int) -> list[str]:
    return [line.split("/team/os/")[1] for line in registry.requests()[since:] if "/team/os/" in line]


def payloads(signatures: Signatures) -> list[str]:
    return [f"blobs/{layer['digest']}" for layer in json.loads(signatures.manifest_bytes)["layers"]]
