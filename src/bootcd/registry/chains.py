# SPDX-License-Identifier: Apache-2.0
"""Certificates (X.509), and whether one comes from an authority for a purpose.

It does when a chain of at most `_MAX_CHAIN` certificates leads to one of the authority, each valid at the time in
question, each but the first allowed to issue certificates and, where it says what they may be for, for this purpose.
The first has to say so, and to be allowed to sign.

Source: RFC 5280 (sections 4.2.1 and 6.1). Purposes bind whatever is below, as in Go's crypto/x509 and in OpenSSL.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ..errors import SignatureError
from .keys import Key, usable

CODE_SIGNING = x509.oid.ExtendedKeyUsageOID.CODE_SIGNING
TIME_STAMPING = x509.oid.ExtendedKeyUsageOID.TIME_STAMPING

MALFORMED = (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
             x509.UnsupportedGeneralNameType)
"""What cryptography raises, at whatever is asked, for certificates that make no sense to it: KeyError is for names of
unknown string types, in Debian 12."""

_MAX_CHAIN = 5
_MAX_CERTIFICATES = 20
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"
_NAMES = {CODE_SIGNING: "signing code", TIME_STAMPING: "time stamps"}
_ANY = x509.ObjectIdentifier("2.5.29.37.0")

E = TypeVar("E", bound=x509.ExtensionType)

_UNDERSTOOD = {
    x509.oid.ExtensionOID.BASIC_CONSTRAINTS, x509.oid.ExtensionOID.KEY_USAGE,
    x509.oid.ExtensionOID.EXTENDED_KEY_USAGE, x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
"""What may be critical: name constraints and the like are not honoured here, so they must not be passed over."""


def load_pem(data: bytes) -> list[x509.Certificate]:
    """All in a PEM file. Raises SignatureError."""
    pieces = data.split(_BEGIN)[1:]
    if len(pieces) > _MAX_CERTIFICATES:
        raise SignatureError(f"more than {_MAX_CERTIFICATES} certificates")
    return [_load(_BEGIN + piece.partition(_END)[0] + _END + b"\n", pem=True) for piece in pieces]


def load_der(data: bytes) -> x509.Certificate:
    """Raises SignatureError."""
    return _load(data, pem=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of cryptography: what is odd in a certificate is nothing that our users can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _load(data: bytes, *, pem: bool) -> x509.Certificate:
    try:
        with quiet():
            return x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except MALFORMED:
        raise SignatureError("a certificate that cannot be read") from None


def key_of(certificate: x509.Certificate) -> Key:
    """Raises SignatureError when it is of no kind that we verify with."""
    try:
        return usable(certificate.public_key())
    except MALFORMED:
        raise SignatureError("a certificate with a key that cannot be read") from None


def check(leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate],
          purpose: x509.ObjectIdentifier, when: datetime, what: str) -> None:
    """Whether `leaf` comes from an authority of `roots`, by way of certificates from `between`; `what` begins what is
    said of it. Raises SignatureError, and what is in `MALFORMED`."""
    _check_times(leaf, when, what)
    strange = _not_understood(leaf)
    if strange:
        raise SignatureError(f"{what} has a critical extension {strange}, which is not understood")
    _check_chain(leaf, between, roots, purpose, when, what)
    usage = extension(leaf, x509.ExtendedKeyUsage)
    if usage is None or purpose not in usage:
        raise SignatureError(f"{what} is not for {_NAMES[purpose]}")
    use = extension(leaf, x509.KeyUsage)
    if use is not None and not use.digital_signature and not use.content_commitment:
        raise SignatureError(f"{what} is not for signatures")


def _check_chain(leaf: x509.Certificate, between: Sequence[x509.Certificate], roots: Sequence[x509.Certificate],
                 purpose: x509.ObjectIdentifier, when: datetime, what: str) -> None:
    current, late = leaf, None
    for below in range(_MAX_CHAIN):
        issuers = [one for one in roots if _issued(one, current, below, purpose)]
        if any(_valid(one, when) for one in issuers):
            return
        late = late or next(iter(issuers), None)
        above = [one for one in between if one != current and _issued(one, current, below, purpose)]
        if not above:
            break
        current = next((one for one in above if _valid(one, when)), above[0])
        _check_times(current, when, f"{what} comes from one that")
    if late is not None:
        _check_times(late, when, f"{what} comes from one that")
    raise SignatureError(f"{what} does not come from the authority that the {_whose(purpose)} names")


def _whose(purpose: x509.ObjectIdentifier) -> str:
    return "policy" if purpose == CODE_SIGNING else "configuration"


def _issued(issuer: x509.Certificate, certificate: x509.Certificate, below: int, purpose: x509.ObjectIdentifier
            ) -> bool:
    """Whether one certificate is signed by another that is allowed to do so, for this purpose, with `below` authorities
    below it."""
    constraints = extension(issuer, x509.BasicConstraints)
    usage, purposes = extension(issuer, x509.KeyUsage), extension(issuer, x509.ExtendedKeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        return False
    if purposes is not None and purpose not in purposes and _ANY not in purposes:
        return False
    if (constraints.path_length is not None and constraints.path_length < below) or _not_understood(issuer):
        return False
    return issuer.subject == certificate.issuer and _signed(key_of(issuer), certificate)


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
    return next((one.oid.dotted_string for one in certificate.extensions
                 if one.critical and one.oid not in _UNDERSTOOD), "")


def _check_times(certificate: x509.Certificate, when: datetime, what: str) -> None:
    if not _valid(certificate, when):
        start, end = _period(certificate)
        raise SignatureError(f"{what} is valid from {start.isoformat()} to {end.isoformat()}, and was used at "
                             f"{when.isoformat()}")


def _valid(certificate: x509.Certificate, when: datetime) -> bool:
    start, end = _period(certificate)
    return start <= when <= end


def _period(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    if hasattr(certificate, "not_valid_before_utc"):  # cryptography 42; the older names warn there
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """Raises what is in `MALFORMED`."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
