# SPDX-License-Identifier: Apache-2.0
"""Transparency logs whose word counts: those whose keys the policy names.

An entry counts when the log promised it (Rekor 1), or proves that it has it (Rekor 2): by a checkpoint that the log
signed, and a Merkle proof that leads from the entry to the root in it. Where there are both, both have to be right. The
time of a promise is the log's word; a proof has none.

Source: sigstore's client specification, C2SP signed-note and tlog-checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from ..errors import SignatureError
from ..formats import merkle, signednote
from ..formats.rekor import LogEntry, Promise, Proof
from .keys import Key, TrustedKey, der, verifies


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry that counts. `time` is in seconds since 1970, None where the log says none; `where` says in words which
    log it is in."""

    entry: LogEntry
    time: int | None
    where: str


class Logs:
    """The logs of one requirement."""

    def __init__(self, keys: Sequence[TrustedKey]) -> None:
        self._keys = keys

    def check(self, entry: LogEntry) -> Logged:
        """Raises SignatureError, which says why it does not count."""
        promised = self._promised(entry.promise) if entry.promise is not None else None
        proved = self._proved(entry.raw, entry.proof) if entry.proof is not None else None
        log = proved or promised
        if log is None:
            raise SignatureError("the log entry has neither a promise nor a proof")
        if promised is not None and promised != log:
            raise SignatureError("the promise and the proof of the log entry are of different logs")
        where = f"in a log with the key of {log.origin}"
        if entry.proof is not None:
            where = f"as entry {entry.proof.index} of {entry.proof.checkpoint.origin}, with the key of {log.origin}"
        return Logged(entry, entry.promise.time if entry.promise is not None else None, where)

    def _promised(self, promise: Promise) -> TrustedKey:
        for log in self._keys:
            if verifies(log.key, promise.signature, promise.signed):
                return log
        raise SignatureError("the log entry was not made by a log that the policy names")

    def _proved(self, raw: bytes, proof: Proof) -> TrustedKey:
        checkpoint = proof.checkpoint
        log = self._signed(checkpoint)
        found = merkle.root(merkle.leaf_hash(raw), proof.index, checkpoint.size, proof.hashes)
        if found != checkpoint.root:
            raise SignatureError("the proof of the log does not lead to the root in its checkpoint")
        return log

    def _signed(self, checkpoint: signednote.Checkpoint) -> TrustedKey:
        for line in checkpoint.signatures:
            if not checkpoint.is_named(line.name):
                continue
            for log in self._keys:
                if line.hint in _hints(line.name, log.key) and verifies(log.key, line.signature, checkpoint.text):
                    return log
        raise SignatureError("the checkpoint of the log was not signed by a log that the policy names")


def _hints(name: str, key: Key) -> frozenset[bytes]:
    raw = b""
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return signednote.hints(name, der(key), raw)
