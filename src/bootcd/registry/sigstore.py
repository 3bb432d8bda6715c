# SPDX-License-Identifier: Apache-2.0
"""Signatures of sigstore, as cosign and skopeo attach them to an image in its registry.

    REPOSITORY:sha256-HEX.sig      a manifest; each layer is a payload (formats/simplesigning.py) whose annotations hold
        dev.cosignproject.cosign/signature    base64 of the signature over it
        dev.sigstore.cosign/certificate       PEM, when it was made with a certificate
        dev.sigstore.cosign/chain             PEM, what is between that and an authority
        dev.sigstore.cosign/bundle            what the log Rekor says of it (formats/rekor.py)

Nothing of that is trusted before a key that the policy names has verified it. Verified is what was said, by whom, and,
with a certificate, that it was said while the certificate was valid: by the time that the log vouches for, since these
certificates live ten minutes.

Source: cosign's SIGNATURE_SPEC.md, sigstore's client specification, Fulcio's oid-info.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from ..errors import BlobMismatch, BlobNotFound, ImageNotFound, OciError, SignatureError
from ..formats import rekor, simplesigning
from ..formats.documents import parse_object
from ..formats.oci import Descriptor, signature_tag
from ..formats.trustpolicy import SigstoreSigned
from .blob import read_blob
from .fulcio import Authority, Leaf
from .keys import Key, fingerprint, load_keys, parse_key, verifies
from .sources import Source

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
"""Media type of the layers that count."""

MAX_SIGNATURES = 100
"""Of one image. Whoever can push can add more; they would only cost time."""

MAX_FILE = 128 << 10
"""Bytes of one signature in a file."""

_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_CHAIN = "dev.sigstore.cosign/chain"
_BUNDLE = "dev.sigstore.cosign/bundle"


class SigstoreSignature(Protocol):
    """One signature as it was found; `origin` says where. Everything else raises SignatureError."""

    @property
    def origin(self) -> str: ...

    def signature(self) -> bytes: ...

    def message(self) -> bytes:
        """What is signed."""

    def payload(self) -> bytes:
        """What is said, which is in `message`."""

    def leaf(self) -> Leaf:
        """The certificate of the signer."""

    def logged(self) -> tuple[rekor.LogEntry, ...]:
        """What logs say of it; at least one says something."""

    def claim(self) -> simplesigning.Claim:
        """What is said of an image, to be asked once the signature is verified."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A SigstoreSignature in a layer, or in a file of skopeo's."""

    origin: str
    content: bytes
    annotations: Mapping[str, str]

    def signature(self) -> bytes:
        try:
            return base64.b64decode(_annotation(self.annotations, _SIGNATURE), validate=True)
        except (binascii.Error, ValueError):
            raise SignatureError(f"its annotation {_SIGNATURE} is not base64") from None

    def message(self) -> bytes:
        if not self.content:
            raise SignatureError(f"its payload is missing, damaged or larger than {simplesigning.MAX_PAYLOAD} bytes")
        return self.content

    def payload(self) -> bytes:
        return self.content

    def leaf(self) -> Leaf:
        return Leaf.parse(_annotation(self.annotations, _CERTIFICATE).encode(),
                          self.annotations.get(_CHAIN, "").encode())

    def logged(self) -> tuple[rekor.LogEntry, ...]:
        return (rekor.parse_bundle(_annotation(self.annotations, _BUNDLE).encode()),)

    def claim(self) -> simplesigning.Claim:
        return simplesigning.parse_claim(self.content, simplesigning.COSIGN)


def attachments(source: Source, digest: str) -> Iterator[Attachment]:
    """The signatures of a manifest, as they are read. Raises OciError when there are too many or what holds them is
    malformed, and what a source raises."""
    tag = signature_tag(digest)
    try:
        manifest = source.companion(tag)
    except ImageNotFound:
        return
    layers = [layer for layer in manifest.layers if layer.media_type == PAYLOAD]
    if len(layers) > MAX_SIGNATURES:
        raise OciError(f"{source.reference}: {tag} holds {len(layers)} signatures, more than {MAX_SIGNATURES}")
    for number, layer in enumerate(layers, 1):
        yield Attachment(f"{tag}, signature {number}", _payload(source, layer), layer.annotations)


