# SPDX-License-Identifier: Apache-2.0
"""What the transparency log Rekor says of a signature: the entry, and a promise or a proof that the log has it.

As cosign attaches it (`dev.sigstore.cosign/bundle`), with a promise alone:

    {"SignedEntryTimestamp": BASE64,
     "Payload": {"body": BASE64, "integratedTime": SECONDS, "logIndex": N, "logID": HEX}}

and in a bundle of sigstore, where numbers are strings, the ID is base64, and what is 0 may be missing:

    {"logIndex": N, "logId": {"keyId": BASE64}, "kindVersion": {"kind": TEXT, "version": TEXT}, "integratedTime": N,
     "inclusionPromise": {"signedEntryTimestamp": BASE64},
     "inclusionProof": {"logIndex": N, "treeSize": N, "rootHash": BASE64, "hashes": [BASE64, …],
                        "checkpoint": {"envelope": NOTE}},
     "canonicalizedBody": BASE64}

Rekor 1 gives both. The promise is a signature over body, time, index and ID in canonical JSON (RFC 8785). Rekor 2 gives
the proof alone (`merkle`, `signednote`), in which there is no time: `integratedTime` is nobody's word there.

The body holds the hash of what was signed, the signature, and the key or certificate. Whoever trusts the entry has to
compare these with what is at hand: a proof about another signature is worth nothing.

    hashedrekord 0.0.1    the hash of what is signed
    dsse 0.0.1, 0.0.2     the hash of the payload alone
    hashedrekord 0.0.2    the hash of what is signed, which for DSSE is the pre-authentication encoding

Source: cosign's SIGNATURE_SPEC.md, sigstore's protobuf-specs (sigstore_rekor.proto), Rekor's
hashedrekord_v0_0_1_schema.json and dsse_v0_0_1_schema.json, rekor-tiles' CLIENTS.md and api/proto/rekor/v2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import SignatureError
from . import merkle
from .documents import JsonObject, parse_object, shown
from .signednote import Checkpoint, parse_checkpoint

MAX_BUNDLE = 64 << 10
MAX_TIME = 253_402_300_799
"""The last second of the year 9999: later ones are no times here."""

_HASHES = {"SHA2_256": ("sha256", 32), "SHA2_384": ("sha384", 48), "SHA2_512": ("sha512", 64)}


@dataclass(frozen=True, slots=True)
class Body:
    """An entry: `signature` was made with `key`, a key or certificate in PEM or DER; `digest` is the hash, of a kind
    that hashlib calls `algorithm`, of what it signs or, with `of_payload`, of the payload that is in that."""

    algorithm: str
    digest: bytes
    signature: bytes
    key: bytes
    of_payload: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """Of the log, to have the entry since `time`, in seconds since 1970: its `signature` over `signed`."""

    signature: bytes
    signed: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Proof:
    """That the entry at `index` is in the tree of which `checkpoint` speaks."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Unverified: `raw` is `body` as the log has it. At least one of promise and proof is there."""

    raw: bytes
    body: Body
    promise: Promise | None
    proof: Proof | None = None


def parse_bundle(data: bytes) -> LogEntry:
    """An annotation of cosign. Raises SignatureError."""
    top = parse_object(data, "bundle", MAX_BUNDLE, SignatureError)
    top.only("SignedEntryTimestamp", "Payload")
    payload = top.object("Payload")
    payload.only("body", "integratedTime", "logIndex", "logID")
    promise = _promise(top.decoded("SignedEntryTimestamp"), payload.string("body"), payload.integer("integratedTime"),
                       payload.string("logID"), payload.integer("logIndex"))
    return LogEntry(payload.decoded("body"), _body(payload, "body"), promise)


def parse_entry(entry: JsonObject) -> LogEntry:
    """One of a bundle of sigstore. Raises SignatureError."""
    entry.only("logIndex", "logId", "kindVersion", "integratedTime", "inclusionPromise", "inclusionProof",
               "canonicalizedBody")
    given, promise = entry.optional_object("inclusionPromise"), None
    if given.value:
        promise = _promise(given.decoded("signedEntryTimestamp"), entry.string("canonicalizedBody"),
                           _number(entry, "integratedTime"), entry.object("logId").decoded("keyId").hex(),
                           _number(entry, "logIndex"))
    proven = entry.optional_object("inclusionProof")
    proof = _proof(proven) if proven.value else None
    if promise is None and proof is None:
        raise entry.error("inclusionProof", "there is neither a promise of the log nor a proof")
    return LogEntry(entry.decoded("canonicalizedBody"), _body(entry, "canonicalizedBody"), promise, proof)


