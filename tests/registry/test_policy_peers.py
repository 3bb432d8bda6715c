# SPDX-License-Identifier: Apache-2.0
"""What skopeo accepts by a policy.json, we accept, and what it refuses, we refuse; and signatures of cosign count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.errors import BootcdError
from bootcd.model import ImageReference
from bootcd.registry import trust
from bootcd.registry.opening import open_source
from kit import openpgp, registry_server
from kit.images import ImageBuilder, Layer
from kit.pulling import AMD64, FAST
from kit.push import push
from kit.registry_server import RegistryServer
from kit.signing import Signatures, key_signature, write_key
from kit.sigstore_services import COSIGN, cosign_version

SKOPEO = shutil.which("skopeo")
VENDOR = "docker.io/vendor/os:1"

pytestmark = [
    pytest.mark.skipif(not registry_server.available(), reason="docker-registry is not installed"),
    pytest.mark.skipif(not openpgp.available(), reason="gpg or gpgv is not installed"),
]


class Peers:
    """A repository with differently signed images, and two who judge them by the same files."""

    def __init__(self, registry: RegistryServer, directory: Path) -> None:
        self.directory = directory
        self.repository = f"{registry.address}/team/os"
        self.stores = directory / "stores"
        self.stores.mkdir()
        (self.stores / "all.yaml").write_text(
            f"default-docker:\n  lookaside: file://{directory}/lookaside\n  use-sigstore-attachments: true\n")
        self.key, self.other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        write_key(self.key, directory / "key.pub")
        write_key(self.other, directory / "other.pub")
        self.digests: dict[str, str] = {}
        for number, tag in enumerate(("unsigned", "sigstore", "vendor", "bare", "moved", "gpg", "cosign")):
            image = ImageBuilder([Layer(tar=bytes([number]) * 1024)], platform=AMD64)
            self.digests[tag] = push(image, f"{self.repository}:{tag}").digest
        for tag, name in (("sigstore", f"{self.repository}:sigstore"), ("vendor", VENDOR), ("bare", self.repository),
                          ("moved", f"{self.repository}:elsewhere")):
            digest = self.digests[tag]
            push(Signatures([key_signature(self.key, digest, name)]),
                 f"{self.repository}:{Signatures.tag(digest)}")

    def policy(self, requirements: list[dict[str, Any]]) -> Path:
        path = self.directory / "policy.json"
        path.write_text(json.dumps({"default": [{"type": "reject"}],
                                    "transports": {"docker": {self.repository: requirements}}}))
        return path

    def ours(self, policy: Path, image: str, bundles: tuple[str, ...] = ()) -> bool:
        source = open_source(ImageReference.parse(image), FAST)
        try:
            loaded = trust.load(str(policy), str(self.stores), bundles)
            return trust.judge(loaded, source, source.manifest(AMD64)).accepted
        except BootcdError:
            return False
        finally:
            source.close()

    def skopeo(self, policy: Path, image: str) -> bool:
        assert SKOPEO is not None
        target = self.directory / "copy"
        shutil.rmtree(target, ignore_errors=True)
        done = subprocess.run([SKOPEO, "--policy", policy, "--registries.d", self.stores, "copy", "--remove-signatures",
                               "--src-tls-verify=false", f"docker://{image}", f"dir:{target}"],
                              check=False, capture_output=True, text=True)
        if "sigstore disabled" in done.stderr:
            pytest.skip("this skopeo was built without sigstore, as Debian 12 does")
        assert done.returncode == 0 or "rejected" in done.stderr or "policy" in done.stderr, done.stderr
        return done.returncode == 0


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    directory = tmp_path_factory.mktemp("peers")
    with RegistryServer(directory / "registry") as registry, openpgp.Keys(directory / "gpg") as keys:
        found = Peers(registry, directory)
        keys.make("reviewer@example.com")
        (directory / "reviewer.gpg").write_bytes(keys.public("reviewer"))
        team = keys.make("team@example.com")
        (directory / "team.gpg").write_bytes(keys.public("team", armored=True))
        if SKOPEO is not None:
            accept = directory / "accept.json"
            accept.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
            subprocess.run([SKOPEO, "--policy", accept, "--registries.d", found.stores, "copy", "--sign-by", team,
                            "--src-tls-verify=false", "--dest-tls-verify=false",
                            f"docker://{found.repository}:gpg", f"docker://{found.repository}:gpg"],
                           check=True, capture_output=True, env={**os.environ, "GNUPGHOME": str(keys.home)})
        yield found


def sigstore(**more: Any) -> dict[str, Any]:
    return {"type": "sigstoreSigned", "keyPath": "KEY", **more}


def signed_by(**more: Any) -> dict[str, Any]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "TEAM", **more}


REPOSITORY = {"signedIdentity": {"type": "matchRepository"}}
POLICIES: dict[str, list[dict[str, Any]]] = {
    "accept": [{"type": "insecureAcceptAnything"}],
    "reject": [{"type": "reject"}],
    "accept and reject": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
    "key": [sigstore()],
    "other key": [sigstore(keyPath="OTHER")],
    "exact": [sigstore(signedIdentity={"type": "matchExact"})],
    "repository": [sigstore(**REPOSITORY)],
    "vendor": [sigstore(signedIdentity={"type": "exactReference", "dockerReference": VENDOR})],
    "vendor's repository": [sigstore(signedIdentity={"type": "exactRepository", "dockerRepository": "vendor/os"})],
    "remapped": [sigstore(signedIdentity={"type": "remapIdentity", "prefix": "HERE", "signedPrefix": "docker.io/x"})],
    "two keys": [sigstore(), sigstore(keyPath="OTHER")],
    "gpg": [signed_by()],
    "gpg, repository": [signed_by(**REPOSITORY)],
    "gpg, other key": [signed_by(keyPath="REVIEWER")],
    "gpg and key": [signed_by(), sigstore()],
    "empty": [],
    "unknown type": [{"type": "trustMe"}],
    "unknown key": [{"type": "reject", "really": True}],
    "missing key": [sigstore(keyPath="/nonexistent")],
    "not a key": [sigstore(keyPath="TEAM")],
}


@pytest.mark.skipif(SKOPEO is None, reason="skopeo is not installed")
@pytest.mark.parametrize("policy", POLICIES)
def test_skopeo_says_the_same(peers: Peers, policy: str) -> None:
    places = {"KEY": "key.pub", "OTHER": "other.pub", "TEAM": "team.gpg", "REVIEWER": "reviewer.gpg"}
    text = json.dumps(POLICIES[policy]).replace("HERE", peers.repository)
    for word, name in places.items():
        text = text.replace(f'"{word}"', json.dumps(str(peers.directory / name)))
    path = peers.policy(json.loads(text))
    images = [f"{peers.repository}:{tag}" for tag in peers.digests if tag != "cosign"]
    images += [f"{peers.repository}@{peers.digests[tag]}" for tag in ("sigstore", "moved", "gpg", "unsigned")]
    assert {image: peers.ours(path, image) for image in images} == {
        image: peers.skopeo(path, image) for image in images}


@pytest.mark.skipif(cosign_version() != 2, reason="cosign 2 is not on PATH")
def test_a_signature_by_cosign_counts(peers: Peers) -> None:
    assert COSIGN is not None
    environment = {**os.environ, "COSIGN_PASSWORD": "", "HOME": str(peers.directory)}
    subprocess.run([COSIGN, "generate-key-pair", "--output-key-prefix", "real"], check=True, capture_output=True,
                   cwd=peers.directory, env=environment)
    image = f"{peers.repository}@{peers.digests['cosign']}"
    path = peers.policy([{"type": "sigstoreSigned", "keyPath": str(peers.directory / "real.pub"), **REPOSITORY}])
    assert not peers.ours(path, image)
    subprocess.run([COSIGN, "sign", "--key", "real.key", "--tlog-upload=false", "--allow-insecure-registry", "--yes",
                    image], check=True, capture_output=True, cwd=peers.directory, env=environment)
    assert peers.ours(path, image)
    assert peers.ours(path, f"{peers.repository}:cosign")
    assert not peers.ours(path, f"{peers.repository}:unsigned")


@pytest.mark.skipif(cosign_version() != 2, reason="cosign 2 is not on PATH")
def test_a_bundle_by_cosign_counts_where_bundles_do(peers: Peers) -> None:
    assert COSIGN is not None
    environment = {**os.environ, "COSIGN_PASSWORD": "", "HOME": str(peers.directory)}
    subprocess.run([COSIGN, "generate-key-pair", "--output-key-prefix", "newer"], check=True, capture_output=True,
                   cwd=peers.directory, env=environment)
    image = f"{peers.repository}@{peers.digests['unsigned']}"
    path = peers.policy([{"type": "sigstoreSigned", "keyPath": str(peers.directory / "newer.pub")}])
    subprocess.run([COSIGN, "sign", "--key", "newer.key", "--tlog-upload=false", "--allow-insecure-registry", "--yes",
                    "--new-bundle-format", image], check=True, capture_output=True, cwd=peers.directory,
                   env=environment)
    assert not peers.ours(path, image)
    assert peers.ours(path, image, (peers.repository,))
    assert not peers.ours(path, f"{peers.repository}:vendor", (peers.repository,))
