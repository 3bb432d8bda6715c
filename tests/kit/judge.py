# SPDX-License-Identifier: Apache-2.0
"""Images with bundles of sigstore, and policies about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.model import ImageReference
from bootcd.registry import trust
from bootcd.registry.judgement import Judgement
from bootcd.registry.opening import open_source
from kit.artifacts import ArtifactBuilder, serve_list
from kit.images import to_json
from kit.pulling import AMD64, FAST, IMAGE
from kit.scripted_server import ScriptedServer
from kit.signing import BUNDLE, EMAIL, ISSUER, Fulcio, PrivateKey, Rekor, write_key

KEY = ec.generate_private_key(ec.SECP256R1())
REKOR, FULCIO = Rekor(), Fulcio()


class HasKey(Protocol):
    """A log."""

    @property
    def key(self) -> PrivateKey: ...


class Judge:
    """A server with the image, and a policy about it."""

    def __init__(self, server: ScriptedServer, directory: Path) -> None:
        self.server = server
        self.directory = directory

    def attach(self, *found: Any) -> None:
        serve_list(self.server, IMAGE, *(ArtifactBuilder(IMAGE, BUNDLE, [
            (BUNDLE, one if isinstance(one, bytes) else to_json(one), {})]) for one in found))

    def __call__(self, bundles: tuple[str, ...] | None = None, times: str = "", **more: Any) -> Judgement:
        """By the key of the policy, unless told otherwise; where bundles count, unless told otherwise. Time stamps
        count whose authority is in the file `times`."""
        requirement = {"type": "sigstoreSigned", **(more or {"keyPath": write_key(KEY, self.directory / "key.pub")})}
        policy = self.directory / "policy.json"
        policy.write_text(json.dumps({"default": [requirement]}))
        source = open_source(ImageReference.parse(f"{self.server.host}/os:1"), FAST)
        try:
            loaded = trust.load(str(policy), str(self.directory), (f"{self.server.host}/os",) if bundles is None
                                else bundles, times)
            return trust.judge(loaded, source, source.manifest(AMD64))
        finally:
            source.close()

    def reasons(self, **more: Any) -> str:
        judgement = self(**more)
        assert not judgement.accepted
        return "; ".join(finding.reason for outcome in judgement.outcomes for finding in outcome.findings)

    def logged(self, *logs: HasKey) -> dict[str, Any]:
        """The part of a requirement that names logs."""
        return {"rekorPublicKeyPaths": [write_key(log.key, self.directory / f"log-{number}.pub")
                                        for number, log in enumerate(logs)]}

    def keyed(self, *logs: HasKey) -> dict[str, Any]:
        return {"keyPath": write_key(KEY, self.directory / "key.pub"), **self.logged(*logs)}

    def keyless(self, *logs: HasKey, **changes: str) -> dict[str, Any]:
        """Such a bundle brings nothing that is between a certificate and the root: the policy has to know it."""
        authority = self.directory / "ca.pem"
        authority.write_bytes(FULCIO.pem() + FULCIO.middle.public_bytes(serialization.Encoding.PEM))
        return {**self.logged(*(logs or (REKOR,))),
                "fulcio": {"caPath": str(authority), "oidcIssuer": ISSUER, "subjectEmail": EMAIL, **changes}}
