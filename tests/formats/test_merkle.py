# SPDX-License-Identifier: Apache-2.0
"""Proofs that a log has an entry."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.merkle import MAX_SIZE, leaf_hash, root
from kit.transparency import tree_path, tree_root

LEAVES = [bytes.fromhex(one) for one in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first one, two, and so on: the values that implementations of Certificate Transparency test with."""


def test_trees_of_certificate_transparency() -> None:
    for size in range(1, 9):
        for index in range(size):
            found = root(leaf_hash(LEAVES[index]), index, size, tree_path(LEAVES[:size], index))
            assert found.hex() == ROOTS[size - 1], (index, size)


@given(st.data())
def test_a_proof_leads_to_the_root_and_no_other_does(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    leaves = [b"%d" % number for number in range(size)]
    path, expected, leaf = tree_path(leaves, index), tree_root(leaves), leaf_hash(leaves[index])
    assert root(leaf, index, size, path) == expected
    assert root(leaf_hash(b"other"), index, size, path) != expected
    elsewhere = data.draw(st.integers(0, size - 1))
    if elsewhere != index:
        with contextlib.suppress(SignatureError):
            assert root(leaf, elsewhere, size, path) != expected
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        changed = [*path[:at], bytes([path[at][0] ^ 1]) + path[at][1:], *path[at + 1:]]
        assert root(leaf, index, size, changed) != expected
        with pytest.raises(SignatureError, match="too few"):
            root(leaf, index, size, path[:-1])
    with pytest.raises(SignatureError, match="too many"):
        root(leaf, index, size, [*path, bytes(32)])


@pytest.mark.parametrize(("index", "size", "path", "says"), [
    (0, 0, [], "a log of 0 entries has no entry 0"),
    (5, 5, [], "a log of 5 entries has no entry 5"),
    (-1, 5, [], "no entry -1"),
    (0, MAX_SIZE + 1, [], "no entry 0"),
    (0, 2, [bytes(31)], "not of 32 bytes"),
    (0, MAX_SIZE, [bytes(32)] * 62, "too few"),
    (MAX_SIZE - 1, MAX_SIZE, [bytes(32)] * 64, "too many"),
])
def test_what_is_no_proof(index: int, size: int, path: list[bytes], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        root(bytes(32), index, size, path)


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64), st.lists(st.binary(max_size=33), max_size=70))
def test_anything_is_computed_or_refused(index: int, size: int, path: list[bytes]) -> None:
    with contextlib.suppress(SignatureError):
        assert len(root(bytes(32), index, size, path)) == 32
