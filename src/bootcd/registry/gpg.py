# SPDX-License-Identifier: Apache-2.0
"""OpenPGP signatures, verified by gpgv(1) with nothing but the keys that the policy names.

A signature is a signed message: what is signed is inside. gpgv knows no web of trust and no keyring of a user; what it
says on its status line is what counts, for it ends with 0 in cases that are none of ours. Exactly one signature, good,
by a key that has neither expired nor been revoked: anything else is no signature.

Source: gpgv(1), GnuPG's doc/DETAILS, RFC 4880 (section 6.2, ASCII armor).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import SignatureError, TrustPolicyError
from ..formats import simplesigning
from ..formats.trustpolicy import KeyFile, SignedBy
from ..linux import files, run
from .keys import contents

MAX_SIGNATURE = 128 << 10
"""Bytes of a signature with its payload. Real ones have 1,000."""

_ARMOR = re.compile(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)
_WEAK = {b"1": "MD5", b"2": "SHA-1", b"3": "RIPEMD-160"}
"""Hashes that gpgv takes, or took, of which two texts can be made to have the same. Numbers are those of RFC 4880
(section 9.4)."""
_HASH = 7
"""Which word of VALIDSIG is the hash."""
_STATUS = re.compile(rb"^\[GNUPG:\] ([A-Z_]+) ?(.*)$", re.MULTILINE)
_BAD = {b"BADSIG": "it is not valid", b"ERRSIG": "it was not made by a key that the policy names",
        b"EXPSIG": "it has expired", b"EXPKEYSIG": "its key has expired", b"REVKEYSIG": "its key was revoked"}


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """One signature as it was found; `origin` says where."""

    origin: str
    data: bytes


class GpgVerifier:
    """Verifies by one requirement of a policy."""

    def __init__(self, requirement: SignedBy) -> None:
        """Raises TrustPolicyError when a keyring cannot be used."""
        self._keyring = b"".join(_keyring(file) for file in requirement.keyrings)
        self._origin = ", ".join(str(file) for file in requirement.keyrings)

    def verify(self, found: SignedMessage) -> tuple[simplesigning.Claim, str]:
        """The claim and who made it, in words. Raises SignatureError, which says why it does not count, and Unsupported
        without gpgv."""
        if len(found.data) > MAX_SIGNATURE:
            raise SignatureError(f"it is larger than {MAX_SIGNATURE} bytes")
        if not found.data or not found.data[0] & 0x80:  # gpgv would take a text with a signature below it as well
            raise SignatureError("it is not one signed message")
        with files.private_directory("gpgv") as directory:
            (directory / "keys").write_bytes(self._keyring)
            (directory / "message").write_bytes(found.data)
            payload = directory / "payload"
            # What is signed may be compressed, and gpgv itself sets no bound to what comes out.
            done = run.run(["prlimit", f"--fsize={simplesigning.MAX_PAYLOAD}", "gpgv", "--homedir", directory,
                            "--keyring", directory / "keys", "--status-fd", "1", "--output", payload,
                            directory / "message"], check=False)
            fingerprint = _signer(done.stdout)
            if done.returncode or not payload.exists():
                raise SignatureError("gpgv does not accept it")
            data = payload.read_bytes()
        return simplesigning.parse_claim(data, simplesigning.ATOMIC), f"OpenPGP key {fingerprint} ({self._origin})"


def _signer(status: bytes) -> str:
    """The fingerprint of the key that made the one good signature, by what gpgv tells. Raises SignatureError."""
    lines: Sequence[tuple[bytes, bytes]] = _STATUS.findall(status)
    words = [word for word, _ in lines]
    for bad, why in _BAD.items():
        if bad in words:
            raise SignatureError(why)
    valid = [rest.split() for word, rest in lines if word == b"VALIDSIG"]
    if words.count(b"GOODSIG") != 1 or len(valid) != 1 or words.count(b"PLAINTEXT") != 1:
        raise SignatureError("it is not one signed message")
    weak = _WEAK.get(valid[0][_HASH]) if len(valid[0]) > _HASH else "an unknown one"
    if weak:
        raise SignatureError(f"its hash, {weak}, does not count any more")
    return valid[0][-1].decode("ascii", "replace")  # that of the primary key, if a subkey signed


def _keyring(file: KeyFile) -> bytes:
    """Keys as gpgv reads them, which knows no ASCII armor."""
    data = contents(file)
    blocks = _ARMOR.findall(data)
    if not blocks:
        if b"-----BEGIN" in data or not data or not data[0] & 0x80:
            raise TrustPolicyError(f"{file}: holds no OpenPGP keys")
        return data
    try:
        return b"".join(_unarmored(block) for block in blocks)
    except (binascii.Error, ValueError):
        raise TrustPolicyError(f"{file}: holds damaged OpenPGP keys") from None


def _unarmored(block: bytes) -> bytes:
    """What is between the headers, which end with an empty line, and the checksum, which begins with '='."""
    _, _, body = block.replace(b"\r", b"").partition(b"\n\n") if b":" in block else (b"", b"", block)
    lines = [line.strip() for line in body.split(b"\n")]
    return base64.b64decode(b"".join(line for line in lines if line and not line.startswith(b"=")), validate=True)
