# SPDX-License-Identifier: Apache-2.0
"""What the transparency log Rekor says of a signature: a promise, and the entry that is promised.

As cosign attaches it (`dev.sigstore.cosign/bundle`):

    {"SignedEntryTimestamp": BASE64,
     "Payload": {"body": BASE64, "integratedTime": SECONDS, "logIndex": N, "logID": HEX}}

and in a bundle of sigstore, where numbers are strings and the ID is base64:

    {"logIndex": N, "logId": {"keyId": BASE64}, "kindVersion": {"kind": TEXT, "version": TEXT}, "integratedTime": N,
     "inclusionPromise": {"signedEntryTimestamp": BASE64}, "inclusionProof": {…}, "canonicalizedBody": BASE64}

The log signs the payload in canonical JSON (RFC 8785). The body, a `hashedrekord` or a `dsse`, holds the hash of what
was signed, the signature, and the key or certificate. Whoever trusts the time has to compare these with what is at
hand: a promise about another signature is worth nothing.

Source: cosign's SIGNATURE_SPEC.md, sigstore's protobuf-specs (sigstore_rekor.proto), Rekor's
hashedrekord_v0_0_1_schema.json and dsse_v0_0_1_schema.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import SignatureError
from .documents import JsonObject, parse_object

MAX_BUNDLE = 64 << 10


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A promise of the log, unverified: `promise` is its signature over `signed`. `time` is in seconds since 1970; what
    was logged at that time are `signature`, `key`, a key or certificate in PEM, and `digest`, a SHA-256 in hex: of what
    the signature signs or, with `of_payload`, of the payload that is in that."""

    promise: bytes
    signed: bytes
    time: int
    digest: str
    signature: bytes
    key: bytes
    of_payload: bool = False


def parse_bundle(data: bytes) -> LogEntry:
    """An annotation of cosign. Raises SignatureError."""
    top = parse_object(data, "bundle", MAX_BUNDLE, SignatureError)
    top.only("SignedEntryTimestamp", "Payload")
    payload = top.object("Payload")
    payload.only("body", "integratedTime", "logIndex", "logID")
    # Keys in this order, integers and plain strings: that much of RFC 8785 is what json writes.
    signed = {"body": payload.string("body"), "integratedTime": payload.integer("integratedTime"),
              "logID": payload.string("logID"), "logIndex": payload.integer("logIndex")}
    return _entry(top.decoded("SignedEntryTimestamp"), signed, payload, "body")


def parse_entry(entry: JsonObject) -> LogEntry:
    """One of a bundle of sigstore. Raises SignatureError."""
    promise = entry.optional_object("inclusionPromise")
    if not promise.value:
        raise entry.error("inclusionPromise", "is missing: only logs that promise an entry are supported (Rekor 1)")
    signed = {"body": entry.string("canonicalizedBody"), "integratedTime": _number(entry, "integratedTime"),
              "logID": entry.object("logId").decoded("keyId").hex(), "logIndex": _number(entry, "logIndex")}
    return _entry(promise.decoded("signedEntryTimestamp"), signed, entry, "canonicalizedBody")


def _entry(promise: bytes, signed: dict[str, Any], holder: JsonObject, key: str) -> LogEntry:
    body = parse_object(holder.decoded(key), f"{holder.path}.{key}", MAX_BUNDLE, SignatureError)
    body.only("apiVersion", "kind", "spec")
    spec = body.object("spec")
    match body.string("kind"), body.string("apiVersion"):
        case "hashedrekord", "0.0.1":
            hashed, signature = spec.object("data").object("hash"), spec.object("signature")
            made, by = signature.decoded("content"), signature.object("publicKey").decoded("content")
        case "dsse", "0.0.1":
            hashed, signatures = spec.object("payloadHash"), spec.objects("signatures")
            if len(signatures) != 1:
                raise spec.error("signatures", f"there are {len(signatures)}, expected one")
            made, by = signatures[0].decoded("signature"), signatures[0].decoded("verifier")
        case _:
            raise body.error("kind", "only hashedrekord 0.0.1 and dsse 0.0.1 are supported")
    if hashed.string("algorithm") != "sha256":
        raise hashed.error("algorithm", 'expected "sha256"')
    return LogEntry(
        promise, json.dumps(signed, separators=(",", ":"), ensure_ascii=False).encode(), signed["integratedTime"],
        hashed.string("value"), made, by, of_payload=body.string("kind") == "dsse")


def _number(holder: JsonObject, key: str) -> int:
    """JSON of protocol buffers has 64-bit numbers as strings."""
    text = holder.string(key)
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise holder.error(key, "expected a number in a string")
    return int(text)
