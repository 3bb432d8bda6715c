# SPDX-License-Identifier: Apache-2.0
"""Certificates of Fulcio: an authority that gives whoever logs in a certificate with their e-mail address, for ten
minutes.

A certificate holds when a chain of at most `_MAX_CHAIN` certificates leads to one of the authority, each valid at the
time of the signature, each but the first allowed to issue certificates, and the first allowed to sign code; and when it
names exactly the address and the identity provider that the policy asks for.

Source: RFC 5280 (sections 4.2.1 and 6.1), Fulcio's oid-info.md and certificate-specification.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import SignatureError, TrustPolicyError
from ..formats.trustpolicy import Fulcio
from .keys import Key, contents, usable

_MAX_CHAIN = 5
_MAX_CERTIFICATES = 20
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The identity provider as plain text: what older instances write, and newer ones as well."""
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The same as a DER UTF8String."""
E = TypeVar("E", bound=x509.ExtensionType)

_UNDERSTOOD = {
    x509.oid.ExtensionOID.BASIC_CONSTRAINTS, x509.oid.ExtensionOID.KEY_USAGE,
    x509.oid.ExtensionOID.EXTENDED_KEY_USAGE, x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
"""What may be critical: name constraints and the like are not honoured here, so they must not be passed over."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate of a signer, and what came with it to lead to an authority."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def parse(cls, data: bytes, chain: bytes = b"") -> Leaf:
        """From PEM. Raises SignatureError."""
        found = _certificates(data)
        if len(found) != 1:
            raise SignatureError(f"{len(found)} certificates in the place of one")
        return cls(found[0], tuple(_certificates(chain)) if chain.strip() else ())

    @classmethod
    def of_der(cls, data: bytes) -> Leaf:
        """Without anything between it and an authority. Raises SignatureError."""
        try:
            return cls(x509.load_der_x509_certificate(data), ())
        except (ValueError, UnsupportedAlgorithm):
            raise SignatureError("a certificate that cannot be read") from None

    @property
    def key(self) -> Key:
        """Raises SignatureError when it is of no kind that we verify with."""
        return _key(self.certificate)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


class Authority:
    """What a policy says of certificates."""

    def __init__(self, policy: Fulcio) -> None:
        """Raises TrustPolicyError when the certificates of the authority cannot be used."""
        try:
            self._roots = _certificates(contents(policy.authority))
        except SignatureError as error:
            raise TrustPolicyError(f"{policy.authority}: {error}") from None
        if not self._roots:
            raise TrustPolicyError(f"{policy.authority}: holds no certificate in PEM")
        self.issuer = policy.issuer
        self._email = policy.email

    def check(self, leaf: Leaf, time: int) -> str:
        """The address of the signer, when the certificate holds at `time`, in seconds since 1970. Raises
        SignatureError."""
        try:
            self._check(leaf, datetime.fromtimestamp(time, UTC))
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm) as error:
            raise SignatureError(f"its certificate is malformed: {error}") from None
        return self._email

    def _check(self, leaf: Leaf, when: datetime) -> None:
        certificate = leaf.certificate
        _check_times(certificate, when)
        strange = _not_understood(certificate)
        if strange:
            raise SignatureError(f"its certificate has a critical extension {strange}, which is not understood")
        self._check_chain(certificate, leaf.chain, when)
        usage = _extension(certificate, x509.ExtendedKeyUsage)
        if usage is None or x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in usage:
            raise SignatureError("its certificate is not for signing code")
        names = _extension(certificate, x509.SubjectAlternativeName)
        emails = names.get_values_for_type(x509.RFC822Name) if names is not None else []
        if self._email not in emails:
            raise SignatureError(f"its certificate is for {', '.join(emails) or 'no e-mail address'}, "
                                 f"not for {self._email}")
        issuer = _issuer(certificate)
        if issuer != self.issuer:
            raise SignatureError(f"its signer logged in at {issuer or 'no identity provider'}, not at {self.issuer}")

    def _check_chain(self, leaf: x509.Certificate, chain: Sequence[x509.Certificate], when: datetime) -> None:
        current = leaf
        for below in range(_MAX_CHAIN):
            if any(_issued(root, current, below) and _valid(root, when) for root in self._roots):
                return
            above = [one for one in chain if one != current and _issued(one, current, below)]
            if not above:
                break
            current = above[0]
            _check_times(current, when)
        raise SignatureError("its certificate does not come from the authority that the policy names")



def _certificates(data: bytes) -> list[x509.Certificate]:
    """All in a PEM file. Raises SignatureError."""
    pieces = data.split(_BEGIN)[1:]
    if len(pieces) > _MAX_CERTIFICATES:
        raise SignatureError(f"more than {_MAX_CERTIFICATES} certificates")
    try:
        return [x509.load_pem_x509_certificate(_BEGIN + piece.partition(_END)[0] + _END + b"\n") for piece in pieces]
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError("a certificate that cannot be read") from None


def _key(certificate: x509.Certificate) -> Key:
    try:
        return usable(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError("a certificate with a key that cannot be read") from None


def _issued(issuer: x509.Certificate, certificate: x509.Certificate, below: int) -> bool:
    """Whether one certificate is signed by another that is allowed to do so with `below` authorities below it."""
    constraints = _extension(issuer, x509.BasicConstraints)
    usage = _extension(issuer, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        return False
    if (constraints.path_length is not None and constraints.path_length < below) or _not_understood(issuer):
        return False
    return issuer.subject == certificate.issuer and _signed(_key(issuer), certificate)


def _signed(key: Key, certificate: x509.Certificate) -> bool:
    signature, data = certificate.signature, certificate.tbs_certificate_bytes
    kind = certificate.signature_hash_algorithm
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif kind is None or kind.digest_size < 32:
            return False
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(kind))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), kind)
    except InvalidSignature:
        return False
    return True


def _not_understood(certificate: x509.Certificate) -> str:
    """The number of a critical extension that is not honoured here, if there is one."""
    return next((extension.oid.dotted_string for extension in certificate.extensions
                 if extension.critical and extension.oid not in _UNDERSTOOD), "")


def _check_times(certificate: x509.Certificate, when: datetime) -> None:
    if not _valid(certificate, when):
        start, end = _period(certificate)
        raise SignatureError(f"its certificate is valid from {start.isoformat()} to {end.isoformat()}, and was used "
                             f"at {when.isoformat()}")


def _valid(certificate: x509.Certificate, when: datetime) -> bool:
    start, end = _period(certificate)
    return start <= when <= end


def _period(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    if hasattr(certificate, "not_valid_before_utc"):  # cryptography 42; the older names warn there
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def _extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _issuer(certificate: x509.Certificate) -> str:
    """The identity provider. Where it is written in both ways, both must say the same."""
    found = set()
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension) and extension.oid in (_ISSUER, _ISSUER_V2):
            raw = extension.value.value
            found.add((_utf8(raw) if extension.oid == _ISSUER_V2 else raw).decode("utf-8", "replace"))
    if len(found) > 1:
        raise SignatureError("its certificate names two identity providers")
    return found.pop() if found else ""


def _utf8(der: bytes) -> bytes:
    """The text of a DER UTF8String (X.690 section 8.23) that is not longer than 64 KiB. Raises SignatureError."""
    if len(der) >= 2 and der[0] == 0x0C:
        count = der[1] & 0x7F if der[1] & 0x80 else 0
        size = int.from_bytes(der[2:2 + count], "big") if count else der[1]
        if count <= 2 and len(der) == 2 + count + size:
            return der[2 + count:]
    raise SignatureError("its certificate names its identity provider in a malformed way")
