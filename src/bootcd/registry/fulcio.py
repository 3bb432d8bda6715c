# SPDX-License-Identifier: Apache-2.0
"""Certificates of Fulcio: an authority that gives whoever logs in a certificate with their e-mail address, for ten
minutes.

A certificate holds when it comes from the authority (`chains`) and is for signing code, at the time of the signature;
and when it names exactly the address and the identity provider that the policy asks for.

Source: Fulcio's oid-info.md and certificate-specification.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import SignatureError, TrustPolicyError
from ..formats import der
from ..formats.documents import shown
from ..formats.trustpolicy import Fulcio
from . import chains
from .keys import Key, contents

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""The identity provider as plain text: what older instances write, and newer ones as well."""
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
"""The same as a DER UTF8String."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate of a signer, and what came with it to lead to an authority."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def parse(cls, data: bytes, chain: bytes = b"") -> Leaf:
        """From PEM. Raises SignatureError."""
        found = chains.load_pem(data)
        if len(found) != 1:
            raise SignatureError(f"{len(found)} certificates in the place of one")
        return cls(found[0], tuple(chains.load_pem(chain)) if chain.strip() else ())

    @classmethod
    def of_der(cls, data: bytes) -> Leaf:
        """Without anything between it and an authority. Raises SignatureError."""
        return cls(chains.load_der(data), ())

    @property
    def key(self) -> Key:
        """Raises SignatureError when it is of no kind that we verify with."""
        return chains.key_of(self.certificate)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


class Authority:
    """What a policy says of certificates."""

    def __init__(self, policy: Fulcio) -> None:
        """Raises TrustPolicyError when the certificates of the authority cannot be used."""
        try:
            self._roots = chains.load_pem(contents(policy.authority))
        except SignatureError as error:
            raise TrustPolicyError(f"{policy.authority}: {error}") from None
        if not self._roots:
            raise TrustPolicyError(f"{policy.authority}: holds no certificate in PEM")
        self.issuer = policy.issuer
        self.email = policy.email

    def check(self, leaf: Leaf, times: Sequence[int]) -> None:
        """Whether the certificate holds, at each of one or more times in seconds since 1970. Raises SignatureError."""
        if not times:
            raise SignatureError("nobody says when its certificate was used")
        try:
            with chains.quiet():
                for time in times:
                    self._check(leaf, datetime.fromtimestamp(time, UTC))
        except (*chains.MALFORMED, OverflowError, OSError) as error:  # the latter for times that no date has
            raise SignatureError(f"its certificate is malformed: {shown(str(error))}") from None

    def _check(self, leaf: Leaf, when: datetime) -> None:
        certificate = leaf.certificate
        chains.check(certificate, leaf.chain, self._roots, chains.CODE_SIGNING, when, "its certificate")
        names = chains.extension(certificate, x509.SubjectAlternativeName)
        emails = names.get_values_for_type(x509.RFC822Name) if names is not None else []
        if self.email not in emails:
            said = ", ".join(_plain(email) for email in emails) or "no e-mail address"
            raise SignatureError(f"its certificate is for {said}, not for {self.email}")
        issuer = _issuer(certificate)
        if issuer != self.issuer:
            raise SignatureError(f"its signer logged in at {_plain(issuer) or 'no identity provider'}, not at "
                                 f"{self.issuer}")


def _plain(text: str) -> str:
    """Foreign text, which is quoted unless it is as plain as such text should be."""
    return text if len(text) <= 120 and text.isascii() and text.isprintable() else shown(text)


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


def _utf8(data: bytes) -> bytes:
    """The text of a DER UTF8String. Raises SignatureError."""
    try:
        return der.only(data, der.UTF8).content
    except der.DerError:
        raise SignatureError("its certificate names its identity provider in a malformed way") from None
