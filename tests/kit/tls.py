# SPDX-License-Identifier: Apache-2.0
"""Certificates for servers and machines on loopback, by an authority that nobody else knows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """An authority in a directory: `ca.pem`, and for each name that it was asked for NAME.pem and NAME.key."""

    directory: Path
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, directory: Path, *names: str) -> Authority:
        made = cls(directory, ec.generate_private_key(ec.SECP256R1()))
        made.certificate.write_bytes(made._certificate("authority", made.key, DAY * 2, ca=True))
        for name in names:
            made.issue(name)
        return made

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    def pair(self, name: str) -> tuple[Path, Path]:
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def issue(self, name: str, valid: timedelta = DAY * 2, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """`valid` is how long from now on; negative for one that has expired."""
        certificate, file = self.pair(name)
        key = ec.generate_private_key(ec.SECP256R1())
        file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
        certificate.write_bytes(self._certificate(name, key, valid, address))
        return certificate, file

    def _certificate(self, name: str, key: ec.EllipticCurvePrivateKey, valid: timedelta, address: str = "127.0.0.1",
                     ca: bool = False) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), x509.random_serial_number(),
            now - DAY * 3, now + valid,
        ).add_extension(x509.BasicConstraints(ca, None), critical=True).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        if ca:
            builder = builder.add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False),
                                            critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(
                ipaddress.ip_address(address))]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
