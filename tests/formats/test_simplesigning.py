# SPDX-License-Identifier: Apache-2.0
"""What signatures sign."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.simplesigning import ATOMIC, COSIGN, MAX_PAYLOAD, parse_claim

DIGEST = "sha256:" + "b" * 64


def payload(**changes: Any) -> dict[str, Any]:
    return {"critical": {"type": ATOMIC, "image": {"docker-manifest-digest": DIGEST},
                         "identity": {"docker-reference": "quay.io/os:1"}, **changes}, "optional": {"creator": "x"}}


def test_a_claim_is_a_digest_and_a_name() -> None:
    claim = parse_claim(json.dumps(payload()).encode(), ATOMIC)
    assert (claim.digest, str(claim.name)) == (DIGEST, "quay.io/os:1")


@pytest.mark.parametrize("document", [
    payload(type=COSIGN), payload(more=1), payload(image={}), payload(image={"docker-manifest-digest": "sha256:1"}),
    payload(image={"docker-manifest-digest": DIGEST, "x": 1}), payload(identity={"docker-reference": "?"}),
    {**payload(), "more": 1}, {**payload(), "optional": 1}, {}, [],
])
def test_whatever_is_unknown_or_wrong_in_a_claim_is_refused(document: Any) -> None:
    with pytest.raises(SignatureError):
        parse_claim(json.dumps(document).encode(), ATOMIC)


@pytest.mark.parametrize("data", [
    b"", b"\xff", b" " * (MAX_PAYLOAD + 1),
    json.dumps(payload()).replace('"type"', '"type": "x", "type"').encode(),
])
def test_a_claim_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(SignatureError):
        parse_claim(data, ATOMIC)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_claim_or_a_signature_error(data: bytes) -> None:
    with pytest.raises(SignatureError):
        parse_claim(data, COSIGN)
