# SPDX-License-Identifier: Apache-2.0
"""What cosign 3 signs counts, with a log of Rekor 2 and time stamps of openssl, and is refused without them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from bootcd.model import ImageReference
from bootcd.registry import trust
from bootcd.registry.judgement import Judgement
from bootcd.registry.opening import open_source
from kit import registry_server, sigstore_services
from kit.images import ImageBuilder, Layer
from kit.pulling import AMD64, FAST
from kit.push import push
from kit.registry_server import RegistryServer
from kit.signing import EMAIL, ISSUER, PrivateKey, write_key
from kit.sigstore_services import COSIGN, SigstoreServices

pytestmark = [
    pytest.mark.skipif(not registry_server.available(), reason="docker-registry is not installed"),
    pytest.mark.skipif(not sigstore_services.available(), reason="cosign 3 or rekor-server-posix is not on PATH"),
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as running:
        yield running


def judge(directory: Path, repository: str, times: str, **requirement: Any) -> Judgement:
    (directory / "policy.json").write_text(json.dumps({"default": [{"type": "sigstoreSigned", **requirement}]}))
    source = open_source(ImageReference.parse(f"{repository}:1"), FAST)
    try:
        loaded = trust.load(str(directory / "policy.json"), str(directory / "none"), (repository,), times)
        return trust.judge(loaded, source, source.manifest(AMD64))
    finally:
        source.close()


@pytest.mark.parametrize("log_key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())],
                         ids=["ed25519", "ecdsa"])
def test_by_a_key_and_by_somebody_who_logged_in(registry: RegistryServer, tmp_path: Path, log_key: PrivateKey) -> None:
    assert COSIGN is not None
    repository = f"{registry.address}/team/os"
    environment = {**os.environ, "COSIGN_PASSWORD": "", "HOME": str(tmp_path)}
    log = {"rekorPublicKeyPath": write_key(log_key, tmp_path / "log.pub")}
    with SigstoreServices(tmp_path / "sigstore", log_key) as services:
        def sign(image: ImageBuilder, *options: str) -> None:
            digest = push(image, f"{repository}:1").digest
            subprocess.run([COSIGN, "sign", *services.options(), *options, "--allow-http-registry", "--yes",
                            f"{repository}@{digest}"], check=True, capture_output=True, cwd=tmp_path, env=environment)

        subprocess.run([COSIGN, "generate-key-pair"], check=True, capture_output=True, cwd=tmp_path, env=environment)
        sign(ImageBuilder([Layer(tar=bytes(1024))], platform=AMD64), "--key", "cosign.key")
        keyed = {"keyPath": str(tmp_path / "cosign.pub"), **log}
        (signer,) = judge(tmp_path, repository, "", **keyed).signers
        assert signer.endswith(f", logged as entry 0 of log.example, with the key of {tmp_path}/log.pub")
        sign(ImageBuilder([Layer(tar=bytes(2048))], platform=AMD64), "--identity-token", services.token())
        (tmp_path / "ca.pem").write_bytes(b"".join(
            one.public_bytes(Encoding.PEM) for one in (services.fulcio.middle, services.fulcio.root)))
        (tmp_path / "times.pem").write_bytes(b"".join(
            (services.times.directory / name).read_bytes() for name in ("own.pem", "ca.pem")))
        keyless = {"fulcio": {"caPath": str(tmp_path / "ca.pem"), "oidcIssuer": ISSUER, "subjectEmail": EMAIL}, **log}
        (signer,) = judge(tmp_path, repository, str(tmp_path / "times.pem"), **keyless).signers
        assert signer.startswith(f"{EMAIL} by {ISSUER}, logged as entry 1 of log.example, with the key of ")
        assert signer.endswith(" by own")
        for requirement in (keyed, keyless):
            assert not judge(tmp_path, repository, "", **requirement).accepted
