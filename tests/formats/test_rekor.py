# SPDX-License-Identifier: Apache-2.0
"""What the log says of a signature, as cosign attaches it. Bundles are in test_sigstorebundle, what is verified in
tests/registry."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.rekor import Body, Promise, parse_bundle


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_a_signature_error(data: bytes) -> None:
    with pytest.raises(SignatureError):
        parse_bundle(data)


def test_the_log_signs_canonical_json() -> None:
    body = base64.b64encode(json.dumps({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": {"hash": {"algorithm": "sha256", "value": "ab" * 32}},
        "signature": {"content": "YQ==", "publicKey": {"content": "Yg=="}}}}).encode()).decode()
    entry = parse_bundle(json.dumps({"SignedEntryTimestamp": "Yw==", "Payload": {
        "logIndex": 7, "integratedTime": 9, "body": body, "logID": "ff"}}).encode())
    assert entry.promise == Promise(
        b"c", f'{{"body":"{body}","integratedTime":9,"logID":"ff","logIndex":7}}'.encode(), 9)
    assert entry.body == Body("sha256", b"\xab" * 32, b"a", b"b")
