# SPDX-License-Identifier: Apache-2.0
"""Signatures of programs, made by sbsign with keys of openssl, and lists of keys as firmware has them."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import PeError
from bootcd.formats.authenticode import KeyList, Signature
from bootcd.formats.pe import HEAD, Layout, signatures
from kit.pefiles import make_pe

pytestmark = pytest.mark.skipif(shutil.which("sbsign") is None, reason="sbsigntool is not installed")

PROGRAM = make_pe({".linux": b"kernel" * 500, ".initrd": b"initrd", ".cmdline": b"quiet"})
X509, SHA256 = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072", "c1c41626-504c-4092-aca9-41f936934328"


class Desk:
    """Keys by name, and what is signed with them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)

    def key(self, name: str, issuer: str | None = None) -> None:
        self.run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/O=Test/CN={name}", "-keyout",
                 f"{name}.key", "-out", f"{name}.csr")
        by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial"] if issuer else [
            "-signkey", f"{name}.key"]
        self.run("openssl", "x509", "-req", "-days", "3650", "-in", f"{name}.csr", "-out", f"{name}.pem", *by)
        self.run("openssl", "x509", "-in", f"{name}.pem", "-outform", "DER", "-out", f"{name}.der")

    def der(self, name: str) -> bytes:
        return (self.directory / f"{name}.der").read_bytes()

    def sign(self, name: str, program: bytes = PROGRAM) -> bytes:
        (self.directory / "program").write_bytes(program)
        self.run("sbsign", "--key", f"{name}.key", "--cert", f"{name}.pem", "--output", "signed", "program")
        return (self.directory / "signed").read_bytes()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    made = Desk(tmp_path_factory.mktemp("desk"))
    made.key("ours")
    made.key("other")
    made.key("leaf", issuer="ours")
    return made


@pytest.fixture(scope="module")
def signed(desk: Desk) -> bytes:
    return desk.sign("ours")


def read(program: bytes) -> list[Signature]:
    offset, size = Layout.parse(program[:HEAD], len(program)).certificates
    return [Signature.parse(one) for one in signatures(program[offset : offset + size])]


def digest(program: bytes, algorithm: str = "sha256") -> bytes:
    ranges = Layout.parse(program[:HEAD], len(program)).signed_ranges()
    return hashlib.new(algorithm, b"".join(program[at : at + length] for at, length in ranges)).digest()


def key_list(kind: str, *entries: bytes) -> bytes:
    size = 16 + len(entries[0])
    body = b"".join(bytes(16) + entry for entry in entries)
    return UUID(kind).bytes_le + struct.pack("<III", 28 + len(body), 0, size) + body


def test_who_signed_and_what(signed: bytes) -> None:
    (found,) = read(signed)
    assert found.subject == "CN=ours,O=Test"
    assert found.algorithm == "sha256"
    assert found.digest == digest(signed) == digest(PROGRAM)


def test_several_signatures(desk: Desk, signed: bytes) -> None:
    both = desk.sign("other", signed)
    assert [found.subject for found in read(both)] == ["CN=ours,O=Test", "CN=other,O=Test"]
    assert {found.digest for found in read(both)} == {digest(both)}


def test_a_program_without_a_signature() -> None:
    assert Layout.parse(PROGRAM[:HEAD], len(PROGRAM)).certificates == (0, 0)


@pytest.mark.parametrize("where", [0x40, 600, -1])
def test_the_digest_is_of_every_byte(where: int) -> None:
    changed = bytearray(PROGRAM)
    changed[where] ^= 1
    assert digest(bytes(changed)) != digest(PROGRAM)


