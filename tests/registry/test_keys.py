# SPDX-License-Identifier: Apache-2.0
"""Which public keys are used, and what is theirs."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bootcd.errors import SignatureError
from bootcd.registry.keys import parse_der_key, parse_key, verifies


def test_ecdsa_by_the_hash_of_the_curve() -> None:
    for curve, kind in ((ec.SECP256R1(), hashes.SHA256()), (ec.SECP384R1(), hashes.SHA384()),
                        (ec.SECP521R1(), hashes.SHA512())):
        key = ec.generate_private_key(curve)
        assert verifies(key.public_key(), key.sign(b"x", ec.ECDSA(kind)), b"x")
        assert verifies(key.public_key(), key.sign(b"x", ec.ECDSA(hashes.SHA256())), b"x")
        assert not verifies(key.public_key(), key.sign(b"x", ec.ECDSA(hashes.SHA224())), b"x")
        assert not verifies(key.public_key(), key.sign(b"y", ec.ECDSA(kind)), b"x")


@pytest.mark.parametrize(("key", "says"), [
    (rsa.generate_private_key(65537, 1024), "an RSA key of 1024 bits is too short"),
    (ec.generate_private_key(ec.SECP224R1()), "an ECDSA key of 224 bits is too short"),
    (dsa.generate_private_key(2048), "a key of this kind is not supported"),
    (x25519.X25519PrivateKey.generate(), "a key of this kind is not supported"),
], ids=["rsa", "ecdsa", "dsa", "x25519"])
def test_keys_that_are_not_used(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey | x25519.X25519PrivateKey, says: str
) -> None:
    for encoding, parse in ((Encoding.PEM, parse_key), (Encoding.DER, parse_der_key)):
        with pytest.raises(SignatureError, match=says):
            parse(key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"\x30\x80", bytes(1000)])
def test_what_is_no_key(data: bytes) -> None:
    for parse in (parse_key, parse_der_key):
        with pytest.raises(SignatureError, match="no public key in"):
            parse(data)
