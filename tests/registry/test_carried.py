# SPDX-License-Identifier: Apache-2.0
"""An image from a medium, taken as that of the reference that is followed: its policy, its name, its digest."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.errors import ImageNotFound, SignatureError
from bootcd.model import ImageReference
from bootcd.registry import trust
from bootcd.registry.carried import Carried
from bootcd.registry.judgement import Judgement
from kit import deltas, openpgp, registry_server
from kit.artifacts import ArtifactBuilder
from kit.deltas import DeltaBuilder
from kit.images import File, ImageBuilder, IndexBuilder, Layer
from kit.pulling import AMD64, FAST, IMAGE
from kit.push import push
from kit.registry_server import RegistryServer
from kit.signing import BUNDLE, Signature, Signatures, bundle, key_signature, statement, write_key
from kit.stores import StoreBuilder

KEY = ec.generate_private_key(ec.SECP256R1())
FOLLOWED = "registry.example/team/os:1"
OTHER = ImageBuilder([Layer(tar=bytes(2048))], platform=AMD64)
OLD, NEW = (ImageBuilder([Layer([File("a", text * 100)])], platform=AMD64) for text in (b"old", b"new"))


@pytest.fixture
def key(tmp_path: Path) -> str:
    return write_key(KEY, tmp_path / "key.pub")


def judge(tmp_path: Path, place: str, *requirements: dict[str, Any], followed: str = FOLLOWED,
          stores: str = "") -> Judgement:
    """What the policy says about the image in `place`; all but the followed reference is rejected."""
    reference = ImageReference.parse(followed)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}],
                                  "transports": {"docker": {reference.name: list(requirements)}}}))
    (tmp_path / "stores").mkdir(exist_ok=True)
    (tmp_path / "stores/all.yaml").write_text(stores or f"default-docker:\n  lookaside: file://{tmp_path}/lookaside\n")
    source = Carried(reference, ImageReference.parse(place), FAST)
    try:
        return trust.judge(trust.load(str(policy), str(tmp_path / "stores")), source, source.manifest(AMD64))
    finally:
        source.close()


def signed_layout(directory: Path, name: str = FOLLOWED, image: ImageBuilder = IMAGE) -> str:
    image.write_layout(directory, "1")
    Signatures([key_signature(KEY, image.manifest_digest, name)]).add_to(directory, image.manifest_digest)
    return f"oci:{directory}"


def as_file(signature: Signature, **changes: Any) -> bytes:
    """As skopeo keeps a sigstore signature in a file."""
    return b"\0sigstore-json\n" + json.dumps({
        "mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": base64.b64encode(signature.payload).decode(), "annotations": signature.annotations,
        **changes}).encode()


def copy(directory: Path, *signatures: bytes) -> str:
    directory.mkdir()
    (directory / "manifest.json").write_bytes(IMAGE.manifest_bytes)
    for digest, data in IMAGE.blobs().items():
        (directory / digest[7:]).write_bytes(data)
    for number, data in enumerate(signatures, 1):
        (directory / f"signature-{number}").write_bytes(data)
    return f"dir:{directory}"


def test_signatures_in_the_layout_count_by_the_name_that_is_followed(tmp_path: Path, key: str) -> None:
    demand = {"type": "sigstoreSigned", "keyPath": key}
    place = signed_layout(tmp_path / "layout")
    assert judge(tmp_path, place, demand).accepted
    assert judge(tmp_path, f"{place}:1", demand).accepted
    assert not judge(tmp_path, place, demand, followed="registry.example/team/other:1").accepted
    assert not judge(tmp_path, signed_layout(tmp_path / "other", "registry.example/team/os:2"), demand).accepted


def test_without_signatures_it_is_refused(tmp_path: Path, key: str) -> None:
    IMAGE.write_layout(tmp_path / "layout", "1")
    judgement = judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "sigstoreSigned", "keyPath": key})
    assert (judgement.accepted, judgement.outcomes[0].findings) == (False, ())
    assert judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "insecureAcceptAnything"}).accepted
    assert not judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "reject"}).accepted


def test_signatures_in_files_count(tmp_path: Path, key: str) -> None:
    demand = {"type": "sigstoreSigned", "keyPath": key}
    right = key_signature(KEY, IMAGE.manifest_digest, FOLLOWED)
    assert judge(tmp_path, copy(tmp_path / "a", as_file(right)), demand).accepted
    assert judge(tmp_path, copy(tmp_path / "b", b"\0other\n{}", b"", b"\xff", as_file(right)), demand).accepted
    for number, (data, says) in enumerate([
        (as_file(right, payload="!"), "payload is missing"), (as_file(right)[:-1], "payload is missing"),
        (as_file(right, payload=base64.b64encode(bytes(1 << 17)).decode()), "payload is missing"),
        (as_file(key_signature(KEY, OTHER.manifest_digest, FOLLOWED)), "for another image"),
        (as_file(key_signature(KEY, IMAGE.manifest_digest, "x.example/y:1")), "calls the image"),
        (as_file(key_signature(ec.generate_private_key(ec.SECP256R1()), IMAGE.manifest_digest, FOLLOWED)), "by a key"),
    ]):
        judgement = judge(tmp_path, copy(tmp_path / f"wrong-{number}", data), demand)
        assert not judgement.accepted
        assert says in judgement.outcomes[0].findings[0].reason
    with pytest.raises(SignatureError, match="more than 100 signatures"):
        judge(tmp_path, copy(tmp_path / "many", *[as_file(right)] * 300), demand)


def test_signatures_in_a_store_count(tmp_path: Path, key: str) -> None:
    store = StoreBuilder(tmp_path / "store", OTHER, "localhost/os:1")
    data = as_file(key_signature(KEY, OTHER.manifest_digest, FOLLOWED))
    store.put(f"signature-{OTHER.manifest_digest[7:]}", data)
    store.image["metadata"] = json.dumps({"signatures-sizes": {OTHER.manifest_digest: [len(data)]}})
    store.write()
    demand = {"type": "sigstoreSigned", "keyPath": key}
    assert judge(tmp_path, store.reference("localhost/os:1"), demand).accepted


def test_a_store_on_the_network_is_not_asked(tmp_path: Path) -> None:
    """Nobody listens there, and that would be an error."""
    stores = "default-docker:\n  lookaside: http://127.0.0.1:1/signatures\n"
    IMAGE.write_layout(tmp_path / "layout", "1")
    (tmp_path / "keys").write_bytes(b"\x99")
    judgement = judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "signedBy", "keyType": "GPGKeys",
                                                          "keyPath": str(tmp_path / "keys")}, stores=stores)
    assert (judgement.accepted, judgement.outcomes[0].findings) == (False, ())


def test_a_pin_of_the_followed_reference_holds(tmp_path: Path) -> None:
    OTHER.write_layout(tmp_path / "layout", "2")
    IMAGE.write_layout(tmp_path / "layout", "1")

    def digest(place: str, pin: str) -> str:
        source = Carried(ImageReference.parse(f"registry.example/os@{pin}"), ImageReference.parse(place), FAST)
        return source.manifest(AMD64).digest

    layout = f"oci:{tmp_path}/layout"
    assert digest(layout, IMAGE.manifest_digest) == IMAGE.manifest_digest
    assert digest(f"{layout}:1", IMAGE.manifest_digest) == IMAGE.manifest_digest
    with pytest.raises(ImageNotFound, match=f"pinned to its .* in {layout}:2 is {OTHER.manifest_digest}"):
        digest(f"{layout}:2", IMAGE.manifest_digest)
    with pytest.raises(ImageNotFound):
        digest(copy(tmp_path / "copy"), OTHER.manifest_digest)
    index = IndexBuilder([OTHER])
    index.write_layout(tmp_path / "many", "1")
    assert digest(f"oci:{tmp_path}/many", index.manifest_digest) == OTHER.manifest_digest
    assert digest(f"oci:{tmp_path}/many:1", OTHER.manifest_digest) == OTHER.manifest_digest


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A reference at a real registry that skopeo has signed with OpenPGP, and a directory with keys and signatures."""
    if not registry_server.available() or not openpgp.available() or shutil.which("skopeo") is None:
        pytest.skip("docker-registry, gpg, gpgv or skopeo is not installed")
    directory = tmp_path_factory.mktemp("signed")
    with RegistryServer(directory / "registry") as registry, openpgp.Keys(directory / "gpg") as keys:
        reference = f"{registry.address}/team/os:1"
        push(OTHER, reference)
        fingerprint = keys.make("team@example.com")
        (directory / "team.gpg").write_bytes(keys.public("team"))
        (directory / "stores").mkdir()
        (directory / "stores/all.yaml").write_text(f"default-docker:\n  lookaside: file://{directory}/lookaside\n")
        skopeo(directory, "--src-tls-verify=false", "--dest-tls-verify=false", "--sign-by", fingerprint,
               f"docker://{reference}", f"docker://{reference}", GNUPGHOME=str(keys.home))
        yield reference, directory