def _payload(source: Source, layer: Descriptor) -> bytes:
    try:
        return read_blob(source, layer, simplesigning.MAX_PAYLOAD)
    except (OciError, BlobMismatch, BlobNotFound):
        return b""  # one that is broken shall not hide the others


_PREFIX = b"\0sigstore-json\n"


def parse_attachment(origin: str, data: bytes) -> Attachment | None:
    """A signature in a file, as skopeo keeps it; None for what is none of sigstore's. One that is malformed has no
    payload, and so does not count."""
    if not data.startswith(_PREFIX):
        return None
    try:
        found = parse_object(data.removeprefix(_PREFIX), "signature", MAX_FILE, SignatureError)
        if found.string("mimeType") != PAYLOAD:
            return None
        payload = found.decoded("payload")
        return Attachment(origin, payload if len(payload) <= simplesigning.MAX_PAYLOAD else b"",
                          found.strings("annotations"))
    except SignatureError:
        return Attachment(origin, b"", {_SIGNATURE: "AA=="})


class SigstoreVerifier:
    """Verifies by one requirement of a policy."""

    def __init__(self, requirement: SigstoreSigned) -> None:
        """Raises TrustPolicyError when a key that it names cannot be used."""
        self._keys = load_keys(requirement.keys)
        self._rekor_keys = load_keys(requirement.rekor_keys)
        self._authority = Authority(requirement.fulcio) if requirement.fulcio is not None else None

    def verify(self, found: SigstoreSignature) -> tuple[simplesigning.Claim, str]:
        """The claim and who made it, in words. Raises SignatureError, which says why it does not count."""
        found.signature()
        signer = self._by_key(found) if self._authority is None else self._by_certificate(found, self._authority)
        return found.claim(), signer

    def _by_key(self, found: SigstoreSignature) -> str:
        for trusted in self._keys:
            if verifies(trusted.key, found.signature(), found.message()):
                break
        else:
            raise SignatureError("it was not made by a key that the policy names")
        seen = ""
        if self._rekor_keys:
            entry = self._entry(found)
            if fingerprint(_logged_key(entry.key)) != trusted.fingerprint:
                raise SignatureError("the log entry is about another key")
            seen = f", logged {_when(entry.time)}"
        return f"sigstore key {trusted.fingerprint[:16]} ({trusted.origin}){seen}"

    def _by_certificate(self, found: SigstoreSignature, authority: Authority) -> str:
        leaf = found.leaf()
        entry = self._entry(found)
        if Leaf.parse(entry.key).der != leaf.der:
            raise SignatureError("the log entry is about another certificate")
        email = authority.check(leaf, entry.time)
        if not verifies(leaf.key, found.signature(), found.message()):
            raise SignatureError("it was not made with the key of its certificate")
        return f"{email} by {authority.issuer}, logged {_when(entry.time)}"

    def _entry(self, found: SigstoreSignature) -> rekor.LogEntry:
        """What the log says, verified, and about this very signature."""
        entries = [entry for entry in found.logged()
                   if any(verifies(log.key, entry.promise, entry.signed) for log in self._rekor_keys)]
        if not entries:
            raise SignatureError("the log entry was not made by a log that the policy names")
        for entry in entries:
            logged = found.payload() if entry.of_payload else found.message()
            if entry.digest == hashlib.sha256(logged).hexdigest() and entry.signature == found.signature():
                return entry
        raise SignatureError("the log entry is about another signature")


def _annotation(annotations: Mapping[str, str], key: str) -> str:
    text = annotations.get(key)
    if not text:
        raise SignatureError(f"it has no annotation {key}")
    return text


def _logged_key(data: bytes) -> Key:
    return Leaf.parse(data).key if b"CERTIFICATE" in data else parse_key(data)


def _when(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
