# SPDX-License-Identifier: Apache-2.0
"""Signatures as cosign 3 attaches them, and for which images they count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from bootcd.errors import OciError, SourceUnreachable
from kit.artifacts import ArtifactBuilder, serve
from kit.images import sha256, to_json
from kit.judge import FULCIO, KEY, REKOR, Judge
from kit.pulling import IMAGE, serve_image
from kit.scripted_server import Reply, ScriptedServer
from kit.signing import (
    BUNDLE,
    EMAIL,
    ISSUER,
    Signatures,
    bundle,
    key_signature,
    statement,
)

OTHER = ec.generate_private_key(ec.SECP256R1())
DIGEST = IMAGE.manifest_digest
SIGNED = bundle(KEY, statement(DIGEST))


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Judge]:
    with ScriptedServer() as server:
        serve_image(server)
        yield Judge(server, tmp_path)


def test_by_a_key(judge: Judge) -> None:
    judge.attach(bundle(OTHER, statement(DIGEST)), SIGNED)
    judgement = judge()
    assert judgement.accepted
    assert judgement.signers[0].startswith("sigstore key ")
    bad, good = judgement.outcomes[0].findings
    assert "not made by a key" in bad.reason
    assert good.origin.startswith("bundle sha256:")


def test_by_somebody_who_logged_in(judge: Judge) -> None:
    judge.attach(FULCIO.bundle(statement(DIGEST), REKOR))
    assert judge(**judge.keyless()).signers == (
        f"{EMAIL} by {ISSUER}, logged 2023-11-14T22:13:20+00:00 in a log with the key of {judge.directory}/log-0.pub",)
    assert "not for other@example.com" in judge.reasons(**judge.keyless(subjectEmail="other@example.com"))


def test_by_a_key_and_logged(judge: Judge) -> None:
    judge.attach(bundle(KEY, statement(DIGEST), REKOR))
    logged = judge.keyed(REKOR)
    assert ", logged 2023-11-14T22:13:20" in judge(**logged).signers[0]
    judge.attach(SIGNED)
    assert "no log says anything of it" in judge.reasons(**logged)
    stolen = bundle(KEY, statement(DIGEST)) | {"verificationMaterial": bundle(KEY, statement(DIGEST), REKOR)[
        "verificationMaterial"]}
    judge.attach(stolen)
    assert "the log entry is about another signature" in judge.reasons(**logged)


@pytest.mark.parametrize("bundles", [(), ("quay.io/team",), ("127.0.0.1",)])
def test_they_count_only_where_somebody_said_so(judge: Judge, bundles: tuple[str, ...]) -> None:
    """They do not say what the image is called."""
    judge.attach(SIGNED)
    assert "does not say what the image is called" in judge.reasons(bundles=bundles)


@pytest.mark.parametrize("scope", ["{host}/os:1", "{host}/os", "{host}"])
def test_scopes_are_those_of_the_policy(judge: Judge, scope: str) -> None:
    judge.attach(SIGNED)
    assert judge(bundles=(scope.format(host=judge.server.host),)).accepted


def test_where_they_do_not_count_nothing_depends_on_them(judge: Judge) -> None:
    judge.server.serve(f"/v2/os/referrers/{DIGEST}", *[Reply(503)] * 20)
    assert judge(bundles=()).outcomes[0].findings == ()
    with pytest.raises(SourceUnreachable, match="503"):
        judge()
    signatures = Signatures([key_signature(KEY, DIGEST, f"{judge.server.host}/os:1")])
    for digest, (media_type, data) in signatures.manifests().items():
        assert digest
        judge.server.serve(f"/v2/os/manifests/{signatures.tag(DIGEST)}",
                           Reply(body=data, headers={"Content-Type": media_type}))
    for digest, data in signatures.blobs().items():
        judge.server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))
    asked = len([seen for seen in judge.server.seen if "/referrers/" in seen.path])
    assert judge(bundles=()).accepted
    assert len([seen for seen in judge.server.seen if "/referrers/" in seen.path]) == asked


@pytest.mark.parametrize(("found", "says"), [
    (bundle(KEY, statement("sha256:" + "a" * 64)), "it is for another image"),
    (bundle(KEY, statement(DIGEST, "https://slsa.dev/provenance/v1")), "not the signature of one"),
    (b"{}", "bundle.mediaType: expected a string"),
    (SIGNED | {"dsseEnvelope": {**SIGNED["dsseEnvelope"], "payload": bundle(KEY, statement("sha256:" + "b" * 64))[
        "dsseEnvelope"]["payload"]}}, "not made by a key"),
    (b"[" * 100_000 + b" " * 200_000, "larger than"),
], ids=["image", "attestation", "empty", "payload", "large"])
def test_what_does_not_count(judge: Judge, found: Any, says: str) -> None:
    judge.attach(found)
    assert says in judge.reasons()


def test_as_cosign_lists_it_where_a_registry_does_not(judge: Judge) -> None:
    """With the type of the empty config in the place of the artifact's."""
    artifact = ArtifactBuilder(IMAGE, BUNDLE, [(BUNDLE, to_json(SIGNED), {})])
    serve(judge.server, artifact)
    listed = {"schemaVersion": 2, "manifests": [
        artifact.descriptor() | {"artifactType": "application/vnd.oci.empty.v1+json"}]}
    judge.server.serve(f"/v2/os/manifests/{DIGEST.replace(':', '-')}", Reply(body=to_json(listed), headers={
        "Content-Type": "application/vnd.oci.image.index.v1+json"}))
    assert judge().accepted


def test_too_many_are_refused_unread(judge: Judge) -> None:
    judge.attach(*(b"%d" % number for number in range(101)))
    with pytest.raises(OciError, match="101 artifacts"):
        judge()
    assert not [seen for seen in judge.server.seen if sha256(b"0") in seen.path]
