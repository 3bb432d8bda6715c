# SPDX-License-Identifier: Apache-2.0
"""Bundles of sigstore: what cosign writes, and what is none."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.sigstorebundle import MAX_BUNDLE, MAX_ENTRIES, MAX_STAMPS, parse_bundle, parse_statement
from kit.signing import NOW, Fulcio, Rekor, bundle, enclosed, pem, statement

DIGEST = "sha256:67ec566a654ff337bbee5b2963c39397bd0f252fa5261ebde05bb79e6187d5a1"
OBSERVED = json.dumps({
    "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "verificationMaterial": {"publicKey": {"hint": "OBOE88GE5fBBz5EPwVCCm8y2VUdkT+Ge5/aAdTKr0Q4="}},
    "dsseEnvelope": {"payload": (
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCAic3ViamVjdCI6W3siZGlnZXN0Ijp7InNoYTI1NiI6IjY3"
        "ZWM1NjZhNjU0ZmYzMzdiYmVlNWIyOTYzYzM5Mzk3YmQwZjI1MmZhNTI2MWViZGUwNWJiNzllNjE4N2Q1YTEifX1dLCAicHJlZGljYXRl"
        "VHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIn0="
    ), "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": (
        "MEUCIHSBFOI/B8s5SU2Dd20ogrf8HOYyfzT05I283p+1Xd9jAiEAlH+9KEoW7tAslGfsguzu++xw5frclg7yYZWG8JCG7yk="
    )}]},
})
"""By cosign 2.6.5."""
KEY, REKOR, FULCIO = ec.generate_private_key(ec.SECP256R1()), Rekor(), Fulcio()
GOOD = bundle(KEY, statement(DIGEST), REKOR)


def changed(change: Callable[[Any], object]) -> bytes:
    document = copy.deepcopy(GOOD)
    change(document)
    return json.dumps(document).encode()


def test_what_cosign_writes() -> None:
    found = parse_bundle(OBSERVED.encode())
    assert found.message == enclosed(found.payload)
    assert (found.certificate, found.logged()) == (b"", ())
    claim = parse_statement(found.payload)
    assert (claim.digest, claim.name) == (DIGEST, None)


def test_what_a_log_says_of_it() -> None:
    (entry,) = parse_bundle(json.dumps(GOOD).encode()).logged()
    assert (entry.body.key, entry.body.of_payload, entry.proof) == (pem(KEY), True, None)
    assert entry.promise is not None
    assert entry.promise.time == NOW


def test_with_a_certificate() -> None:
    found = parse_bundle(json.dumps(FULCIO.bundle(statement(DIGEST), REKOR)).encode())
    assert found.certificate.startswith(b"\x30\x82")
    assert len(found.logged()) == 1


def entry(document: Any) -> Any:
    return document["verificationMaterial"]["tlogEntries"][0]


@pytest.mark.parametrize(("change", "says"), [
    (lambda top: top.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"), "mediaType: only"),
    (lambda top: top.update(more=1), "unknown key 'more'"),
    (lambda top: top.update(messageSignature={"signature": ""}), "only signatures of statements"),
    (lambda top: top["verificationMaterial"].update(x509CertificateChain={}), "unknown key 'x509CertificateChain'"),
    (lambda top: top["dsseEnvelope"].update(payloadType="text/plain"), "payloadType: expected"),
    (lambda top: top["dsseEnvelope"].update(signatures=[]), "there are 0, expected one"),
    (lambda top: top["dsseEnvelope"].update(signatures=top["dsseEnvelope"]["signatures"] * 2), "there are 2"),
    (lambda top: top["dsseEnvelope"].update(payload="?"), "payload: is not base64"),
    (lambda top: top["verificationMaterial"].update(tlogEntries=[entry(top)] * (MAX_ENTRIES + 1)), "more than 8"),
    (lambda top: top["verificationMaterial"].update(timestampVerificationData={"more": []}), "unknown key 'more'"),
    (lambda top: top["verificationMaterial"].update(timestampVerificationData={
        "rfc3161Timestamps": [{"signedTimestamp": ""}] * (MAX_STAMPS + 1)}), "there are 9, more than 8"),
    (lambda top: top["verificationMaterial"].update(timestampVerificationData={
        "rfc3161Timestamps": [{"signedTimestamp": "?"}]}), "signedTimestamp: is not base64"),
])
def test_what_is_no_bundle(change: Callable[[Any], object], says: str) -> None:
    with pytest.raises(SignatureError, match=says.replace("?", "\\?")):
        parse_bundle(changed(change))


@pytest.mark.parametrize(("change", "says"), [
    (lambda top: entry(top).pop("inclusionPromise"), "neither a promise of the log nor a proof"),
    (lambda top: entry(top).update(more=1), "unknown key 'more'"),
    (lambda top: entry(top).update(integratedTime="253402300800"), "gives 253402300800 as the time"),
    (lambda top: entry(top).update(integratedTime=5), "integratedTime: expected a string"),
    (lambda top: entry(top).update(logIndex="-5"), "logIndex: expected a number in a string"),
    (lambda top: entry(top).update(canonicalizedBody=base64.b64encode(
        b'{"apiVersion": "0.0.3", "kind": "dsse", "spec": {}}').decode()), r'"dsse 0\.0\.3" is not supported'),
    (lambda top: entry(top).update(canonicalizedBody=base64.b64encode(
        b'{"apiVersion": "0.0.1", "kind": "dsse", "spec": {"payloadHash": {}, "signatures": []}}').decode()),
     "there are 0, expected one"),
])
def test_what_a_log_says_is_read_when_it_is_needed(change: Callable[[Any], object], says: str) -> None:
    found = parse_bundle(changed(change))
    with pytest.raises(SignatureError, match=says):
        found.logged()


@pytest.mark.parametrize(("text", "says"), [
    (statement(DIGEST, "https://slsa.dev/provenance/v1"), "not the signature of one"),
    (statement("sha256:" + "A" * 64), "is no SHA-256 in hex"),
    (statement(DIGEST).replace(b"Statement/v1", b"Statement/v0.1"), "_type: expected"),
    (json.dumps(json.loads(statement(DIGEST)) | {"subject": []}).encode(), "there are 0, expected one"),
    (b" " * (MAX_BUNDLE + 1), "larger than"),
])
def test_statements_that_sign_no_image(text: bytes, says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        parse_statement(text)


@given(st.data())
def test_anything_is_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_bundle(bytes(text))
        found.logged()
        parse_statement(found.payload)
    except SignatureError:
        pass
