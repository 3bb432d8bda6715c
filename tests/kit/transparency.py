# SPDX-License-Identifier: Apache-2.0
"""A log as Rekor 2 is one: entries in a Merkle tree, proofs, and checkpoints that it signs.

    log = TiledLog(origin="log.example")
    bundle(KEY, statement(DIGEST), log)

Formats: rekor-tiles' CLIENTS.md, RFC 9162 (section 2.1), C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kit.signing import PrivateKey, enclosed, sign


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """As RFC 9162 defines it, from above."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = _half(len(leaves))
    return hashlib.sha256(b"\1" + tree_root(leaves[:half]) + tree_root(leaves[half:])).digest()


def tree_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that the leaf at `index` is in it."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*tree_path(leaves[:half], index), tree_root(leaves[half:])]
    return [*tree_path(leaves[half:], index - half), tree_root(leaves[:half])]


def _half(size: int) -> int:
    """The largest power of two that is smaller."""
    return 1 << (size - 1).bit_length() - 1


class TiledLog:
    """Entries are of `kind`. There are `before` others in front of each, and `after` behind it."""

    def __init__(self, key: PrivateKey | None = None, *, origin: str = "log.example", kind: str = "hashedrekord",
                 before: int = 5, after: int = 2) -> None:
        self.key = key or ed25519.Ed25519PrivateKey.generate()
        self.origin = origin
        self.kind = kind
        self._before, self._after = before, after

    def entry(self, payload: bytes, signature: bytes, by: bytes) -> dict[str, Any]:
        """For a bundle of sigstore; `by` is a key or a certificate in PEM."""
        raw = json.dumps(self.body(payload, signature, by), separators=(",", ":"), sort_keys=True).encode()
        return {"logIndex": str(self._before), "logId": {"keyId": text(bytes(32))},
                "kindVersion": {"kind": self.kind, "version": "0.0.2"}, "canonicalizedBody": text(raw),
                "inclusionProof": self.proof(raw)}

    def proof(self, raw: bytes, name: str = "") -> dict[str, Any]:
        """That it has an entry; `name` is that of its signature."""
        leaves = [b"%d" % number for number in range(self._before + self._after)]
        leaves.insert(self._before, raw)
        root = tree_root(leaves)
        return {"logIndex": str(self._before), "treeSize": str(len(leaves)), "rootHash": text(root),
                "hashes": [text(one) for one in tree_path(leaves, self._before)],
                "checkpoint": {"envelope": self.checkpoint(len(leaves), root, name or self.origin)}}

    def body(self, payload: bytes, signature: bytes, by: bytes) -> dict[str, Any]:
        if b"CERTIFICATE" in by:
            der = x509.load_pem_x509_certificate(by).public_bytes(Encoding.DER)
            verifier: dict[str, Any] = {"x509Certificate": {"rawBytes": text(der)}}
        else:
            der = serialization.load_pem_public_key(by).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            verifier = {"publicKey": {"rawBytes": text(der)}}
        made = {"content": text(signature), "verifier": {"keyDetails": "PKIX_ECDSA_P256_SHA_256", **verifier}}
        hashed = {"algorithm": "SHA2_256", "digest": text(hashlib.sha256(
            payload if self.kind == "dsse" else enclosed(payload)).digest())}
        spec = {"dsseV002": {"payloadHash": hashed, "signatures": [made]}} if self.kind == "dsse" else {
            "hashedRekordV002": {"data": hashed, "signature": made}}
        return {"apiVersion": "0.0.2", "kind": self.kind, "spec": spec}

    def checkpoint(self, size: int, root: bytes, name: str) -> str:
        """With the line of a witness that nobody knows."""
        note = f"{self.origin}\n{size}\n{text(root)}\n"
        witness, ours = text(b"hint" + bytes(72)), text(self.hint(name) + sign(self.key, note.encode()))
        return f"{note}\n— witness.example {witness}\n— {name} {ours}\n"

    def hint(self, name: str) -> bytes:
        """By which 4 bytes a signature says that it is of this key."""
        public = self.key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            return hashlib.sha256(name.encode() + b"\n\x01" + raw).digest()[:4]
        return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()[:4]
