# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of logs, as there are, and what is none."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import SignatureError
from bootcd.formats.signednote import MAX_NOTE, MAX_SIGNATURES, hints, parse_checkpoint

ROOT = "5iaX4xK6PMnp4ZFTP4iywMcwLgaTjzgRTkrTOUFIrfY="
REKOR2 = (
    f"log2025-alpha3.rekor.sigstage.dev\n4026479\n{ROOT}\n\n"
    "— log2025-alpha3.rekor.sigstage.dev 09OnDHwVrKeXjBYQ4NJ5EoENdtpBwZcV3X8n+cAZFIk+8LBPKEpZcKqoN2CfjGw0zlQwt+U2pLt5U"
    "yYEFv+STPHPmQg=\n"
    "— witness.stagemole.eu Z/euoAAAAABqBM+21mV7JbHwWmLP20ZSpNWneHMkITOPopt+Vj1MoJSILqOIPpx93pbRfA0U+Eq5IiJjEUhG1JwGhPC"
    "JEUT5yDcFDg==\n")
"""Of the staging instance of sigstore, in May 2026, with the first of its witnesses."""
LINE = "— log.example " + base64.b64encode(b"hintsignature").decode()
GOOD = f"log.example\n5\n{ROOT}\n\n{LINE}\n"


def test_of_rekor_2() -> None:
    found = parse_checkpoint(REKOR2)
    assert (found.origin, found.size) == ("log2025-alpha3.rekor.sigstage.dev", 4026479)
    assert base64.b64encode(found.root).decode() == ROOT
    assert found.text == f"log2025-alpha3.rekor.sigstage.dev\n4026479\n{ROOT}\n".encode()
    assert [(one.name, one.hint.hex(), len(one.signature)) for one in found.signatures] == [
        ("log2025-alpha3.rekor.sigstage.dev", "d3d3a70c", 64), ("witness.stagemole.eu", "67f7aea0", 72)]
    key = base64.b64decode("lD3dVc8yaP25mPtT/sJ59D3LLxGBgW/qYrM6x6KmOqk=")
    spki = bytes.fromhex("302a300506032b6570032100") + key
    assert found.signatures[0].hint in hints(found.origin, spki, key)
    assert found.signatures[0].hint not in hints("other.example", spki, key)


@pytest.mark.parametrize(("origin", "fits"), [
    ("rekor.example", True), ("rekor.example - 1193050959916656506", True), ("rekor.example.org", False),
    ("rekor.example -", False), ("", False),
])
def test_names_are_those_of_origins(origin: str, fits: bool) -> None:
    note = GOOD.replace("log.example\n", f"{origin or 'x'}\n", 1)
    assert parse_checkpoint(note).is_named("rekor.example") == fits


@pytest.mark.parametrize("note", [
    GOOD, GOOD.removesuffix("\n"), GOOD.replace(ROOT, f"{ROOT}\nmore\nTimestamp: 5"), GOOD + f"{LINE}\n",
    GOOD.replace("\n5\n", "\n0\n"), GOOD.replace("\n5\n", "\n9223372036854775807\n"),
])
def test_what_may_be_there(note: str) -> None:
    assert parse_checkpoint(note).signatures[0].signature == b"signature"


@pytest.mark.parametrize(("note", "says"), [
    ("", "no signed note"),
    (GOOD.replace("\n\n", "\n"), "no signed note"),
    (GOOD.replace("log.example\n", "", 1), "no signed note"),
    (GOOD.replace("log.example\n", "\n", 1), "no signed note"),
    (GOOD.replace(f"{ROOT}\n", ""), "no signed note"),
    (GOOD.replace(ROOT, f"{ROOT}\n"), "no signed note|line that is no signature"),
    (GOOD.replace("log.example\n", "log\u202e\n", 1), r'is of "log\\u202e", which is no name'),
    (GOOD.replace("log.example\n", "x" * 256 + "\n", 1), "which is no name"),
    (GOOD.replace("\n5\n", "\n05\n"), 'gives "05" as its size'),
    (GOOD.replace("\n5\n", "\n-5\n"), "as its size"),
    (GOOD.replace("\n5\n", "\n٥\n"), "as its size"),
    (GOOD.replace("\n5\n", "\n9223372036854775808\n"), "as its size"),
    (GOOD.replace(ROOT, "AAAA"), "no root hash"),
    (GOOD.replace(ROOT, "?" * 44), "no root hash"),
    (GOOD.replace("\n", "\r\n"), "control characters"),
    (GOOD.replace("log", "l\0g"), "control characters"),
    (GOOD.replace("—", "-"), "a line that is no signature"),
    (GOOD.replace("— log.example", "— log example"), "a line that is no signature"),
    (GOOD.replace(LINE, "— log.example AAAAAA=="), "a line that is no signature"),
    (GOOD.replace(LINE, "— log.example AAAAA"), "a line that is no signature"),
    (GOOD.replace(LINE, ""), "no signed note"),
    (GOOD + f"{LINE}\n" * MAX_SIGNATURES, "more than 32 signatures"),
    (GOOD + "x" * MAX_NOTE, "larger than"),
], ids=str)
def test_what_is_no_checkpoint(note: str, says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        parse_checkpoint(note)


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="+"), min_size=1, max_size=20)


@given(NAMES, st.integers(0, (1 << 63) - 1), st.binary(min_size=32, max_size=32), st.lists(
    st.tuples(NAMES, st.binary(min_size=5, max_size=80)), min_size=1, max_size=5))
def test_what_is_written_is_read(origin: str, size: int, root: bytes, signatures: list[tuple[str, bytes]]) -> None:
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    lines = "".join(f"— {name} {base64.b64encode(data).decode()}\n" for name, data in signatures)
    found = parse_checkpoint(f"{text}\n{lines}")
    assert (found.text, found.origin, found.size, found.root) == (text.encode(), origin, size, root)
    assert [(one.name, one.hint + one.signature) for one in found.signatures] == signatures


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.builds(
    lambda at, char: GOOD[:at] + char + GOOD[at + 1:], st.integers(0, len(GOOD) - 1),
    st.characters(exclude_categories=["Cs"]))))
def test_anything_is_read_or_refused(note: str) -> None:
    with contextlib.suppress(SignatureError):
        parse_checkpoint(note)