def skopeo(directory: Path, *words: str, **environment: str) -> None:
    done = subprocess.run(["skopeo", "--insecure-policy", "--registries.d", directory / "stores", "copy", *words],
                          check=False, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


def test_what_skopeo_has_signed_and_copied_is_accepted(signed: tuple[str, Path], tmp_path: Path) -> None:
    reference, directory = signed
    demand = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(directory / "team.gpg")}
    skopeo(directory, "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path}/copy")
    judgement = judge(tmp_path, f"dir:{tmp_path}/copy", demand, followed=reference)
    assert judgement.accepted
    assert judgement.signers[0].startswith("OpenPGP key")
    # A layout has no place for it, but a store of this machine may have it.
    skopeo(directory, "--src-tls-verify=false", "--remove-signatures", f"docker://{reference}",
           f"oci:{tmp_path}/layout")
    assert not judge(tmp_path, f"oci:{tmp_path}/layout", demand, followed=reference).accepted
    assert judge(tmp_path, f"oci:{tmp_path}/layout", demand, followed=reference,
                 stores=f"default-docker:\n  lookaside: file://{directory}/lookaside\n").accepted
    (tmp_path / "copy/signature-1").unlink()
    assert not judge(tmp_path, f"dir:{tmp_path}/copy", demand, followed=reference).accepted


