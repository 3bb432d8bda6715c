# SPDX-License-Identifier: Apache-2.0
"""What the transparency log Rekor says of a signature, as cosign attaches it (`dev.sigstore.cosign/bundle`).

    {"SignedEntryTimestamp": BASE64,
     "Payload": {"body": BASE64, "integratedTime": SECONDS, "logIndex": N, "logID": HEX}}

The log signs the payload in canonical JSON (RFC 8785). The body, a `hashedrekord`, holds the hash of what was signed,
the signature, and the key or certificate. Whoever trusts the time has to compare these with what is at hand: a promise
about another signature is worth nothing.

Source: cosign's SIGNATURE_SPEC.md, Rekor's hashedrekord_v0_0_1_schema.json.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from ..errors import SignatureError
from .documents import JsonObject, parse_object

MAX_BUNDLE = 64 << 10


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A promise of the log, unverified: `promise` is its signature over `signed`. `time` is in seconds since 1970; what
    was logged at that time are `digest`, the SHA-256 in hex of what `signature` signs, and `key`, a key or certificate
    in PEM."""

    promise: bytes
    signed: bytes
    time: int
    digest: str
    signature: bytes
    key: bytes


def parse_bundle(data: bytes) -> LogEntry:
    """Raises SignatureError."""
    top = parse_object(data, "bundle", MAX_BUNDLE, SignatureError)
    top.only("SignedEntryTimestamp", "Payload")
    payload = top.object("Payload")
    payload.only("body", "integratedTime", "logIndex", "logID")
    body = parse_object(_bytes(payload, "body"), "bundle.Payload.body", MAX_BUNDLE, SignatureError)
    body.only("apiVersion", "kind", "spec")
    if (body.string("kind"), body.string("apiVersion")) != ("hashedrekord", "0.0.1"):
        raise body.error("kind", "only hashedrekord 0.0.1 is supported")
    spec = body.object("spec")
    digest, signature = spec.object("data").object("hash"), spec.object("signature")
    if digest.string("algorithm") != "sha256":
        raise digest.error("algorithm", 'expected "sha256"')
    # Keys in this order, integers and plain strings: that much of RFC 8785 is what json writes.
    signed = {"body": payload.string("body"), "integratedTime": payload.integer("integratedTime"),
              "logID": payload.string("logID"), "logIndex": payload.integer("logIndex")}
    return LogEntry(
        _bytes(top, "SignedEntryTimestamp"), json.dumps(signed, separators=(",", ":"), ensure_ascii=False).encode(),
        payload.integer("integratedTime"), digest.string("value"), _bytes(signature, "content"),
        _bytes(signature.object("publicKey"), "content"),
    )


def _bytes(holder: JsonObject, key: str) -> bytes:
    try:
        return base64.b64decode(holder.string(key), validate=True)
    except (binascii.Error, ValueError):
        raise holder.error(key, "is not base64") from None
