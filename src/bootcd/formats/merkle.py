# SPDX-License-Identifier: Apache-2.0
"""Merkle trees of transparency logs: whether an entry is in the tree that has a given root.

    hash of an entry    SHA-256(00 || entry)
    hash of two nodes   SHA-256(01 || left || right)

A proof is the hashes beside the way from the entry up to the root. How many they are, and on which side each stands,
follows from the number of the entry and the size of the tree, so nothing of the shape is anybody's word.

Source: RFC 9162 (sections 2.1.1 and 2.1.3.2), which has the trees of RFC 6962.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import SignatureError

MAX_SIZE = (1 << 63) - 1
"""Entries of a tree: what the messages of logs can say."""
MAX_HASHES = 63
"""Of a proof, in a tree of that size."""
HASH = 32
"""Bytes of one."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root of the tree with `size` entries in which the one at `index`, counted from 0, has the hash `leaf`, by the
    hashes `path`, from below. Raises SignatureError when there is no such tree."""
    if not 0 <= index < size <= MAX_SIZE:
        raise SignatureError(f"a log of {size} entries has no entry {index}")
    if any(len(one) != HASH for one in path):
        raise SignatureError(f"the proof of the log has hashes that are not of {HASH} bytes")
    here, last, found = index, size - 1, leaf
    for one in path:
        if not last:
            raise SignatureError("the proof of the log has too many hashes")
        if here & 1 or here == last:
            found = _node(one, found)
            while here and not here & 1:  # nodes at the right edge without a sibling move up as they are
                here, last = here >> 1, last >> 1
        else:
            found = _node(found, one)
        here, last = here >> 1, last >> 1
    if last:
        raise SignatureError("the proof of the log has too few hashes")
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
