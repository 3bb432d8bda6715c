# SPDX-License-Identifier: Apache-2.0
"""The certificate by which a server names itself, as far as people ask about it. Nothing is decided by it: whether it
is trusted is the matter of TLS."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

_MAX_NAME = 120
_UNREADABLE = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
               UnsupportedAlgorithm)


@dataclass(frozen=True, slots=True)
class Peer:
    """`subject` and `issuer` are the most telling part of the names; the times are in UTC."""

    subject: str
    issuer: str
    begins: datetime
    ends: datetime
    itself: bool
    """Whether it is its own issuer."""

    def text(self, now: datetime | None = None) -> str:
        """In words, with how long it is valid."""
        now = now or datetime.now(UTC)
        issuer = "itself" if self.itself else self.issuer
        if now > self.ends:
            valid = f"expired since {self.ends:%Y-%m-%d %H:%M} UTC"
        elif now < self.begins:
            valid = f"not valid before {self.begins:%Y-%m-%d %H:%M} UTC"
        else:
            days = (self.ends - now).days
            valid = f"valid until {self.ends:%Y-%m-%d}, for {days} more day{'' if days == 1 else 's'}"
        return f"for {self.subject}, issued by {issuer}, {valid}"


def parse(der: bytes) -> Peer | None:
    """None for what is no certificate."""
    try:
        return _read(der)
    except _UNREADABLE:
        return None


def _read(der: bytes) -> Peer:
    with warnings.catch_warnings():  # what is odd in a certificate is nothing that our users can mend
        warnings.simplefilter("ignore")
        read = x509.load_der_x509_certificate(der)
        subject = _name(read.subject) or _alternative(read)
        return Peer(subject, _name(read.issuer) or "nobody named", read.not_valid_before_utc, read.not_valid_after_utc,
                    read.subject == read.issuer)


def of_response(response: Any) -> Peer | None:
    """Who answered; None without TLS. `response` is one of requests whose body was not read yet."""
    connection = getattr(response.raw, "connection", None)
    get = getattr(getattr(connection, "sock", None), "getpeercert", None)
    der = get(binary_form=True) if get is not None else None
    return parse(der) if der else None


def _name(name: x509.Name) -> str:
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for one in name.get_attributes_for_oid(oid):
            return str(one.value)[:_MAX_NAME]
    return ""


def _alternative(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "nobody named"
    return ", ".join(str(one.value) for one in list(names)[:3])[:_MAX_NAME] or "nobody named"