def test_signatures_of_a_registry_come_along_in_a_layout(signed: tuple[str, Path], tmp_path: Path, key: str) -> None:
    """As bootcd-registries(5) has it."""
    reference, directory = signed
    signatures = Signatures([key_signature(KEY, OTHER.manifest_digest, reference)])
    tag, repository = Signatures.tag(OTHER.manifest_digest), reference.rpartition(":")[0]
    push(signatures, f"{repository}:{tag}")
    common = "--src-tls-verify=false", "--remove-signatures", "--preserve-digests"
    skopeo(directory, *common, f"docker://{reference}", f"oci:{tmp_path}/stick:stable")
    demand = {"type": "sigstoreSigned", "keyPath": key}
    assert not judge(tmp_path, f"oci:{tmp_path}/stick:stable", demand, followed=reference).accepted
    skopeo(directory, *common, f"docker://{repository}:{tag}", f"oci:{tmp_path}/stick:{tag}")
    for place in (f"oci:{tmp_path}/stick:stable", f"oci:{tmp_path}/stick"):
        assert judge(tmp_path, place, demand, followed=reference).accepted


class TestSignaturesInADelta:
    """They count as those beside an image do."""


    def signed(self, directory: Path, *groups: Signatures) -> str:
        DeltaBuilder(OLD, NEW, signatures=[
            (one.manifest_bytes, list(one.blobs().values())) for one in groups]).write_archive(directory / "delta")
        return f"oci-archive:{directory}/delta"

    def test_one_of_several_is_enough(self, tmp_path: Path, key: str) -> None:
        demand = {"type": "sigstoreSigned", "keyPath": key}
        right = key_signature(KEY, NEW.manifest_digest, FOLLOWED)
        wrong = key_signature(KEY, OTHER.manifest_digest, FOLLOWED)
        judgement = judge(tmp_path, self.signed(tmp_path, Signatures([wrong]), Signatures([right])), demand)
        assert judgement.accepted
        assert [bool(found.reason) for found in judgement.outcomes[0].findings] == [True, False]
        assert not judge(tmp_path, self.signed(tmp_path, Signatures([wrong])), demand).accepted
        assert not judge(tmp_path, self.signed(tmp_path, Signatures([right])), demand,
                         followed="registry.example/team/os:2").accepted

    def test_without_any_it_is_refused(self, tmp_path: Path, key: str) -> None:
        judgement = judge(tmp_path, self.signed(tmp_path), {"type": "sigstoreSigned", "keyPath": key})
        assert (judgement.accepted, judgement.outcomes[0].findings) == (False, ())

    def test_a_broken_one_does_not_hide_another(self, tmp_path: Path, key: str) -> None:
        right = Signatures([key_signature(KEY, NEW.manifest_digest, FOLLOWED)])
        builder = DeltaBuilder(OLD, NEW, signatures=[
            (b"{}", []), (right.manifest_bytes, list(right.blobs().values()))])
        builder.manifest["layers"].insert(0, {**builder.manifest["layers"][-4], "digest": "sha256:" + "0" * 64})
        builder.write_layout(tmp_path / "layout")
        assert judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "sigstoreSigned", "keyPath": key}).accepted

    def test_a_signature_of_the_delta_itself_is_none_of_the_image(self, tmp_path: Path, key: str) -> None:
        builder = DeltaBuilder(OLD, NEW)
        builder.write_layout(tmp_path / "layout")
        Signatures([key_signature(KEY, builder.manifest_digest, FOLLOWED)]).add_to(
            tmp_path / "layout", builder.manifest_digest)
        judgement = judge(tmp_path, f"oci:{tmp_path}/layout", {"type": "sigstoreSigned", "keyPath": key})
        assert not judgement.accepted

    def test_bundles_are_found(self, tmp_path: Path, key: str) -> None:
        """cosign 3 signs by an artifact about the image. It does not say what the image is called."""
        made = json.dumps(bundle(KEY, statement(NEW.manifest_digest))).encode()
        artifact = ArtifactBuilder(NEW, BUNDLE, ((BUNDLE, made, {}),))
        DeltaBuilder(OLD, NEW, signatures=[
            (artifact.manifest_bytes, list(artifact.blobs().values()))]).write_archive(tmp_path / "delta")
        judgement = judge(tmp_path, f"oci-archive:{tmp_path}/delta", {"type": "sigstoreSigned", "keyPath": key})
        assert "does not say what the image is called" in judgement.outcomes[0].findings[0].reason

    def test_a_pin_is_to_the_image(self, tmp_path: Path) -> None:
        place = ImageReference.parse(self.signed(tmp_path))
        for pin, found in ((NEW.manifest_digest, True), (OTHER.manifest_digest, False)):
            source = Carried(ImageReference.parse(f"registry.example/os@{pin}"), place, FAST)
            try:
                if found:
                    assert source.manifest(AMD64).digest == pin
                else:
                    with pytest.raises(ImageNotFound, match=f"no image {pin}"):
                        source.manifest(AMD64)
            finally:
                source.close()

    @pytest.mark.skipif(not deltas.available(), reason="oci-delta is not installed")
    def test_embedded_by_oci_delta(self, tmp_path: Path, key: str) -> None:
        one = Signatures([key_signature(KEY, NEW.manifest_digest, FOLLOWED)])
        layout = tmp_path / "signature"
        (layout / "blobs/sha256").mkdir(parents=True)
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (layout / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
        one.add_to(layout, NEW.manifest_digest)
        delta = deltas.oci_delta(tmp_path, OLD, NEW, f"oci:{layout}")
        demand = {"type": "sigstoreSigned", "keyPath": key}
        assert judge(tmp_path, f"oci-archive:{delta}", demand).accepted
        assert not judge(tmp_path, f"oci-archive:{delta}", demand, followed="registry.example/team/os:2").accepted
