# SPDX-License-Identifier: Apache-2.0
"""Sigstore bundles: a signature with all that is needed to verify it, in one JSON document. What cosign 3 attaches.

    {"mediaType": TYPE,
     "verificationMaterial": {"publicKey": {"hint": TEXT}                         made with a key that others know,
                              "certificate": {"rawBytes": BASE64},                or with that of a certificate
                              "tlogEntries": [ENTRY, …],                          what logs say (formats/rekor.py)
                              "timestampVerificationData":                        and authorities (formats/timestamp.py)
                                  {"rfc3161Timestamps": [{"signedTimestamp": BASE64}, …]}},
     "dsseEnvelope": {"payload": BASE64, "payloadType": TYPE, "signatures": [{"sig": BASE64, "keyid": TEXT}]}}

The payload is an in-toto statement: of the image it says the digest, and nothing of what the image is called.

    {"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://sigstore.dev/cosign/sign/v1",
     "subject": [{"digest": {"sha256": HEX}, …}], "predicate": {…}}

Sources: sigstore's protobuf-specs (sigstore_bundle.proto, version 0.3) in its JSON form, DSSE 1.0 (protocol.md),
in-toto attestation framework 1.0, cosign's BUNDLE_SPEC.md, and the observed bundles of cosign 2.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SignatureError
from .documents import JsonObject, parse_object, shown
from .rekor import LogEntry, parse_entry
from .simplesigning import Claim

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Media type of the layer that is one, and type of the artifact that holds it."""
MAX_BUNDLE = 256 << 10
"""Bytes of one. Real ones have up to 10,000."""
MAX_ENTRIES = 8
"""Of logs, in one bundle."""
MAX_STAMPS = 8
"""Time stamps, in one bundle."""

_STATEMENT = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_SIGN = "https://sigstore.dev/cosign/sign/v1"
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SigstoreBundle:
    """A bundle, unverified: `signature` is over `message`, which has `payload` in it. `certificate` is DER, and empty
    when a key is needed that is known otherwise. `entries` is what logs say, which is read when somebody asks, and
    `stamps` are time stamps of the signature (DER)."""

    message: bytes
    payload: bytes
    signature: bytes
    certificate: bytes
    entries: tuple[JsonObject, ...]
    stamps: tuple[bytes, ...] = ()

    def logged(self) -> tuple[LogEntry, ...]:
        """Raises SignatureError at an entry of a kind that is not supported."""
        return tuple(map(parse_entry, self.entries))


def parse_bundle(data: bytes) -> SigstoreBundle:
    """Raises SignatureError, also for bundles whose signature is not of a statement."""
    top = parse_object(data, "bundle", MAX_BUNDLE, SignatureError)
    top.only("mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
    if top.string("mediaType") != BUNDLE:
        raise top.error("mediaType", f"only {BUNDLE} is supported")
    if top.value.get("messageSignature") is not None:
        raise top.error("messageSignature", "only signatures of statements (dsseEnvelope) are supported")
    material, envelope = top.object("verificationMaterial"), top.object("dsseEnvelope")
    material.only("publicKey", "certificate", "tlogEntries", "timestampVerificationData")
    envelope.only("payload", "payloadType", "signatures")
    if envelope.string("payloadType") != _STATEMENT:
        raise envelope.error("payloadType", f"expected {_STATEMENT}")
    signatures = envelope.objects("signatures")
    if len(signatures) != 1:
        raise envelope.error("signatures", f"there are {len(signatures)}, expected one")
    payload = envelope.decoded("payload")
    entries = material.objects("tlogEntries") if material.value.get("tlogEntries") is not None else []
    if len(entries) > MAX_ENTRIES:
        raise material.error("tlogEntries", f"there are {len(entries)}, more than {MAX_ENTRIES}")
    certificate = material.optional_object("certificate")
    return SigstoreBundle(
        _enclosed(payload), payload, signatures[0].decoded("sig"),
        certificate.decoded("rawBytes") if certificate.value else b"", tuple(entries), _stamps(material))


def parse_statement(payload: bytes) -> Claim:
    """What the signer of a bundle says of an image. To be called only after the signature over it was verified. Raises
    SignatureError."""
    top = parse_object(payload, "statement", MAX_BUNDLE, SignatureError)
    if top.string("_type") != _STATEMENT_TYPE:
        raise top.error("_type", f"expected {_STATEMENT_TYPE}")
    if top.string("predicateType") != _SIGN:
        raise top.error("predicateType", f"{shown(top.string('predicateType'))} says something about an image, which "
                                         "is not the signature of one")
    subjects = top.objects("subject")
    if len(subjects) != 1:
        raise top.error("subject", f"there are {len(subjects)}, expected one")
    digest = subjects[0].object("digest").string("sha256")
    if not _HEX.fullmatch(digest):
        raise subjects[0].error("digest", f"{shown(digest)} is no SHA-256 in hex")
    return Claim(f"sha256:{digest}", None)


def _stamps(material: JsonObject) -> tuple[bytes, ...]:
    data = material.optional_object("timestampVerificationData")
    data.only("rfc3161Timestamps")
    stamps = data.objects("rfc3161Timestamps") if data.value else []
    if len(stamps) > MAX_STAMPS:
        raise data.error("rfc3161Timestamps", f"there are {len(stamps)}, more than {MAX_STAMPS}")
    return tuple(stamp.decoded("signedTimestamp") for stamp in stamps)


def _enclosed(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_STATEMENT), _STATEMENT.encode(), len(payload), payload)
