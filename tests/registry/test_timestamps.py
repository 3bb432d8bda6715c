# SPDX-License-Identifier: Apache-2.0
"""Whose time stamps count: those of openssl and of an authority that says any time, held against files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootcd.errors import SignatureError, TrustPolicyError
from bootcd.registry.timestamps import TimeAuthorities
from kit.signing import NOW, PrivateKey
from kit.timestamping import TIME_STAMPING, OpensslTimeAuthority, TimeAuthority

DATA = b"a signature"
CLOCK = TimeAuthority()
GOOD = CLOCK.stamp(DATA, with_certificates=True)


@pytest.fixture
def times(tmp_path: Path) -> TimeAuthorities:
    return TimeAuthorities(CLOCK.write(tmp_path / "times.pem"))


def reason(times: TimeAuthorities, response: bytes, data: bytes = DATA) -> str:
    with pytest.raises(SignatureError) as caught:
        times.check(response, data)
    return str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("algorithm", "digest"), [("EC", "sha256"), ("EC", "sha512"), ("RSA", "sha256"),
                                                   ("RSA", "sha384")])
def test_openssl(tmp_path: Path, algorithm: str, digest: str) -> None:
    peer = OpensslTimeAuthority(tmp_path / "tsa", algorithm, digest)
    times = TimeAuthorities(str(peer.directory / "ca.pem"))
    found = times.check(peer.stamp(DATA), DATA)
    assert found.by == "own"
    assert found.time > NOW
    bare = peer.stamp(DATA, with_certificates=False)
    assert "neither with it nor in the file" in reason(times, bare)
    (peer.directory / "both.pem").write_bytes((peer.directory / "own.pem").read_bytes()
                                              + (peer.directory / "ca.pem").read_bytes())
    assert TimeAuthorities(str(peer.directory / "both.pem")).check(bare, DATA).by == "own"
    assert "about something else" in reason(times, bare, b"another signature")
    other = OpensslTimeAuthority(tmp_path / "other", algorithm, digest)
    assert "does not come from the authority" in reason(times, other.stamp(DATA))


def test_with_and_without_the_certificate(tmp_path: Path, times: TimeAuthorities) -> None:
    for response in (CLOCK.stamp(DATA), CLOCK.stamp(DATA, with_certificates=True), CLOCK.stamp(DATA, attribute="v1")):
        found = times.check(response, DATA)
        assert (found.time, found.by) == (NOW, "clock.example")
    root = TimeAuthorities(CLOCK.write(tmp_path / "root.pem", own=False))
    assert root.check(CLOCK.stamp(DATA, with_certificates=True), DATA).time == NOW
    assert "neither with it nor in the file" in reason(root, CLOCK.stamp(DATA))


@pytest.mark.parametrize(("key", "methods"), [
    (ec.generate_private_key(ec.SECP384R1()), [""]),
    (ed25519.Ed25519PrivateKey.generate(), [""]),
    (rsa.generate_private_key(65537, 2048), ["", "1.2.840.113549.1.1.1"]),
], ids=["ecdsa", "ed25519", "rsa"])
def test_kinds_of_signatures(tmp_path: Path, key: PrivateKey, methods: list[str]) -> None:
    clock = TimeAuthority(key)
    times = TimeAuthorities(clock.write(tmp_path / "times.pem"))
    for method in methods:
        assert times.check(clock.stamp(DATA, method=method), DATA).time == NOW
    for method in ("1.2.840.10045.4.1", "1.2.840.113549.1.1.5", "1.2.840.113549.1.1.10"):
        assert f"signed in a way that is not accepted ({method})" in reason(times, clock.stamp(DATA, method=method))


def test_a_signer_that_is_named_by_its_key(tmp_path: Path, times: TimeAuthorities) -> None:
    named = CLOCK.stamp(DATA, by_identifier=True)
    assert times.check(named, DATA).time == NOW
    (tmp_path / "twins.pem").write_bytes(CLOCK.twin.public_bytes(Encoding.PEM) + CLOCK.pem())
    assert TimeAuthorities(str(tmp_path / "twins.pem")).check(named, DATA).time == NOW
    other = TimeAuthorities(TimeAuthority().write(tmp_path / "other.pem"))
    assert "neither with it nor in the file" in reason(other, named)


@pytest.mark.parametrize(("changes", "says"), [
    ({"named": CLOCK.twin.public_bytes(Encoding.DER)}, "another certificate of the same name"),
    ({"named": CLOCK.twin.public_bytes(Encoding.DER), "attribute": "v1"}, "another certificate of the same name"),
    ({"key": ec.generate_private_key(ec.SECP256R1())}, "not made with the key of its authority's certificate"),
    ({"time": NOW - 3661}, "its authority's certificate is valid from"),
    ({"time": NOW + 10**7}, "its authority's certificate is valid from"),
    ({"time": "99991231235959Z"}, "its authority's certificate is valid from"),
    ({"time": "00010101000000Z"}, "its authority's certificate is valid from"),
])
def test_what_does_not_count(times: TimeAuthorities, changes: dict[str, Any], says: str) -> None:
    assert says in reason(times, CLOCK.stamp(DATA, **changes))


@pytest.mark.parametrize(("clock", "says"), [
    (lambda: TimeAuthority(purposes=[ExtendedKeyUsageOID.CODE_SIGNING]), "is not for time stamps"),
    (lambda: TimeAuthority(purposes=[]), "is not for time stamps"),
    (lambda: TimeAuthority(critical=False), "is for other things as well as time stamps"),
    (lambda: TimeAuthority(purposes=[TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING]), "for other things as well"),
    (lambda: TimeAuthority(minutes=60 - 1), "its authority's certificate is valid from"),
    (lambda: TimeAuthority(authority_minutes=60 - 1), "comes from one that is valid from"),
    (lambda: TimeAuthority(authority_purposes=[ExtendedKeyUsageOID.CODE_SIGNING]), "does not come from the authority"),
])
def test_certificates_that_are_not_for_it(tmp_path: Path, clock: Callable[[], TimeAuthority], says: str) -> None:
    made = clock()
    assert says in reason(TimeAuthorities(made.write(tmp_path / "times.pem")), made.stamp(DATA))


def test_several_authorities_in_one_file(tmp_path: Path) -> None:
    other = TimeAuthority()
    (tmp_path / "both.pem").write_bytes(other.pem() + CLOCK.pem())
    both = TimeAuthorities(str(tmp_path / "both.pem"))
    for clock in (CLOCK, other):
        assert both.check(clock.stamp(DATA), DATA).time == NOW


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(CLOCK.own.public_bytes(Encoding.PEM))
    (tmp_path / "many.pem").write_bytes(CLOCK.pem() * 11)
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for file, says in (("leaf.pem", "no certificate of an authority"), ("many.pem", "more than 20 certificates"),
                       ("broken.pem", "cannot be read"), ("none.pem", "cannot be read")):
        with pytest.raises(TrustPolicyError, match=says):
            TimeAuthorities(str(tmp_path / file))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_none_that_was_changed_counts(times: TimeAuthorities, at: int, bit: int) -> None:
    """Or it says the same as before: not all of it is signed, such as the status."""
    changed = bytearray(GOOD)
    changed[at] ^= 1 << bit
    with contextlib.suppress(SignatureError):
        assert times.check(bytes(changed), DATA).time == NOW
