# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what a log says of itself at one moment, in a signed note.

    ORIGIN                                  which log it is
    SIZE                                    how many entries it has, decimal
    BASE64                                  the root of its Merkle tree
    …                                       more, of no use here
                                            an empty line ends the text that is signed
    — NAME BASE64                           signatures: 4 bytes that hint at the key, then the signature

Lines of keys that are not known here, as those of witnesses, are passed over. Rekor 1 signs with the host as name, and
writes "HOST - NUMBER" as origin; Rekor 2 has the host in both places.

Sources: C2SP signed-note and tlog-checkpoint; Rekor's pkg/util/signed_note.go, rekor-tiles' pkg/note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from ..errors import SignatureError
from .documents import shown
from .merkle import HASH, MAX_SIZE

MAX_NOTE = 32 << 10
"""Bytes of one. Real ones have 800, with three witnesses."""
MAX_SIGNATURES = 32
MAX_NAME = 255
"""Characters of an origin, which is shown and recorded."""

_LINE = re.compile(r"— ([^\s+]{1,255}) ([A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile("0|[1-9][0-9]{0,18}")
_HINT = 4


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One line: `hint` is of 4 bytes, and says which key of that name it is."""

    name: str
    hint: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Unverified: what counts is a signature over `text`, by a key of the log `origin`."""

    text: bytes
    origin: str
    size: int
    root: bytes
    signatures: tuple[NoteSignature, ...]

    def is_named(self, name: str) -> bool:
        """Whether a log with that name in its signatures calls itself like this."""
        return self.origin == name or self.origin.startswith(f"{name} - ")


def parse_checkpoint(note: str) -> Checkpoint:
    """Raises SignatureError."""
    if len(note.encode()) > MAX_NOTE:
        raise SignatureError(f"the checkpoint of the log is larger than {MAX_NOTE} bytes")
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f]", note):
        raise SignatureError("the checkpoint of the log has control characters")
    text, empty, signatures = note.rpartition("\n\n")
    lines = text.split("\n")
    if not empty or len(lines) < 3 or not all(lines):
        raise SignatureError("the checkpoint of the log is no signed note of three lines or more")
    origin, size, root = lines[:3]
    if len(origin) > MAX_NAME or not origin.isprintable():
        raise SignatureError(f"the checkpoint of the log is of {shown(origin)}, which is no name")
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise SignatureError(f"the checkpoint of the log gives {shown(size)} as its size")
    try:
        decoded = base64.b64decode(root, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != HASH:
        raise SignatureError("the checkpoint of the log has no root hash in its third line")
    return Checkpoint(f"{text}\n".encode(), origin, int(size), decoded, _signatures(signatures))


def hints(name: str, spki: bytes, ed25519: bytes = b"") -> frozenset[bytes]:
    """How a signature may hint at a key, by its DER form and, where it is one, as plain Ed25519 key: without the name
    of the log, as Rekor 2 does for ECDSA and Rekor 1 for all, or with it, as the specification does."""
    hashed = [spki, name.encode() + b"\n\xffPKIX-RSA-PKCS#1v1.5" + spki]
    if ed25519:
        hashed.append(name.encode() + b"\n\x01" + ed25519)
    return frozenset(hashlib.sha256(data).digest()[:_HINT] for data in hashed)


def _signatures(text: str) -> tuple[NoteSignature, ...]:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise SignatureError(f"the checkpoint of the log has more than {MAX_SIGNATURES} signatures")
    return tuple(map(_signature, lines))


def _signature(line: str) -> NoteSignature:
    found = _LINE.fullmatch(line)
    try:
        data = base64.b64decode(found[2], validate=True) if found else b""
    except (binascii.Error, ValueError):
        data = b""
    if found is None or len(data) <= _HINT:
        raise SignatureError("the checkpoint of the log has a line that is no signature, below the empty line")
    return NoteSignature(found[1], data[:_HINT], data[_HINT:])
