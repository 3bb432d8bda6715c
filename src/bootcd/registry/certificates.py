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

    def context(self, *, verify: bool, ours: bool) -> ssl.SSLContext:
        """What a connection is made with: the system's authorities and these and, when `ours`, our certificates.
        Raises ConfigError for a file that cannot be used."""
        made = ssl.create_default_context()
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
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(f"{certificate} and {key.name} are no certificate and its key: "
                                  f"{getattr(error, 'reason', None) or error.strerror or error}") from None
        return made


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
