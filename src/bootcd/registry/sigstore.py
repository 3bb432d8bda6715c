# SPDX-License-Identifier: Apache-2.0
"""Signatures of sigstore, as cosign and skopeo attach them to an image in its registry.

    REPOSITORY:sha256-HEX.sig      a manifest; each layer is a payload (formats/simplesigning.py) whose annotations hold
        dev.cosignproject.cosign/signature    base64 of the signature over it
        dev.sigstore.cosign/certificate       PEM, when it was made with a certificate
        dev.sigstore.cosign/chain             PEM, what is between that and an authority
        dev.sigstore.cosign/bundle            what the log Rekor says of it (formats/rekor.py)

Nothing of that is trusted before a key that the policy names has verified it. Verified is what was said, by whom, and,
with a certificate, that it was said while the certificate was valid, which is ten minutes: by the time that a log
vouches for (`transparency`), or an authority (`timestamps`). Where several do, none may say a time that does not fit.

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
from .keys import Key, fingerprint, load_keys, parse_der_key, parse_key, verifies
from .sources import Source
from .timestamps import Stamp, TimeAuthorities
from .transparency import Logged, Logs

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

    def stamps(self) -> tuple[bytes, ...]:
        """Time stamps of the signature."""

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

    def stamps(self) -> tuple[bytes, ...]:
        return ()

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
    """Verifies by one requirement of a policy, and time stamps by the authorities of the configuration."""

    def __init__(self, requirement: SigstoreSigned, times: TimeAuthorities | None = None) -> None:
        """Raises TrustPolicyError when a key that it names cannot be used."""
        self._keys = load_keys(requirement.keys)
        self._logs = Logs(load_keys(requirement.rekor_keys)) if requirement.rekor_keys else None
        self._authority = Authority(requirement.fulcio) if requirement.fulcio is not None else None
        self._times = times

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
        if self._logs is not None:
            logged = self._logged(found, self._logs)[0]
            if fingerprint(_logged_key(logged.entry.body.key)) != trusted.fingerprint:
                raise SignatureError("the log entry is about another key")
            seen = _seen(logged)
        return f"sigstore key {trusted.fingerprint[:16]} ({trusted.origin}){seen}"

    def _by_certificate(self, found: SigstoreSignature, authority: Authority) -> str:
        leaf = found.leaf()
        if self._logs is None:  # the policy's parser asks for one
            raise SignatureError("the policy names no log")
        logged = self._logged(found, self._logs)
        if any(_logged_certificate(one.entry.body.key).der != leaf.der for one in logged):
            raise SignatureError("the log entry is about another certificate")
        stamps = self._stamped(found, needed=all(one.time is None for one in logged))
        times = [one.time for one in logged if one.time is not None] + [one.time for one in stamps]
        authority.check(leaf, times)
        if not verifies(leaf.key, found.signature(), found.message()):
            raise SignatureError("it was not made with the key of its certificate")
        stamped = "".join(f", time stamped {_when(one.time)} by {one.by}" for one in stamps[:1])
        return f"{authority.email} by {authority.issuer}{_seen(logged[0])}{stamped}"

    def _logged(self, found: SigstoreSignature, logs: Logs) -> list[Logged]:
        """What logs say, verified, and about this very signature; at least one does."""
        counted: list[Logged] = []
        reasons: list[str] = []
        for entry in found.logged():
            try:
                counted.append(logs.check(entry))
            except SignatureError as error:
                reasons.append(str(error))
        about = [one for one in counted if _is_about(one.entry.body, found)]
        if not about:
            raise SignatureError("the log entry is about another signature" if counted else reasons[0])
        return about

    def _stamped(self, found: SigstoreSignature, *, needed: bool) -> list[Stamp]:
        """The time stamps that count. Raises SignatureError when none does and one is needed."""
        given = found.stamps()
        counted: list[Stamp] = []
        reasons: list[str] = []
        for stamp in given:
            if self._times is None:
                reasons.append("[trust] timestamp-ca-file in bootcd.toml names nobody whose time stamps do")
                break
            try:
                counted.append(self._times.check(stamp, found.signature()))
            except SignatureError as error:
                reasons.append(str(error))
        if counted or not needed:
            return counted
        if not given:
            raise SignatureError("the log does not say when it was logged, and it has no time stamp")
        raise SignatureError(f"its time stamp does not count: {'; '.join(dict.fromkeys(reasons))}")


def _is_about(body: rekor.Body, found: SigstoreSignature) -> bool:
    data = found.payload() if body.of_payload else found.message()
    return hashlib.new(body.algorithm, data).digest() == body.digest and body.signature == found.signature()


def _seen(logged: Logged) -> str:
    return f", logged {f'{_when(logged.time)} ' if logged.time is not None else ''}{logged.where}"


def _annotation(annotations: Mapping[str, str], key: str) -> str:
    text = annotations.get(key)
    if not text:
        raise SignatureError(f"it has no annotation {key}")
    return text


def _logged_key(data: bytes) -> Key:
    """Rekor 1 has PEM, Rekor 2 DER."""
    if data.lstrip().startswith(b"-----BEGIN "):
        return Leaf.parse(data).key if b"-----BEGIN CERTIFICATE-----" in data else parse_key(data)
    try:
        return parse_der_key(data)
    except SignatureError:
        return Leaf.of_der(data).key


def _logged_certificate(data: bytes) -> Leaf:
    return Leaf.parse(data) if data.lstrip().startswith(b"-----BEGIN ") else Leaf.of_der(data)


def _when(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")
