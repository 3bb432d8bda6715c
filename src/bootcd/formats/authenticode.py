# SPDX-License-Identifier: Apache-2.0
"""Signatures of EFI programs: PKCS#7 around the digest of a PE file (RFC 2315; Windows Authenticode Portable Executable
Signature Format), and the lists of keys that the firmware trusts (UEFI 2.10, 32.4.1).

    SignedData      content: type SpcIndirectData, the digest of the file; certificates; one signer
    signer          issuer and serial number of its certificate; attributes, with the digest of the content; a
                    signature over the attributes
    signature list  GUID of the type, u32 size of all, u32 size of the header, u32 size of each; header; each: GUID of
                    the owner, data

What firmware does not look at, such as dates and uses of a key, is not looked at here.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ..errors import PeError
from . import der
from .der import DerError, Element

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_HASHES: dict[bytes, tuple[str, hashes.HashAlgorithm]] = {
    bytes.fromhex("608648016503040201"): ("sha256", hashes.SHA256()),
    bytes.fromhex("608648016503040202"): ("sha384", hashes.SHA384()),
    bytes.fromhex("608648016503040203"): ("sha512", hashes.SHA512()),
}
_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
_LIST = struct.Struct("<16sIII")
_OWNER = 16
_UNREADABLE = (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What cryptography raises for certificates that make no sense to it: KeyError is for names of unknown string types, in
Debian 12."""
_MAX_CHAIN = 8


@dataclass(frozen=True, slots=True)
class Signature:
    """One that is right in itself: by the key of `signer` over `digest`, which is of `algorithm` as hashlib calls it.
    Whether that is the digest of the file, and whether anybody trusts the key, is for others to find out."""

    signer: x509.Certificate
    others: tuple[x509.Certificate, ...]
    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, pkcs7: bytes) -> Signature:
        """Raises PeError when it is malformed, by unknown algorithms, or not made by the key that it names."""
        try:
            return cls._parse(pkcs7)
        except InvalidSignature:
            raise PeError("the signature was not made by the key that it names") from None
        except DerError as error:
            raise PeError(f"the signature is malformed: {error}") from None
        except _UNREADABLE as error:
            raise PeError(f"the signature cannot be checked: {error}") from None

    @classmethod
    def _parse(cls, pkcs7: bytes) -> Signature:
        outer = der.first(pkcs7)
        if outer.child(0, der.OID).content != _SIGNED_DATA:
            raise PeError("the signature is no PKCS#7 signature")
        version, _, content, *rest = outer.child(1, der.context(0)).child(0, der.SEQUENCE).children()
        if version.tag != der.INTEGER or content.child(0, der.OID).content != _INDIRECT_DATA:
            raise PeError("the signature is not one of a program")
        indirect = content.child(1, der.context(0)).child(0, der.SEQUENCE)
        info = indirect.child(1, der.SEQUENCE)
        algorithm, _ = _hash_of(info.child(0, der.SEQUENCE))
        certificates = [_load(one.whole) for element in rest
                        if element.tag == der.context(0) for one in element.children() if one.tag == der.SEQUENCE]
        signers = rest[-1].children() if rest and rest[-1].tag == der.SET else []
        if len(signers) != 1:
            raise PeError(f"the signature has {len(signers)} signers")
        signer = _check_signer(signers[0], indirect.content, certificates)
        signer.subject.rfc4514_string()  # is read only now, and may be malformed
        return cls(signer, tuple(one for one in certificates if one != signer), algorithm,
                   info.child(1, der.OCTETS).content)

    @property
    def subject(self) -> str:
        """Who signed, as the certificate says (RFC 4514)."""
        return self.signer.subject.rfc4514_string()


