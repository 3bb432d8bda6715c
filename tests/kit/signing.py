# SPDX-License-Identifier: Apache-2.0
"""Signs images as cosign does, with keys, a certificate authority and a log of its own.

    signed = Signatures([key_signature(KEY, digest, "quay.io/team/os:1")])
    push(signed, f"{registry.address}/team/os:{signed.tag(digest)}")

Formats: cosign's SIGNATURE_SPEC.md, Rekor's hashedrekord 0.0.1, Fulcio's oid-info.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit.images import OCI_CONFIG, OCI_MANIFEST, sha256, to_json

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

NOW = 1_700_000_000
"""When everything here is signed, in seconds since 1970."""
ISSUER = "https://login.example"
EMAIL = "release@example.com"


def pem(key: PrivateKey) -> bytes:
    """The public half, as policies name it."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_key(key: PrivateKey, path: Path) -> str:
    path.write_bytes(pem(key))
    return str(path)


def sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def payload(digest: str, name: str) -> bytes:
    """What cosign signs."""
    return json.dumps({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest},
                                    "type": "cosign container image signature"}, "optional": None}).encode()


@dataclass(frozen=True)
class Signature:
    """A payload and the annotations of its layer."""

    payload: bytes
    annotations: dict[str, str]


def key_signature(key: PrivateKey, digest: str, name: str, rekor: Rekor | None = None) -> Signature:
    data = payload(digest, name)
    made = sign(key, data)
    annotations = {"dev.cosignproject.cosign/signature": base64.b64encode(made).decode()}
    if rekor is not None:
        annotations["dev.sigstore.cosign/bundle"] = rekor.bundle(data, made, pem(key))
    return Signature(data, annotations)


