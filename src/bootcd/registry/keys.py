# SPDX-License-Identifier: Apache-2.0
"""Public keys, and whether a signature is theirs.

What is verified: ECDSA of 256 bits or more over SHA-256 (and SHA-384 for a key on P-384, SHA-512 for one on P-521), RSA
of 2,048 bits or more over SHA-256 (PKCS #1 and PSS), Ed25519. These are the schemes of cosign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from ..errors import SignatureError, TrustPolicyError
from ..formats.trustpolicy import KeyFile

MAX_KEYS = 1 << 20
"""Bytes of a file with keys or certificates."""
_MIN_RSA, _MIN_EC = 2048, 256
_BEGIN = b"-----BEGIN "

_OF_CURVE: dict[type[ec.EllipticCurve], hashes.HashAlgorithm] = {
    ec.SECP384R1: hashes.SHA384(), ec.SECP521R1: hashes.SHA512()}

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key that the policy names, and where it comes from."""

    key: Key
    origin: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its DER, in hex: what identifies it in a log."""
        return fingerprint(self.key)


def load_keys(files: Sequence[KeyFile]) -> list[TrustedKey]:
    """Raises TrustPolicyError when any of them cannot be used."""
    found = []
    for file in files:
        data = contents(file)
        if data.count(_BEGIN) > 1:
            raise TrustPolicyError(f"{file}: holds more than one key",
                                   advice="Give each key a file of its own, and name them with keyPaths.")
        try:
            found.append(TrustedKey(parse_key(data), str(file)))
        except SignatureError as error:
            raise TrustPolicyError(f"{file}: {error}") from None
    return found


def contents(file: KeyFile) -> bytes:
    """What a policy names, or holds itself. Raises TrustPolicyError."""
    if not file.path:
        return file.data
    try:
        with Path(file.path).open("rb") as stream:
            data = stream.read(MAX_KEYS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "malformed path"
        raise TrustPolicyError(f"{file.path}: what signatures are verified with cannot be read: {reason}") from None
    if len(data) > MAX_KEYS:
        raise TrustPolicyError(f"{file.path}: larger than {MAX_KEYS} bytes")
    return data


def parse_key(data: bytes) -> Key:
    """A public key in PEM. Raises SignatureError."""
    try:
        return usable(serialization.load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError("no public key in PEM that can be used") from None


def parse_der_key(data: bytes) -> Key:
    """A public key in DER (SubjectPublicKeyInfo). Raises SignatureError."""
    try:
        return usable(serialization.load_der_public_key(data))
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureError("no public key in DER that can be used") from None


def usable(key: object) -> Key:
    """The key, if it is of a kind that we verify with. Raises SignatureError."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA:
        raise SignatureError(f"an RSA key of {key.key_size} bits is too short")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_EC:
        raise SignatureError(f"an ECDSA key of {key.key_size} bits is too short")
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return key
    raise SignatureError("a key of this kind is not supported")


def der(key: Key) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Key) -> str:
    return hashlib.sha256(der(key)).hexdigest()


def verifies(key: Key, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is one of `data` by `key`."""
    return any(_holds(check) for check in _checks(key, signature, data))


def _checks(key: Key, signature: bytes, data: bytes) -> list[Callable[[], None]]:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return [partial(key.verify, signature, data)]
    sha256 = hashes.SHA256()
    if isinstance(key, rsa.RSAPublicKey):
        paddings = (padding.PKCS1v15(), padding.PSS(padding.MGF1(sha256), padding.PSS.AUTO))
        return [partial(key.verify, signature, data, kind, sha256) for kind in paddings]
    kinds = (sha256, *(kind for curve, kind in _OF_CURVE.items() if isinstance(key.curve, curve)))
    return [partial(key.verify, signature, data, ec.ECDSA(kind)) for kind in kinds]


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidSignature:
        return False
    return True
