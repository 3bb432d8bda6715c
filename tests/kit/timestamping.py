# SPDX-License-Identifier: Apache-2.0
"""Authorities for time stamps: one that says any time and makes any mistake, and that of openssl.

    times = TimeAuthority()
    bundle(KEY, statement(DIGEST), log, [times.stamp])

Formats: RFC 3161, RFC 5652, RFC 5035.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from kit.signing import NOW, PrivateKey, certificate, sign

TIME_STAMPING = ExtendedKeyUsageOID.TIME_STAMPING
TST_INFO = "1.2.840.113549.1.9.16.1.4"
SHA256 = "2.16.840.1.101.3.4.2.1"
ALGORITHMS = {ec.EllipticCurvePrivateKey: "1.2.840.10045.4.3.2", rsa.RSAPrivateKey: "1.2.840.113549.1.1.11",
              ed25519.Ed25519PrivateKey: "1.3.101.112"}


def tlv(tag: int, *parts: bytes) -> bytes:
    """An element of DER."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    count = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | count]) + size.to_bytes(count, "big") + content


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for number in (40 * first + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return tlv(0x06, content)


def integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def sequence(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def algorithm(dotted: str) -> bytes:
    return sequence(oid(dotted))


class TimeAuthority:
    """An authority, its certificate for time stamps, and one more of the same key that is not in use."""

    def __init__(self, key: PrivateKey | None = None, *, purposes: Sequence[x509.ObjectIdentifier] = (TIME_STAMPING,),
                 critical: bool = True, minutes: int = 10**5, authority_minutes: int = 10**6,
                 authority_purposes: Sequence[x509.ObjectIdentifier] = ()) -> None:
        self._authority, self._key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(
            ec.SECP256R1())
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        limits = [(x509.ExtendedKeyUsage(authority_purposes), False)] if authority_purposes else []
        self.root = certificate("times", self._authority.public_key(), "times", self._authority, ca=0,
                                minutes=authority_minutes, now=NOW - 3600, extensions=limits)
        uses: list[tuple[x509.ExtensionType, bool]] = [(self._identifier, False)]
        uses += [(x509.ExtendedKeyUsage(purposes), critical)] if purposes else []
        self.own, self.twin = (certificate("clock.example", self._key.public_key(), "times", self._authority,
                                           minutes=minutes, now=NOW - 3600, extensions=uses) for _ in range(2))

    def pem(self, *, own: bool = True) -> bytes:
        """For the configuration; without its `own`, stamps have to bring it."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in ((self.own, self.root) if own else (self.root,)))

    def write(self, path: Path, *, own: bool = True) -> str:
        path.write_bytes(self.pem(own=own))
        return str(path)

    def stamp(self, data: bytes, time: int | str = NOW, *, status: int = 0, with_certificates: bool = False,
              kind: str = TST_INFO, version: int = 1, signed_kind: str = TST_INFO, attribute: str = "v2",
              named: bytes = b"", hash_: str = SHA256, more: bytes = b"", other: bytes = b"", signers: int = 1,
              accuracy: int = 1, key: PrivateKey | None = None, by_identifier: bool = False, method: str = "",
              attributes: Sequence[bytes] = ()) -> bytes:
        """`more` goes to the end of TSTInfo, `other` in place of what is signed, `attributes` beside those that belong
        there. `method` is the algorithm of the signature."""
        when = datetime.fromtimestamp(time, UTC).strftime("%Y%m%d%H%M%SZ") if isinstance(time, int) else time
        info = sequence(integer(version), oid("1.2.3"), sequence(algorithm(hash_), tlv(
            0x04, hashlib.sha256(data).digest())), integer(4711), tlv(0x18, when.encode()),
            sequence(integer(accuracy)), more)
        der = named or self.own.public_bytes(Encoding.DER)
        identified = {
            "v1": ("1.2.840.113549.1.9.16.2.12", sequence(sequence(sequence(tlv(0x04, hashlib.sha1(der).digest()))))),
            "v2": ("1.2.840.113549.1.9.16.2.47", sequence(sequence(sequence(tlv(
                0x04, hashlib.sha256(der).digest()))))),
        }.get(attribute)
        needed = [("1.2.840.113549.1.9.3", oid(signed_kind)),
                  ("1.2.840.113549.1.9.4", tlv(0x04, hashlib.sha256(other or info).digest())),
                  *([identified] if identified else [])]
        encoded = sorted([*(sequence(oid(name), tlv(0x31, value)) for name, value in needed), *attributes])
        key = key or self._key
        method = method or next(found for kind, found in ALGORITHMS.items() if isinstance(key, kind))
        own = tlv(0x80, self._identifier.digest) if by_identifier else sequence(
            self.own.issuer.public_bytes(), integer(self.own.serial_number))
        signer = sequence(integer(1), own, algorithm(SHA256), tlv(0xA0, *encoded), algorithm(method),
                          tlv(0x04, sign(key, tlv(0x31, *encoded))))
        brought = [tlv(0xA0, self.own.public_bytes(Encoding.DER))] if with_certificates else []
        signed = sequence(integer(3), tlv(0x31, algorithm(SHA256)), sequence(oid(kind), tlv(0xA0, tlv(0x04, info))),
                          *brought, tlv(0x31, *[signer] * signers))
        return sequence(sequence(integer(status)), sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, signed)))


class OpensslTimeAuthority:
    """`openssl ts`, which says the time that it is. `algorithm` is as `openssl genpkey` has it."""

    def __init__(self, directory: Path, algorithm: str = "EC", digest: str = "sha256") -> None:
        self.directory, self._digest = directory, digest
        directory.mkdir()
        option = ["-pkeyopt", "ec_paramgen_curve:P-384"] if algorithm == "EC" else []
        (directory / "ts.cnf").write_text(
            f"[tsa]\ndefault_tsa = one\n[one]\nserial = {directory}/serial\nsigner_digest = {digest}\n"
            "default_policy = 1.2.3.4\ndigests = sha256, sha384, sha512\naccuracy = secs:1\ness_cert_id_alg = sha256\n"
            "[ca]\nbasicConstraints = critical,CA:TRUE,pathlen:0\nkeyUsage = critical,keyCertSign\n"
            "[own]\nkeyUsage = critical,digitalSignature\nextendedKeyUsage = critical,timeStamping\n")
        for name in ("ca", "own"):
            self._openssl("genpkey", "-algorithm", algorithm, *option, "-out", f"{name}.key")
            self._openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/O=Test/CN={name}", "-out", f"{name}.csr")
            by = ["-signkey", "ca.key"] if name == "ca" else ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
            self._openssl("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-extfile", "ts.cnf", "-extensions", name,
                          "-out", f"{name}.pem", *by)

    def stamp(self, data: bytes, *, with_certificates: bool = True) -> bytes:
        (self.directory / "data").write_bytes(data)
        self._openssl("ts", "-query", "-data", "data", f"-{self._digest}", "-out", "query",
                      *(["-cert"] if with_certificates else []))
        return self._reply()

    def answer(self, query: bytes) -> bytes:
        """What it says to a query of somebody else."""
        (self.directory / "query").write_bytes(query)
        return self._reply()

    def certificates(self) -> list[bytes]:
        """Its own and that of its authority, in DER."""
        return [x509.load_pem_x509_certificate((self.directory / name).read_bytes()).public_bytes(Encoding.DER)
                for name in ("own.pem", "ca.pem")]

    def _reply(self) -> bytes:
        self._openssl("ts", "-reply", "-config", "ts.cnf", "-section", "one", "-queryfile", "query", "-signer",
                      "own.pem", "-inkey", "own.key", "-out", "reply")
        return (self.directory / "reply").read_bytes()

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)