def _promise(signature: bytes, body: str, time: int, log: str, index: int) -> Promise:
    if time > MAX_TIME:
        raise SignatureError(f"the log gives {time} as the time of the entry")
    # Keys in this order, integers and plain strings: that much of RFC 8785 is what json writes.
    signed = {"body": body, "integratedTime": time, "logID": log, "logIndex": index}
    return Promise(signature, json.dumps(signed, separators=(",", ":"), ensure_ascii=False).encode(), time)


def _proof(given: JsonObject) -> Proof:
    given.only("logIndex", "treeSize", "rootHash", "hashes", "checkpoint")
    hashes = given.decoded_list("hashes")
    if len(hashes) > merkle.MAX_HASHES:
        raise given.error("hashes", f"there are {len(hashes)}, more than {merkle.MAX_HASHES}")
    checkpoint = parse_checkpoint(given.object("checkpoint").string("envelope"))
    # What the proof says of the tree itself is nobody's word; where it says anything, it has to be the same.
    if given.value.get("treeSize") is not None and _number(given, "treeSize") != checkpoint.size:
        raise given.error("treeSize", f"is not that of the checkpoint, {checkpoint.size}")
    if given.value.get("rootHash") is not None and given.decoded("rootHash") != checkpoint.root:
        raise given.error("rootHash", "is not that of the checkpoint")
    return Proof(_number(given, "logIndex"), hashes, checkpoint)


def _body(holder: JsonObject, key: str) -> Body:
    body = parse_object(holder.decoded(key), f"{holder.path}.{key}", MAX_BUNDLE, SignatureError)
    body.only("apiVersion", "kind", "spec")
    spec = body.object("spec")
    match body.string("kind"), body.string("apiVersion"):
        case "hashedrekord", "0.0.1":
            signature = spec.object("signature")
            return Body(*_hex(spec.object("data").object("hash")), signature.decoded("content"),
                        signature.object("publicKey").decoded("content"))
        case "dsse", "0.0.1":
            one = _single(spec)
            return Body(*_hex(spec.object("payloadHash")), one.decoded("signature"), one.decoded("verifier"), True)
        case "hashedrekord", "0.0.2":
            entry = _inner(spec, "hashedRekordV002", "data", "signature")
            return Body(*_hash(entry.object("data")), *_made(entry.object("signature")))
        case "dsse", "0.0.2":
            entry = _inner(spec, "dsseV002", "payloadHash", "signatures")
            return Body(*_hash(entry.object("payloadHash")), *_made(_single(entry)), True)
        case kind, version:
            raise body.error("kind", f"{shown(f'{kind} {version}')} is not supported, only hashedrekord and dsse, "
                                     "0.0.1 and 0.0.2")


def _inner(spec: JsonObject, name: str, *keys: str) -> JsonObject:
    spec.only(name)
    entry = spec.object(name)
    entry.only(*keys)
    return entry


def _single(spec: JsonObject) -> JsonObject:
    signatures = spec.objects("signatures")
    if len(signatures) != 1:
        raise spec.error("signatures", f"there are {len(signatures)}, expected one")
    return signatures[0]


def _hex(hashed: JsonObject) -> tuple[str, bytes]:
    """As Rekor 1 writes a hash."""
    if hashed.string("algorithm") != "sha256":
        raise hashed.error("algorithm", 'expected "sha256"')
    try:
        digest = bytes.fromhex(hashed.string("value"))
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise hashed.error("value", "is no SHA-256 in hex")
    return "sha256", digest


def _hash(hashed: JsonObject) -> tuple[str, bytes]:
    """As Rekor 2 does."""
    hashed.only("algorithm", "digest")
    name, size = _HASHES.get(hashed.string("algorithm"), ("", 0))
    if not name:
        raise hashed.error("algorithm", f"{shown(hashed.string('algorithm'))} is not one of {', '.join(_HASHES)}")
    digest = hashed.decoded("digest")
    if len(digest) != size:
        raise hashed.error("digest", f"has {len(digest)} bytes, expected {size}")
    return name, digest


def _made(signature: JsonObject) -> tuple[bytes, bytes]:
    """The signature, and the key or the certificate, of Rekor 2."""
    signature.only("content", "verifier")
    verifier = signature.object("verifier")
    verifier.only("keyDetails", "publicKey", "x509Certificate")
    given = [key for key in ("publicKey", "x509Certificate") if verifier.value.get(key) is not None]
    if len(given) != 1:
        raise verifier.error("publicKey", "expected either this or x509Certificate")
    holder = verifier.object(given[0])
    holder.only("rawBytes")
    return signature.decoded("content"), holder.decoded("rawBytes")


def _number(holder: JsonObject, key: str) -> int:
    """JSON of protocol buffers has 64-bit numbers as strings, and leaves out those that are 0."""
    if holder.value.get(key) is None:
        return 0
    text: Any = holder.string(key)
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or int(text) > merkle.MAX_SIZE:
        raise holder.error(key, "expected a number in a string")
    return int(text)
