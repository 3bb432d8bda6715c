# SPDX-License-Identifier: Apache-2.0
"""Images in a real registry, their signatures, and what policies make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bootcd.errors import OciError, TrustPolicyError
from bootcd.model import ImageReference
from bootcd.registry import judgement, trust
from bootcd.registry.judgement import Judgement
from bootcd.registry.opening import open_source
from bootcd.registry.sigstore import MAX_SIGNATURES
from kit.images import ImageBuilder, IndexBuilder, Layer
from kit.pulling import AMD64, ARM64, FAST
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.signing import EMAIL, ISSUER, NOW, Fulcio, PrivateKey, Rekor, Signature, Signatures, key_signature, write_key

pytestmark = pytest.mark.skipif(not available(), reason="docker-registry is not installed")

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
REKOR, FULCIO = Rekor(), Fulcio()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


class Images:
    """Images in a repository of their own, and the policy about them."""

    def __init__(self, registry: RegistryServer, directory: Path, name: str) -> None:
        self.directory = directory
        self.repository = f"{registry.address}/{name}"
        self.image = f"{self.repository}:1"
        self.built = ImageBuilder([Layer(tar=name.encode().ljust(1024, b"\0"))], platform=AMD64)
        self.digest = push(self.built, self.image).digest
        (directory / "stores").mkdir()

    def attach(self, *signatures: Signature, digest: str = "", **changes: Any) -> None:
        artifact = replace(Signatures(signatures), **changes)
        push(artifact, f"{self.repository}:{artifact.tag(digest or self.digest)}")

    def by(self, key: PrivateKey = KEY, name: str = "", digest: str = "", rekor: Rekor | None = None) -> Signature:
        return key_signature(key, digest or self.digest, name or self.image, rekor)

    def judge(self, *requirements: dict[str, Any], image: str = "") -> Judgement:
        policy = self.directory / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {
            self.repository: list(requirements)}}}))
        source = open_source(ImageReference.parse(image or self.image), FAST)
        try:
            loaded = trust.load(str(policy), str(self.directory / "stores"))
            return trust.judge(loaded, source, source.manifest(AMD64))
        finally:
            source.close()

    def keyed(self, *keys: PrivateKey, **more: Any) -> dict[str, Any]:
        paths = [write_key(key, self.directory / f"{number}.pub") for number, key in enumerate(keys or (KEY,))]
        return {"type": "sigstoreSigned", "keyPaths": paths, **more}

    def keyless(self, **changes: str) -> dict[str, Any]:
        authority = self.directory / "ca.pem"
        authority.write_bytes(FULCIO.pem())
        return {"type": "sigstoreSigned", "rekorPublicKeyPath": write_key(REKOR.key, self.directory / "rekor.pub"),
                "fulcio": {"caPath": str(authority), "oidcIssuer": ISSUER, "subjectEmail": EMAIL, **changes}}


@pytest.fixture
def images(registry: RegistryServer, tmp_path: Path, request: pytest.FixtureRequest) -> Images:
    name = "".join(char for char in request.node.name.lower() if char.isalnum())
    return Images(registry, tmp_path, f"t/{name[:90]}")


def reasons(judgement: Judgement) -> str:
    assert not judgement.accepted
    return "; ".join(finding.reason for outcome in judgement.outcomes for finding in outcome.findings)


@pytest.mark.parametrize("key", [
    KEY, ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
], ids=["p256", "p384", "ed25519", "rsa"])
def test_a_signature_by_a_key_of_the_policy_counts(images: Images, key: PrivateKey) -> None:
    images.attach(images.by(key))
    judgement = images.judge(images.keyed(OTHER, key))
    assert judgement.accepted
    assert judgement.scope == f'transports.docker["{images.repository}"]'
    (signer,) = judgement.signers
    assert signer.startswith("sigstore key ")
    assert "1.pub" in signer


def test_without_a_signature_nothing_is_accepted(images: Images) -> None:
    judgement = images.judge(images.keyed())
    assert not judgement.accepted
    assert judgement.outcomes[0].findings == ()


def test_one_good_signature_among_others_is_enough(images: Images) -> None:
    images.attach(images.by(OTHER), Signature(b"{}", {}), images.by())
    judgement = images.judge(images.keyed())
    assert judgement.accepted
    assert [bool(finding.reason) for finding in judgement.outcomes[0].findings] == [True, True, False]


@pytest.mark.parametrize(("change", "says"), [
    ({"key": OTHER}, "not made by a key"),
    ({"digest": "sha256:" + "a" * 64}, "for another image"),
    ({"name": "quay.io/team/os:1"}, "matchRepoDigestOrExact"),
], ids=["key", "image", "name"])
def test_a_signature_that_is_about_something_else_does_not_count(
    images: Images, change: dict[str, Any], says: str
) -> None:
    images.attach(images.by(**change))
    assert says in reasons(images.judge(images.keyed()))


def test_payloads_are_bounded_and_must_be_what_was_signed(images: Images) -> None:
    good = images.by()
    images.attach(replace(good, payload=good.payload + b" "), replace(good, payload=bytes(1 << 20)))
    found = reasons(images.judge(images.keyed()))
    assert "not made by a key" in found
    assert "larger than" in found


def test_a_thousand_signatures_are_refused_unread(images: Images, registry: RegistryServer) -> None:
    images.attach(*[Signature(b"%d" % number, {}) for number in range(MAX_SIGNATURES + 1)])
    before = len(registry.requests())
    with pytest.raises(OciError, match="more than 100"):
        images.judge(images.keyed())
    assert not [line for line in registry.requests()[before:] if "/blobs/" in line]


def test_every_requirement_must_hold(images: Images) -> None:
    images.attach(images.by())
    assert images.judge(images.keyed(), {"type": "insecureAcceptAnything"}).accepted
    assert not images.judge(images.keyed(), images.keyed(OTHER)).accepted
    assert not images.judge(images.keyed(KEY), {"type": "reject"}).accepted


def test_the_signature_of_an_index_is_one_of_all_its_images(images: Images) -> None:
    index = IndexBuilder([images.built, ImageBuilder([Layer(tar=bytes(1024))], platform=ARM64)])
    digest = push(index, f"{images.repository}:many").digest
    name = f"{images.repository}:many"
    assert not images.judge(images.keyed(), image=name).accepted
    images.attach(images.by(digest=digest, name=name), digest=digest)
    assert images.judge(images.keyed(), image=name).accepted


def test_cosign_says_only_the_repository(images: Images) -> None:
    images.attach(images.by(name=images.repository))
    assert not images.judge(images.keyed()).accepted
    assert images.judge(images.keyed(signedIdentity={"type": "matchRepository"})).accepted
    assert images.judge(images.keyed(), image=f"{images.repository}@{images.digest}").accepted


def test_attachments_can_be_turned_off_for_a_scope(images: Images) -> None:
    images.attach(images.by())
    stores = images.directory / "stores" / "a.yaml"
    stores.write_text(f"docker:\n  {images.repository}:\n    use-sigstore-attachments: false\n")
    assert images.judge(images.keyed()).outcomes[0].findings == ()


def test_a_key_can_be_asked_to_be_logged(images: Images) -> None:
    logged = {"rekorPublicKeyPath": write_key(REKOR.key, images.directory / "rekor.pub")}
    images.attach(images.by(rekor=REKOR))
    assert images.judge(images.keyed(**logged)).accepted
    images.attach(images.by())
    assert "no annotation dev.sigstore.cosign/bundle" in reasons(images.judge(images.keyed(**logged)))
    images.attach(images.by(rekor=Rekor()))
    assert "not made by a log" in reasons(images.judge(images.keyed(**logged)))
    borrowed = replace(images.by(), annotations={
        **images.by().annotations, "dev.sigstore.cosign/bundle": images.by(rekor=REKOR).annotations[
            "dev.sigstore.cosign/bundle"]})
    images.attach(borrowed)
    assert "about another signature" in reasons(images.judge(images.keyed(**logged)))


def test_an_identity_counts_by_its_certificate_and_the_log(images: Images) -> None:
    images.attach(FULCIO.signature(images.digest, images.image, REKOR))
    judgement = images.judge(images.keyless())
    assert judgement.accepted
    assert judgement.signers == (
        f"{EMAIL} by {ISSUER}, logged 2023-11-14T22:13:20+00:00 in a log with the key of {images.directory}/rekor.pub",)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@pytest.mark.parametrize(("change", "says"), [
    ({"email": "other@example.com"}, "is for other@example.com"),
    ({"issuer": "https://evil.example"}, "logged in at https://evil.example"),
    ({"time": NOW + 3600}, "was used at"),
    ({"usage": x509.ExtendedKeyUsageOID.SERVER_AUTH}, "not for signing code"),
    ({"more": [(UNKNOWN, True)]}, "not understood"),
    ({"rekor": Rekor()}, "not made by a log"),
], ids=["email", "issuer", "expired", "usage", "critical", "log"])
def test_an_identity_that_is_not_quite_right_does_not_count(images: Images, change: dict[str, Any], says: str) -> None:
    images.attach(FULCIO.signature(images.digest, images.image, **{"rekor": REKOR, **change}))
    assert says in reasons(images.judge(images.keyless()))


def test_a_certificate_of_another_authority_does_not_count(images: Images) -> None:
    images.attach(Fulcio().signature(images.digest, images.image, REKOR))
    assert "does not come from the authority" in reasons(images.judge(images.keyless()))


def test_a_key_that_cannot_be_used_refuses_everything(images: Images) -> None:
    images.attach(images.by())
    two = images.directory / "two.pub"
    two.write_bytes((images.directory / "0.pub").read_bytes() * 2 if images.keyed() else b"")
    for path, says in ((str(two), "more than one key"), ("/nonexistent", "cannot be read"), ("/dev/null", "no public")):
        with pytest.raises(TrustPolicyError, match=says):
            images.judge({"type": "sigstoreSigned", "keyPath": path})


def test_without_a_policy_file_everything_is_accepted_as_unverified(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgement, "POLICIES", (images.directory / "none.json",))
    assert trust.load() == trust.Trust()
    with pytest.raises(TrustPolicyError, match="cannot be read"):
        trust.load(str(images.directory / "none.json"))
