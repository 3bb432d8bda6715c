# SPDX-License-Identifier: Apache-2.0
"""certs.d: authorities to trust for one registry, and the certificate by which it knows us.

    DIRECTORY/HOST[:PORT]/*.crt            authorities, beside the system's
    DIRECTORY/HOST[:PORT]/NAME.cert, .key  a certificate of ours and its key

Source: containers-certs.d(5).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files for one host; `directory` is where they are, None when there is none."""

    directory: Path | None = None
    authorities: tuple[Path, ...] = ()
    ours: tuple[tuple[Path, Path], ...] = ()

    def context(self, *, verify: bool, ours: bool, ca_file: Path | None = None) -> ssl.SSLContext:
        """What a connection is made with: the system's authorities, or in their place those of `ca_file`, and these
        and, when `ours`, our certificates. Raises ConfigError for a file that cannot be used."""
        made = ssl.create_default_context(cafile=ca_file)
        if not verify:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        for path in self.authorities:
            try:
                made.load_verify_locations(cafile=path)
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(f"{path}: no certificates can be read: {error.strerror or error}") from None
        for certificate, key in self.ours if ours else ():
            try:
                made.load_cert_chain(certificate, key, password=lambda: b"")  # never asks at the terminal
            except PermissionError as error:
                raise ConfigError(f"{certificate} and {key.name} cannot be read: {error.strerror}") from None
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(f"{certificate} and {key.name} are no certificate and its key: "
                                  f"{getattr(error, 'reason', None) or error.strerror or error}") from None
        return made


_ADVICE = {
    9: "The clock of this machine, or the certificate, is wrong; 'timedatectl' shows the one.",
    10: "Whoever runs the registry must renew it, unless the clock of this machine is wrong; 'timedatectl' shows that.",
    62: "The registry must have a certificate for the name by which it is asked, or be asked by another name.",
    64: "The registry must have a certificate for the address by which it is asked, or be asked by a name.",
}
"""By OpenSSL's number of what is wrong with a certificate (X509_V_ERR_ in x509_vfy.h)."""


def advice(code: int, host: str) -> str:
    """What to do about a certificate that is not trusted."""
    return _ADVICE.get(code) or (
        f"If you trust who issued it, put that authority's certificate into /etc/bootcd/certs.d/{host}/ca.crt; "
        "bootcd-registries(5).")


def find(host: str, directories: Iterable[Path]) -> Certificates:
    """The certificates for host[:port], from the first directory that has any for it. Raises ConfigError when one of
    ours lacks its key, or the key its certificate."""
    for directory in directories:
        here = directory / host
        try:
            names = sorted(os.listdir(here))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{here}: cannot be read: {error.strerror}") from None
        ours = []
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending == ".cert" and f"{stem}.key" not in names:
                raise ConfigError(f"{here / name}: its key {stem}.key is missing")
            if ending == ".key" and f"{stem}.cert" not in names:
                raise ConfigError(f"{here / name}: its certificate {stem}.cert is missing")
            if ending == ".cert":
                ours.append((here / name, here / f"{stem}.key"))
        return Certificates(here, tuple(here / name for name in names if name.endswith(".crt")), tuple(ours))
    return Certificates()
