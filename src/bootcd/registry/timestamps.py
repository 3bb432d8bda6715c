# SPDX-License-Identifier: Apache-2.0
"""Authorities whose time stamps count: those whose certificates the configuration has in a file.

A time stamp counts when it is over the bytes that it is held against, was made by a certificate for nothing but time
stamps, and that comes from an authority in the file (`chains`), all valid at the time that it says. Certificates that
it brings may stand between; it may also leave them out, and then they have to be in the file, with its own.

Source: RFC 3161 (sections 2.3 and 2.4.2), RFC 5652 (section 5.4), RFC 5754 and RFC 8419 (signature algorithms).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import SignatureError, TrustPolicyError
from ..formats.cms import SignedData
from ..formats.documents import shown
from ..formats.timestamp import TimeStamp, parse_response
from ..formats.trustpolicy import KeyFile
from . import chains
from .keys import contents

_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_ECDSA = {"1.2.840.10045.4.3.2": "sha256", "1.2.840.10045.4.3.3": "sha384", "1.2.840.10045.4.3.4": "sha512"}
_RSA = {"1.2.840.113549.1.1.11": "sha256", "1.2.840.113549.1.1.12": "sha384", "1.2.840.113549.1.1.13": "sha512",
        "1.2.840.113549.1.1.1": ""}
"""The last one leaves the hash to the signer."""
_ED25519 = "1.3.101.112"


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time stamp that counts: when it was made, in seconds since 1970, and the name of who made it."""

    time: int
    by: str


class TimeAuthorities:
    """The authorities in one file of certificates in PEM."""

    def __init__(self, file: str) -> None:
        """Raises TrustPolicyError when it cannot be used."""
        self.file = file
        try:
            with chains.quiet():
                found = chains.load_pem(contents(KeyFile(file)))
                self._roots = [one for one in found if _is_authority(one)]
        except (SignatureError, *chains.MALFORMED) as error:
            raise TrustPolicyError(f"{file}: {error}") from None
        if not self._roots:
            raise TrustPolicyError(f"{file}: holds no certificate of an authority in PEM")
        self._others = [one for one in found if one not in self._roots]

    def check(self, response: bytes, data: bytes) -> Stamp:
        """When there was `data`. Raises SignatureError, which says why it does not count."""
        stamp = parse_response(response)
        if hashlib.new(stamp.algorithm, data).digest() != stamp.imprint:
            raise SignatureError("it is about something else than this signature")
        try:
            with chains.quiet():
                return self._check(stamp)
        except chains.MALFORMED as error:
            raise SignatureError(f"it has a certificate that is malformed: {shown(str(error))}") from None

    def _check(self, stamp: TimeStamp) -> Stamp:
        between = [chains.load_der(one) for one in stamp.signed.certificates]
        signer = _signer(stamp, [*self._others, *between])
        when = datetime.fromtimestamp(stamp.time, UTC)
        chains.check(signer, between, self._roots, chains.TIME_STAMPING, when, "its authority's certificate")
        uses = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        if not uses.critical or len(list(uses.value)) != 1:
            raise SignatureError("its authority's certificate is for other things as well as time stamps")
        if not _verifies(signer, stamp.signed):
            raise SignatureError("it was not made with the key of its authority's certificate")
        return Stamp(stamp.time, _name(signer))


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = chains.extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _signer(stamp: TimeStamp, certificates: Sequence[x509.Certificate]) -> x509.Certificate:
    """The certificate that the signature names, and that is named in what is signed."""
    named = [one for one in certificates if _is_named(one, stamp.signed)]
    if not named:
        raise SignatureError("its authority's certificate is neither with it nor in the file of the configuration")
    for one in named:
        if hashlib.new(stamp.certificate_hash, one.public_bytes(Encoding.DER)).digest() == stamp.certificate:
            return one
    raise SignatureError("it was made with another certificate of the same name")


def _is_named(certificate: x509.Certificate, signed: SignedData) -> bool:
    if not signed.key_id:
        return certificate.issuer.public_bytes() == signed.issuer and certificate.serial_number == signed.serial
    identifier = chains.extension(certificate, x509.SubjectKeyIdentifier)
    return identifier is not None and identifier.digest == signed.key_id


def _verifies(signer: x509.Certificate, signed: SignedData) -> bool:
    key, algorithm = chains.key_of(signer), signed.algorithm
    try:
        if isinstance(key, ed25519.Ed25519PublicKey) and algorithm == _ED25519:
            key.verify(signed.signature, signed.signed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm in _ECDSA:
            key.verify(signed.signature, signed.signed, ec.ECDSA(_HASHES[_ECDSA[algorithm]]))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm in _RSA:
            key.verify(signed.signature, signed.signed, padding.PKCS1v15(), _HASHES[_RSA[algorithm] or signed.hash])
        else:
            raise SignatureError(f"it is signed in a way that is not accepted ({algorithm})")
    except InvalidSignature:
        return False
    return True


def _name(certificate: x509.Certificate) -> str:
    """The common name, or all of it."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    text = str(names[0].value) if names else certificate.subject.rfc4514_string()
    return text if text.isprintable() and len(text) <= 120 else shown(text)
