# SPDX-License-Identifier: Apache-2.0
"""Certificates, and which of them come from an authority for a purpose."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.trustpolicy import Fulcio as Policy
from bootcd.formats.trustpolicy import KeyFile
from bootcd.registry import chains
from bootcd.registry.fulcio import Authority, Leaf
from kit.signing import EMAIL, ISSUER, NOW, Fulcio, certificate

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle", "lower", "leaf")}
CODE, MAIL = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION


def usage(**allowed: bool) -> tuple[x509.ExtensionType, bool]:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names}), True


def purposes(*found: x509.ObjectIdentifier) -> tuple[x509.ExtensionType, bool]:
    return x509.ExtendedKeyUsage(found), False


def made(name: str, issuer: str, *extensions: tuple[x509.ExtensionType, bool], ca: int | None = None,
         minutes: int = 60) -> x509.Certificate:
    return certificate(name, KEYS[name].public_key(), issuer, KEYS[issuer], ca=ca, minutes=minutes,
                       extensions=extensions)


ROOT, MIDDLE, LEAF = made("root", "root", ca=1), made("middle", "root", ca=0), made("leaf", "middle", purposes(CODE))


def check(leaf: x509.Certificate = LEAF, between: tuple[x509.Certificate, ...] = (MIDDLE,),
          roots: tuple[x509.Certificate, ...] = (ROOT,), after: int = 0) -> None:
    chains.check(leaf, between, roots, CODE, datetime.fromtimestamp(NOW + after, UTC), "its certificate")


def test_what_comes_from_an_authority() -> None:
    check()
    check(roots=(MIDDLE,), between=())
    check(between=(LEAF, made("lower", "root", ca=0), MIDDLE))
    check(between=(made("middle", "root", usage(key_cert_sign=True), purposes(CODE), ca=0),))
    check(between=(made("middle", "root", purposes(x509.ObjectIdentifier("2.5.29.37.0")), ca=0),))
    check(between=(made("middle", "root", ca=0, minutes=1), MIDDLE), after=120)
    check(made("leaf", "middle", purposes(CODE, MAIL), usage(digital_signature=True)))


@pytest.mark.parametrize(("arguments", "says"), [
    ({"between": ()}, "does not come from the authority"),
    ({"roots": (made("lower", "lower", ca=1),)}, "does not come from the authority"),
    ({"between": (made("middle", "root"),)}, "does not come from the authority"),
    ({"between": (made("middle", "root", usage(crl_sign=True), ca=0),)}, "does not come from the authority"),
    ({"between": (made("middle", "root", purposes(MAIL), ca=0),)}, "does not come from the authority"),
    ({"roots": (made("root", "root", purposes(MAIL), ca=1),)}, "does not come from the authority"),
    ({"roots": (made("root", "root", ca=0),)}, "does not come from the authority"),
    ({"roots": (made("root", "root", (x509.NameConstraints(None, [x509.DNSName("a")]), True), ca=1),)}, "does not"),
    ({"leaf": made("leaf", "lower", purposes(CODE)), "between": (made("lower", "middle", ca=0), MIDDLE)}, "does not"),
    ({"after": 3601}, "its certificate is valid from"),
    ({"between": (made("middle", "root", ca=0, minutes=1),), "after": 120}, "comes from one that is valid from"),
    ({"roots": (made("root", "root", ca=1, minutes=1),), "after": 120}, "comes from one that is valid from"),
    ({"leaf": made("leaf", "middle")}, "not for signing code"),
    ({"leaf": made("leaf", "middle", purposes(MAIL))}, "not for signing code"),
    ({"leaf": made("leaf", "middle", purposes(CODE), usage(key_agreement=True))}, "not for signatures"),
    ({"leaf": made("leaf", "middle", purposes(CODE), (x509.PolicyConstraints(0, None), True))}, "not understood"),
])
def test_what_does_not(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        check(**arguments)


def test_a_chain_has_an_end() -> None:
    """Two that have issued each other lead nowhere."""
    one, other = made("middle", "lower", ca=5), made("lower", "middle", ca=5)
    with pytest.raises(SignatureError, match="does not come from the authority"):
        check(between=(one, other))


AUTHORITY = Fulcio()
POLICY = Authority(Policy(KeyFile(data=AUTHORITY.pem() + AUTHORITY.middle.public_bytes(Encoding.PEM)), ISSUER, EMAIL))
GOOD = AUTHORITY.leaf().public_bytes(Encoding.DER)


def judged(der: bytes, *times: int) -> None:
    POLICY.check(Leaf.of_der(der), times)


@pytest.mark.parametrize(("old", "new"), [
    (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"),  # a version that does not exist
    (b"\x0c\x06middle", b"\x02\x06middle"), (b"\x0c\x06middle", b"\x0a\x06middle"),  # a name that is no text
    (b"\x81\x13release", b"\x8f\x13release"),  # an address of no known kind
    (b"\x30\x0a\x06\x03\x55\x1d\x0f", b"\x30\x0a\x06\x03\x55\x1d\x13"),  # an extension twice, where it is there
    (GOOD[-8:], b"\x30\x80" * 4),
], ids=["version", "integer", "enumerated", "address", "twice", "end"])
def test_malformed_certificates_are_signatures_that_do_not_count(old: bytes, new: bytes) -> None:
    """Whatever cryptography thinks of them: one that anybody could add must not keep the others from being seen."""
    judged(GOOD, NOW)
    if old in GOOD:
        with pytest.raises(SignatureError):
            judged(GOOD.replace(old, new), NOW)


@settings(max_examples=300)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_anything_is_judged(at: int, byte: int) -> None:
    changed = GOOD[:at] + bytes([byte]) + GOOD[at + 1:]
    if changed != GOOD:
        with pytest.raises(SignatureError):
            judged(changed, NOW)
    with contextlib.suppress(SignatureError):
        Leaf.of_der(changed).key.public_numbers()  # type: ignore[union-attr]


def test_every_time_has_to_fit() -> None:
    judged(GOOD, NOW, NOW + 600)
    for times in ((), (NOW, NOW + 601), (NOW - 61, NOW), (1 << 48,), (-1,), (10**18,)):
        with pytest.raises(SignatureError):
            judged(GOOD, *times)


def test_foreign_text_is_quoted() -> None:
    for email, says in (("a@b\x1b[2J", r'is for "a@b\\u001b\[2J"'), ("a@b, release@example.com", "is for a@b, release"),
                        ("x" * 200, r"x{119}\\u2026")):
        with pytest.raises(SignatureError, match=says):
            judged(AUTHORITY.leaf(email).public_bytes(Encoding.DER), NOW)
