# SPDX-License-Identifier: Apache-2.0
"""OpenPGP keys in a home of their own, and signatures by them, made by the real gpg."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def available() -> bool:
    """Whether gpg and gpgv are installed (packages gnupg, gpgv)."""
    return shutil.which("gpg") is not None and shutil.which("gpgv") is not None


class Keys:
    """A gpg home; a context manager, since gpg leaves an agent behind."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, parents=True)

    def make(self, name: str, expires: str = "never", kind: str = "ed25519") -> str:
        """A key without a passphrase; returns its fingerprint."""
        self._gpg("--passphrase", "", "--quick-generate-key", name, kind, "sign", expires)
        listing = self._gpg("--list-keys", "--with-colons", name).decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))

    def public(self, name: str, *, armored: bool = False) -> bytes:
        return self._gpg(*(["--armor"] if armored else []), "--export", name)

    def sign(self, name: str, data: bytes, *options: str) -> bytes:
        """A signed message with `data` inside."""
        return self._gpg("--local-user", name, *options, "--sign", "--output", "-", data=data)

    def __enter__(self) -> Keys:
        return self

    def __exit__(self, *about: object) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False, capture_output=True)

    def _gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        done = subprocess.run(["gpg", "--homedir", self.home, "--batch", "--no-tty", "--pinentry-mode", "loopback",
                               *arguments], input=data, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return done.stdout
