# SPDX-License-Identifier: Apache-2.0
"""CMS: contents that are signed together with attributes, by one signer.

    ContentInfo   {OID signedData, [0] SignedData}
    SignedData    {version, hashes, {OID of the type, [0] OCTETS content}, [0] certificates?, [1] revocations?, signers}
    SignerInfo    {version, {issuer, serial number} or [0] key identifier, hash, [0] attributes, signature algorithm,
                   OCTETS signature, [1] unsigned attributes?}

What is signed is the attributes, among which are the type of the content and its hash.

Source: RFC 5652 (sections 3, 5.1 to 5.4 and 11).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import SignatureError
from . import der
from .der import Element, Fields

MAX_CERTIFICATES = 8

HASHES = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
"""As hashlib calls them. What is older is not accepted."""

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_MAX_ATTRIBUTES = 32


@dataclass(frozen=True, slots=True)
class SignedData:
    """The content of one type, and a `signature` over `signed`, unverified. That the hash in what is signed is that of
    the content was verified. `certificates` are DER, and nobody's word.

    The signer's certificate has the name `issuer` (DER) and the number `serial` in it, or the key identifier `key_id`.
    `algorithm` is the signature's, `hash` what it is by where the algorithm does not say. `attributes` are the signed
    ones: type and value."""

    content: bytes
    certificates: tuple[bytes, ...]
    issuer: bytes
    serial: int
    key_id: bytes
    hash: str
    attributes: Mapping[str, Element]
    signed: bytes
    algorithm: str
    signature: bytes


def parse_signed(info: Element, content_type: str) -> SignedData:
    """A ContentInfo. Raises SignatureError, DerError."""
    outer = info.fields()
    if outer.take(der.OID).oid() != _SIGNED_DATA:
        raise SignatureError("it is no signed data (CMS)")
    data = outer.take(der.context(0)).child(0, der.SEQUENCE).fields()
    outer.end()
    data.take(der.INTEGER)
    data.take(der.SET)
    inner = data.take(der.SEQUENCE).fields()
    if inner.take(der.OID).oid() != content_type:
        raise SignatureError("what is signed is of another kind")
    content = inner.take(der.context(0)).child(0, der.OCTETS).content
    certificates = data.maybe(der.context(0))
    data.maybe(der.context(1))
    signers = data.take(der.SET).children()
    data.end()
    if len(signers) != 1:
        raise SignatureError(f"it has {len(signers)} signers, expected one")
    if signers[0].tag != der.SEQUENCE:
        raise SignatureError("its signer is malformed")
    found = [one.whole for one in certificates.children() if one.tag == der.SEQUENCE] if certificates else []
    if len(found) > MAX_CERTIFICATES:
        raise SignatureError(f"it brings {len(found)} certificates, more than {MAX_CERTIFICATES}")
    return _signer(signers[0].fields(), content_type, content, tuple(found))


def hash_of(algorithm: Element) -> str:
    """Of an AlgorithmIdentifier, as hashlib calls it. Raises SignatureError, DerError."""
    oid = algorithm.child(0, der.OID).oid()
    if oid not in HASHES:
        raise SignatureError(f"it uses a hash that is not accepted ({oid})")
    return HASHES[oid]


def _signer(fields: Fields, content_type: str, content: bytes, certificates: tuple[bytes, ...]) -> SignedData:
    fields.take(der.INTEGER)
    issuer, serial, key_id = b"", 0, b""
    if (by_key := fields.maybe(der.primitive(0))) is not None:
        key_id = by_key.content
    else:
        name = fields.take(der.SEQUENCE)
        issuer, serial = name.child(0, der.SEQUENCE).whole, name.child(1, der.INTEGER).integer(32)
    kind = hash_of(fields.take(der.SEQUENCE))
    signed = fields.take(der.context(0))
    algorithm = fields.take(der.SEQUENCE).child(0, der.OID).oid()
    signature = fields.take(der.OCTETS).content
    fields.maybe(der.context(1))
    fields.end()
    attributes = _attributes(signed)
    said, digest = attributes.get(_CONTENT_TYPE), attributes.get(_MESSAGE_DIGEST)
    if said is None or said.oid() != content_type:
        raise SignatureError("its signature is for another kind of content")
    if digest is None or digest.tag != der.OCTETS or digest.content != hashlib.new(kind, content).digest():
        raise SignatureError("its signature is about another content")
    # What is signed is a SET, as which it is not written.
    return SignedData(content, certificates, issuer, serial, key_id, kind, attributes,
                      bytes([der.SET]) + signed.whole[1:], algorithm, signature)


def _attributes(signed: Element) -> dict[str, Element]:
    """Each with its one value."""
    found: dict[str, Element] = {}
    children = signed.children()
    if len(children) > _MAX_ATTRIBUTES:
        raise SignatureError(f"it has more than {_MAX_ATTRIBUTES} attributes")
    for attribute in children:
        name, values = attribute.child(0, der.OID).oid(), attribute.child(1, der.SET).children()
        if name in found or len(values) != 1:
            raise SignatureError(f"its attribute {name} has more or fewer than one value")
        found[name] = values[0]
    return found
