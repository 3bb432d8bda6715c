# SPDX-License-Identifier: Apache-2.0
"""A bundle that sigstore's staging instance made: by a Fulcio, a Rekor 2 and a time stamp authority that are not ours.

It is of a workflow and about an artifact, so no policy for images could take it: log, time and certificate are verified
here without asking who it was and what was said.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from bootcd.errors import SignatureError
from bootcd.formats.rekor import LogEntry
from bootcd.formats.sigstorebundle import SigstoreBundle, parse_bundle
from bootcd.registry import chains
from bootcd.registry.fulcio import Leaf
from bootcd.registry.keys import TrustedKey, usable, verifies
from bootcd.registry.timestamps import TimeAuthorities
from bootcd.registry.transparency import Logs

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data/rekor2-staging.json").read_text("utf-8"))
WHEN = datetime(2026, 5, 13, 19, 23, 33, tzinfo=UTC)


def certificates(name: str) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(base64.b64decode(one)) for one in DATA[name]]


@pytest.fixture(scope="module")
def found() -> SigstoreBundle:
    return parse_bundle(json.dumps(DATA["bundle"]).encode())


@pytest.fixture(scope="module")
def entry(found: SigstoreBundle) -> LogEntry:
    (one,) = found.logged()
    return one


def test_the_log_has_it(found: SigstoreBundle, entry: LogEntry) -> None:
    key = usable(serialization.load_der_public_key(base64.b64decode(DATA["log"])))
    logged = Logs([TrustedKey(key, "staging.pub")]).check(entry)
    assert logged.time is None
    assert logged.where == "as entry 4026478 of log2025-alpha3.rekor.sigstage.dev, with the key of staging.pub"
    assert entry.body.signature == found.signature
    assert entry.body.key == found.certificate
    with pytest.raises(SignatureError, match="not signed by a log"):
        Logs([]).check(entry)


def test_when_it_was_made(found: SigstoreBundle, tmp_path: Path) -> None:
    """The stamp brings no certificate."""
    file = tmp_path / "times.pem"
    file.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates("times")))
    stamp = TimeAuthorities(str(file)).check(found.stamps[0], found.signature)
    assert (stamp.time, stamp.by) == (int(WHEN.timestamp()), "sigstore-tsa")
    file.write_bytes(certificates("times")[1].public_bytes(Encoding.PEM))
    with pytest.raises(SignatureError, match="neither with it nor in the file"):
        TimeAuthorities(str(file)).check(found.stamps[0], found.signature)


def test_the_certificate_is_of_fulcio(found: SigstoreBundle) -> None:
    leaf, roots = Leaf.of_der(found.certificate), certificates("fulcio")
    chains.check(leaf.certificate, (), roots, chains.CODE_SIGNING, WHEN, "its certificate")
    assert verifies(leaf.key, found.signature, found.message)
    with pytest.raises(SignatureError, match="does not come from"):  # an authority that is for signing code alone
        chains.check(leaf.certificate, (), roots, chains.TIME_STAMPING, WHEN, "its certificate")