def statement(digest: str, predicate: str = "https://sigstore.dev/cosign/sign/v1") -> bytes:
    """What cosign 3 signs."""
    return json.dumps({"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
                       "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}]}).encode()


BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"


def enclosed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


class Log(Protocol):
    """What makes entries for bundles: `Rekor`, or a log of `transparency`."""

    def entry(self, payload: bytes, signature: bytes, by: bytes) -> dict[str, Any]: ...


def bundle(key: PrivateKey, payload: bytes, rekor: Log | None = None) -> dict[str, Any]:
    """A bundle of sigstore, by a key."""
    made = sign(key, enclosed(payload))
    return _bundle(payload, made, {"publicKey": {"hint": "of no use"}},
                   [rekor.entry(payload, made, pem(key))] if rekor is not None else [])


def _bundle(payload: bytes, made: bytes, by: dict[str, Any], entries: list[dict[str, Any]],
            stamps: Sequence[bytes] = ()) -> dict[str, Any]:
    given = [{"signedTimestamp": base64.b64encode(stamp).decode()} for stamp in stamps]
    return {"mediaType": BUNDLE, "verificationMaterial": by | ({"tlogEntries": entries} if entries else {}) | (
                {"timestampVerificationData": {"rfc3161Timestamps": given}} if given else {}),
            "dsseEnvelope": {"payload": base64.b64encode(payload).decode(), "payloadType": IN_TOTO,
                             "signatures": [{"sig": base64.b64encode(made).decode()}]}}


class Rekor:
    """A log."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def bundle(self, data: bytes, signature: bytes, key: bytes, time: int = NOW) -> str:
        body = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}},
            "signature": {"content": base64.b64encode(signature).decode(),
                          "publicKey": {"content": base64.b64encode(key).decode()}}}}
        log = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        entry = {"body": base64.b64encode(json.dumps(body).encode()).decode(), "integratedTime": time,
                 "logID": hashlib.sha256(log).hexdigest(), "logIndex": 5179}
        promise = sign(self.key, json.dumps(entry, separators=(",", ":")).encode())
        return json.dumps({"SignedEntryTimestamp": base64.b64encode(promise).decode(), "Payload": entry})

    def entry(self, payload: bytes, signature: bytes, by: bytes, time: int = NOW) -> dict[str, Any]:
        """For a bundle of sigstore."""
        body = base64.b64encode(json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": base64.b64encode(signature).decode(),
                            "verifier": base64.b64encode(by).decode()}]}}).encode()).decode()
        log = hashlib.sha256(self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).digest()
        promise = sign(self.key, json.dumps({"body": body, "integratedTime": time, "logID": log.hex(),
                                             "logIndex": 5179}, separators=(",", ":")).encode())
        return {"logIndex": "5179", "logId": {"keyId": base64.b64encode(log).decode()},
                "kindVersion": {"kind": "dsse", "version": "0.0.1"}, "integratedTime": str(time),
                "inclusionPromise": {"signedEntryTimestamp": base64.b64encode(promise).decode()},
                "canonicalizedBody": body}


class Fulcio:
    """An authority, with one between it and what it issues."""

    def __init__(self, now: int = NOW) -> None:
        self._now = now
        self._key, self._middle_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        self.root = certificate("root", self._key.public_key(), "root", self._key, ca=1, minutes=10**6, now=now)
        self.middle = certificate("middle", self._middle_key.public_key(), "root", self._key, ca=0, minutes=10**5,
                                  now=now)

    def pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    def signature(self, digest: str, name: str, rekor: Rekor, *, email: str = EMAIL, issuer: str = ISSUER,
                  time: int = NOW, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
                  more: Sequence[tuple[x509.ExtensionType, bool]] = ()) -> Signature:
        """By somebody who logged in as `email` at `issuer`; seen by the log at `time`."""
        key, leaf = self._leaf(email, issuer, usage, more)
        own = leaf.public_bytes(serialization.Encoding.PEM)
        data = payload(digest, name)
        made = sign(key, data)
        return Signature(data, {
            "dev.cosignproject.cosign/signature": base64.b64encode(made).decode(),
            "dev.sigstore.cosign/certificate": own.decode(),
            "dev.sigstore.cosign/chain": self.middle.public_bytes(serialization.Encoding.PEM).decode(),
            "dev.sigstore.cosign/bundle": rekor.bundle(data, made, own, time)})

    def bundle(self, payload: bytes, *logs: Log, email: str = EMAIL, issuer: str = ISSUER,
               stamps: Sequence[Callable[[bytes], bytes]] = ()) -> dict[str, Any]:
        """The same as a bundle of sigstore. `stamps` make time stamps of the signature."""
        key, leaf = self._leaf(email, issuer, ExtendedKeyUsageOID.CODE_SIGNING, ())
        made = sign(key, enclosed(payload))
        entries = [log.entry(payload, made, leaf.public_bytes(serialization.Encoding.PEM)) for log in logs]
        der = leaf.public_bytes(serialization.Encoding.DER)
        return _bundle(payload, made, {"certificate": {"rawBytes": base64.b64encode(der).decode()}}, entries,
                       [stamp(made) for stamp in stamps])

    def leaf(self, email: str = EMAIL) -> x509.Certificate:
        """A certificate for somebody who logged in."""
        return self._leaf(email, ISSUER, ExtendedKeyUsageOID.CODE_SIGNING, ())[1]

    def certify(self, key: PublicKey) -> x509.Certificate:
        """A certificate for the public key of somebody who logged in."""
        return self._issue(key, EMAIL, ISSUER, ExtendedKeyUsageOID.CODE_SIGNING, ())

    def _leaf(self, email: str, issuer: str, usage: x509.ObjectIdentifier,
              more: Sequence[tuple[x509.ExtensionType, bool]]) -> tuple[PrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        return key, self._issue(key.public_key(), email, issuer, usage, more)

    def _issue(self, key: PublicKey, email: str, issuer: str, usage: x509.ObjectIdentifier,
               more: Sequence[tuple[x509.ExtensionType, bool]]) -> x509.Certificate:
        raw = issuer.encode()
        return certificate("leaf", key, "middle", self._middle_key, minutes=10, now=self._now, extensions=[
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName([x509.RFC822Name(email)]), True),
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), raw), False),
            (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"),
                                        bytes([0x0C, len(raw)]) + raw), False), *more])


def certificate(name: str, key: PublicKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *,
                ca: int | None = None, minutes: int, now: int = NOW,
                extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()) -> x509.Certificate:
    """For a public key; valid for some minutes from `now`. `ca` is how many authorities may be below this one; None
    when it is none."""
    start = datetime.fromtimestamp(now, UTC)
    builder = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key,
        x509.random_serial_number(), start - timedelta(minutes=1), start + timedelta(minutes=minutes),
    ).add_extension(x509.BasicConstraints(ca is not None, ca), critical=True)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, hashes.SHA256())


@dataclass(frozen=True)
class Signatures:
    """The artifact that holds signatures; it is pushed like an image."""

    signatures: Sequence[Signature]
    media_type: str = OCI_MANIFEST
    layer_type: str = "application/vnd.dev.cosign.simplesigning.v1+json"
    config: bytes = field(default=b'{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}')

    @staticmethod
    def tag(digest: str) -> str:
        return digest.replace(":", "-") + ".sig"

    @property
    def manifest_bytes(self) -> bytes:
        layers: list[dict[str, Any]] = [
            {"mediaType": self.layer_type, "digest": sha256(one.payload), "size": len(one.payload),
             "annotations": one.annotations} for one in self.signatures]
        return to_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers, "config": {
            "mediaType": OCI_CONFIG, "digest": sha256(self.config), "size": len(self.config)}})

    @property
    def manifest_digest(self) -> str:
        return sha256(self.manifest_bytes)

    def blobs(self) -> dict[str, bytes]:
        return {sha256(one.payload): one.payload for one in self.signatures} | {sha256(self.config): self.config}

    def manifests(self) -> dict[str, tuple[str, bytes]]:
        return {self.manifest_digest: (self.media_type, self.manifest_bytes)}

    def add_to(self, layout: Path, digest: str) -> None:
        """Put them into an image layout, as those of the manifest with that digest."""
        for one, data in (*self.blobs().items(), (self.manifest_digest, self.manifest_bytes)):
            (layout / "blobs" / one.replace(":", "/")).write_bytes(data)
        index = json.loads((layout / "index.json").read_text())
        index["manifests"].append({
            "mediaType": self.media_type, "digest": self.manifest_digest, "size": len(self.manifest_bytes),
            "annotations": {"org.opencontainers.image.ref.name": self.tag(digest)}})
        (layout / "index.json").write_text(json.dumps(index))