def test_checksum_and_signature_are_not_signed(signed: bytes) -> None:
    layout = Layout.parse(signed[:HEAD], len(signed))
    changed = bytearray(signed)
    changed[layout.optional_offset + 64] ^= 1
    changed[layout.certificates[0] + 100] ^= 1
    assert digest(bytes(changed)) == digest(signed)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_changed_signatures_are_errors_or_say_the_same(signed: bytes, data: st.DataObject) -> None:
    layout = Layout.parse(signed[:HEAD], len(signed))
    (pkcs7,) = signatures(signed[layout.certificates[0] :])
    changed = bytearray(pkcs7)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    try:
        found = Signature.parse(bytes(changed))
    except PeError:
        return
    # What is not covered by the signature, such as a part of the certificate that is not looked at.
    assert found.digest == digest(signed)
    assert found.subject


def test_a_name_that_is_no_text(desk: Desk) -> None:
    """No signature covers a certificate that comes along, so anybody can change it."""
    signed = desk.sign("leaf")
    assert [found.subject for found in read(signed)] == ["CN=leaf,O=Test"]
    for tag in (0x02, 0x0A):
        with pytest.raises(PeError, match="cannot be checked"):
            read(signed.replace(b"\x0c\x04leaf", bytes([tag]) + b"\x04leaf"))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for parse in (Signature.parse, KeyList.parse, signatures):
        try:
            parse(data)  # type: ignore[operator]
        except PeError:
            continue


def test_what_the_firmware_trusts(desk: Desk, signed: bytes) -> None:
    (found,) = read(signed)
    ours, other = key_list(X509, desk.der("ours")), key_list(X509, desk.der("other"))
    assert KeyList.parse(other + ours).covers(found, digest(signed))
    assert not KeyList.parse(other).covers(found, digest(signed))
    assert not KeyList.parse(b"").covers(found, digest(signed))
    assert KeyList.parse(other + key_list(SHA256, bytes(32), digest(signed))).covers(found, digest(signed))
    unknown = key_list("826ca512-cf10-4ac9-b187-be01496631bd", bytes(20))
    assert KeyList.parse(unknown + ours).covers(found, digest(signed))


def test_a_key_that_a_trusted_one_vouches_for(desk: Desk) -> None:
    program = desk.sign("leaf")
    (found,) = read(program)
    assert found.subject == "CN=leaf,O=Test"
    assert KeyList.parse(key_list(X509, desk.der("ours"))).covers(found, digest(program))
    assert not KeyList.parse(key_list(X509, desk.der("other"))).covers(found, digest(program))


def test_a_certificate_with_the_name_of_a_trusted_one_is_none(desk: Desk, tmp_path: Path) -> None:
    impostor = Desk(tmp_path)
    impostor.key("ours")
    impostor.key("leaf", issuer="ours")
    program = impostor.sign("leaf")
    (found,) = read(program)
    assert not KeyList.parse(key_list(X509, desk.der("ours"))).covers(found, digest(program))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda data: data[:-8], "are not the end of the file"),
    (lambda data: data + bytes(8), "are not the end of the file"),
])
def test_a_certificate_table_elsewhere(signed: bytes, spoil: Callable[[bytes], bytes], words: str) -> None:
    program = spoil(signed)
    with pytest.raises(PeError, match=words):
        _ = Layout.parse(program[:HEAD], len(program)).certificates


def test_a_file_with_gaps_has_no_digest() -> None:
    """A firmware might see another program than we."""
    layout = Layout.parse(PROGRAM[:HEAD], len(PROGRAM))
    changed = bytearray(PROGRAM)
    struct.pack_into("<I", changed, layout.optional_offset + 60, layout.sections[0].offset - 8)
    with pytest.raises(PeError, match=r"section '\.linux' begins at"):
        digest(bytes(changed))


@pytest.mark.parametrize("data", [b"short", key_list(SHA256, bytes(32))[:-1], UUID(X509).bytes_le + bytes(12),
                                  key_list(X509, b"no certificate")])
def test_malformed_key_lists(data: bytes) -> None:
    with pytest.raises(PeError, match="of the firmware"):
        KeyList.parse(data)
