# SPDX-License-Identifier: Apache-2.0
"""Time stamps as they are, and with each thing wrong that can be."""

from __future__ import annotations

import contextlib
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.timestamp import MAX_RESPONSE, parse_response
from kit.signing import NOW
from kit.timestamping import OpensslTimeAuthority, TimeAuthority, integer, oid, sequence, tlv

DATA = b"a signature"
CLOCK = TimeAuthority()
GOOD, OLDER = CLOCK.stamp(DATA), CLOCK.stamp(DATA, with_certificates=True, attribute="v1")
stamp = partial(CLOCK.stamp, DATA)


def test_of_an_authority() -> None:
    for number in (GOOD, stamp(with_certificates=True)):
        found = parse_response(number)
        assert (found.time, found.algorithm, found.imprint) == (NOW, "sha256", hashlib.sha256(DATA).digest())
        assert found.certificate == hashlib.sha256(CLOCK.own.public_bytes(Encoding.DER)).digest()
        assert (found.signed.serial, found.signed.key_id) == (CLOCK.own.serial_number, b"")
    assert parse_response(stamp(attribute="v1")).certificate_hash == "sha1"
    assert [len(parse_response(one).signed.certificates) for one in (GOOD, stamp(with_certificates=True))] == [0, 1]


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_of_openssl(tmp_path: Path, digest: str) -> None:
    found = parse_response(OpensslTimeAuthority(tmp_path / "tsa", digest=digest).stamp(DATA))
    assert (found.algorithm, found.imprint) == (digest, hashlib.new(digest, DATA).digest())
    assert found.time > NOW
    assert found.signed.hash == digest


@pytest.mark.parametrize("more", [
    tlv(0x01, b"\xff"), integer(1 << 62), tlv(0xA0, tlv(0xA4, sequence())),
    tlv(0xA1, sequence(oid("1.2.3"), tlv(0x04, b"x")), sequence(oid("1.2.4"), tlv(0x01, b"\0"), tlv(0x04, b"x"))),
], ids=["ordering", "nonce", "name", "extensions"])
def test_what_may_be_in_it(more: bytes) -> None:
    assert parse_response(stamp(more=more)).time == NOW


@pytest.mark.parametrize(("changes", "says"), [
    ({"status": 2}, r"the authority refused it \(status 2\)"),
    ({"kind": "1.2.840.113549.1.7.1"}, "what is signed is of another kind"),
    ({"signed_kind": "1.2.840.113549.1.7.1"}, "its signature is for another kind of content"),
    ({"other": b"x"}, "its signature is about another content"),
    ({"attribute": ""}, "does not say which certificate it was made with"),
    ({"attributes": [sequence(oid("1.2.840.113549.1.9.4"), tlv(0x31, tlv(0x04, b"x")))]}, "more or fewer than one"),
    ({"attributes": [sequence(oid("1.2.3"), tlv(0x31, b"\x05\0", b"\x05\0"))]}, r"attribute 1\.2\.3 has more or fewer"),
    ({"attributes": [sequence(oid("1.2.3"), tlv(0x31))]}, r"attribute 1\.2\.3 has more or fewer"),
    ({"attributes": [sequence(oid(f"1.2.{number}"), tlv(0x31, b"\x05\0")) for number in range(30)]}, "more than 32"),
    ({"version": 2}, "of a version that is not known here"),
    ({"hash_": "1.3.14.3.2.26"}, r"a hash that is not accepted \(1\.3\.14\.3\.2\.26\)"),
    ({"signers": 0}, "it has 0 signers"),
    ({"signers": 2}, "it has 2 signers"),
    ({"accuracy": 61}, "may be wrong by more than 60 seconds"),
    ({"accuracy": -1}, "may be wrong by more than 60 seconds"),
    ({"time": "20231114221320"}, "it is malformed: a time is malformed"),
    ({"time": "20231399221320Z"}, "it is malformed: there is no such time"),
    ({"more": tlv(0xA1, sequence(oid("1.2.3"), tlv(0x01, b"\xff"), tlv(0x04, b"x")))}, r"critical extension 1\.2\.3"),
    ({"more": tlv(0xA1, sequence(oid("1.2.3"), tlv(0x01, b"\1"), tlv(0x04, b"x")))}, r"critical extension 1\.2\.3"),
    ({"more": tlv(0xA5, b"")}, "an element of type 0xa5 is where none belongs"),
])
def test_what_is_wrong_is_said(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        parse_response(stamp(**changes))


@pytest.mark.parametrize(("data", "says"), [
    (b"", "no tag or no length"),
    (bytes(MAX_RESPONSE + 1), "larger than"),
    (GOOD + b"\0", "something follows the end"),
    (GOOD[:-1], "longer than what it is in"),
    (sequence(sequence(integer(0))), "there is no element of type 0x30"),
    (sequence(sequence(integer(0)), sequence(oid("1.2.3"), tlv(0xA0, sequence()))), r"it is no signed data \(CMS\)"),
    (sequence(sequence(integer(0)), sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, sequence()))), "no element of"),
    (b"\x30\x80" * 1000, "a length cannot be understood"),
    (b"\x30\x82\x10\x00" * 1000, "is not of type|longer than|no element"),
], ids=["empty", "large", "more", "less", "token", "kind", "bare", "indefinite", "deep"])
def test_what_is_none(data: bytes, says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        parse_response(data)


@settings(max_examples=300)
@given(st.data())
def test_anything_is_read_or_refused(data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from([GOOD, OLDER])))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SignatureError):
        parse_response(bytes(changed))
