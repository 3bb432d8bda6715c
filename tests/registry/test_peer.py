# SPDX-License-Identifier: Apache-2.0
"""The certificate of a server in words, whatever it is."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.registry.peer import Peer, parse
from kit.tls import Authority

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = Authority.create(tmp_path_factory.mktemp("tls"), "server")
    return ssl.PEM_cert_to_DER_cert(made.pair("server")[0].read_text())


@pytest.mark.parametrize(("begins", "ends", "says"), [
    (NOW - DAY, NOW + DAY * 3, "for a, issued by b, valid until 2026-01-13, for 3 more days"),
    (NOW - DAY, NOW + DAY * 1.5, "for a, issued by b, valid until 2026-01-12, for 1 more day"),
    (NOW - DAY * 2, NOW - DAY, "for a, issued by b, expired since 2026-01-09 12:00 UTC"),
    (NOW + DAY, NOW + DAY * 2, "for a, issued by b, not valid before 2026-01-11 12:00 UTC"),
])
def test_how_long_it_is_valid(begins: datetime, ends: datetime, says: str) -> None:
    assert Peer("a", "b", begins, ends, itself=False).text(NOW) == says


def test_an_authority_is_its_own_issuer(tmp_path: Path) -> None:
    made = Authority.create(tmp_path)
    peer = parse(ssl.PEM_cert_to_DER_cert(made.certificate.read_text()))
    assert peer is not None
    assert "for authority, issued by itself" in peer.text()


def test_a_certificate_is_read(der: bytes) -> None:
    peer = parse(der)
    assert peer is not None
    assert (peer.subject, peer.issuer, peer.itself) == ("server", "authority", False)
    assert peer.begins < datetime.now(UTC) < peer.ends


@given(data=st.data())
def test_what_is_broken_is_none_or_told(der: bytes, data: st.DataObject) -> None:
    broken = bytearray(der)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    peer = parse(bytes(broken[:data.draw(st.integers(0, len(der)))]) if data.draw(st.booleans()) else bytes(broken))
    assert peer is None or peer.text().startswith("for ")