@dataclass(frozen=True, slots=True)
class KeyList:
    """What a variable of the firmware lists: certificates, and SHA-256 digests of programs."""

    certificates: tuple[x509.Certificate, ...] = ()
    digests: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, data: bytes) -> KeyList:
        """A concatenation of signature lists. Types that are not known here are passed over. Raises PeError."""
        certificates: list[x509.Certificate] = []
        digests: set[bytes] = set()
        at = 0
        while at < len(data):
            if at + _LIST.size > len(data):
                raise PeError("a list of keys of the firmware is cut off")
            kind, size, header, each = _LIST.unpack_from(data, at)
            entries = data[at + _LIST.size + header : at + size]
            if size < _LIST.size + header or at + size > len(data) or each <= _OWNER or len(entries) % each:
                raise PeError("a list of keys of the firmware is malformed")
            for start in range(_OWNER, len(entries), each):
                entry = entries[start : start + each - _OWNER]
                if UUID(bytes_le=kind) == _SHA256:
                    digests.add(entry)
                elif UUID(bytes_le=kind) == _X509:
                    try:
                        certificates.append(_load(entry))
                    except _UNREADABLE as error:
                        raise PeError(f"a key of the firmware cannot be read: {error}") from None
            at += size
        return cls(tuple(certificates), frozenset(digests))

    def covers(self, signature: Signature, digest: bytes) -> bool:
        """Whether it lists the program with this SHA-256 digest, the key that signed it, or one that vouches for that
        key."""
        return digest in self.digests or any(one in self.certificates for one in self._chain(signature))

    def _chain(self, signature: Signature) -> Iterable[x509.Certificate]:
        here = signature.signer
        for _ in range(_MAX_CHAIN):
            yield here
            above = [one for one in (*self.certificates, *signature.others) if one != here and _issued(one, here)]
            if not above:
                return
            here = above[0]


def _load(data: bytes) -> x509.Certificate:
    with warnings.catch_warnings():  # what is odd in a certificate is nothing that our users can mend
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(data)


def _serial(certificate: x509.Certificate) -> int:
    with warnings.catch_warnings():  # the same for a number that is not positive
        warnings.simplefilter("ignore")
        return certificate.serial_number


def _hash_of(algorithm: Element) -> tuple[str, hashes.HashAlgorithm]:
    found = _HASHES.get(algorithm.child(0, der.OID).content)
    if found is None:
        raise PeError("the signature uses a hash that is not known here")
    return found


def _check_signer(signer: Element, content: bytes, certificates: list[x509.Certificate]) -> x509.Certificate:
    """The certificate of the signer, whose signature is right. Raises PeError, InvalidSignature."""
    parts = signer.children()
    name, serial = signer.child(1, der.SEQUENCE), signer.child(1, der.SEQUENCE).child(1, der.INTEGER)
    number = int.from_bytes(serial.content, "big", signed=True)
    issuer = name.child(0, der.SEQUENCE).whole
    found = [one for one in certificates if _serial(one) == number and one.issuer.public_bytes() == issuer]
    if not found:
        raise PeError("the signature does not have the certificate of its signer")
    label, algorithm = _hash_of(signer.child(2, der.SEQUENCE))
    attributes = signer.child(3, der.context(0))
    said = [one.child(1, der.SET).child(0, der.OCTETS).content for one in attributes.children()
            if one.child(0, der.OID).content == _MESSAGE_DIGEST]
    if said != [hashlib.new(label, content).digest()]:
        raise PeError("the signature is not about the digest that is with it")
    # What is signed is a SET, as which it is not written.
    signed = bytes([der.SET]) + attributes.whole[1:]
    if len(parts) < 6 or parts[5].tag != der.OCTETS:
        raise PeError("the signature is malformed: it ends too early")
    _verify(found[0], parts[5].content, signed, algorithm)
    return found[0]


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        algorithm = certificate.signature_hash_algorithm
        if issuer.subject != certificate.issuer or algorithm is None:
            return False
        _verify(issuer, certificate.signature, certificate.tbs_certificate_bytes, algorithm)
    except (InvalidSignature, PeError, *_UNREADABLE):
        return False
    return True


def _verify(certificate: x509.Certificate, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(algorithm))
    else:
        raise PeError("the signature is by a key of a kind that is not known here")
