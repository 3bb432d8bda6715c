# SPDX-License-Identifier: Apache-2.0
"""Secure Boot with keys of our own: makes them, signs with them, builds UKIs, and what enrols the keys in firmware.

By programs of a Debian tree (openssl, sbsign, efitools, ukify, OVMF), in a chroot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kit import guest
from kit.virtual_machine import Firmware

OWNER = "6d1c4d23-5e4b-4d8a-9d3e-0f6a0b1c2d3e"
"""The GUID under which our keys are enrolled; any will do."""


@dataclass(frozen=True)
class Keys:
    """A key for Secure Boot and its certificate, in PEM."""

    key: bytes
    certificate: bytes


class SecureBoot:
    """`tools` is the tree with the programs; what they make is returned."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools

    def make_keys(self, name: str) -> Keys:
        """A new key, and a certificate that says it is `name`."""
        with self._desk() as desk:
            desk.run("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj",
                     f"/CN={name}", "-keyout", "key", "-out", "certificate")
            return Keys(desk.read("key"), desk.read("certificate"))

    def sign(self, keys: Keys, program: bytes) -> bytes:
        """An EFI program with a signature."""
        with self._desk() as desk:
            desk.write("program", program)
            desk.write_keys(keys)
            desk.run("sbsign", "--key", "key", "--cert", "certificate", "--output", "signed", "program")
            return desk.read("signed")

    def enrolment(self, keys: Keys) -> dict[str, bytes]:
        """What systemd-boot enrols so that these keys, and no others, say what boots: signed variables by name."""
        with self._desk() as desk:
            desk.write_keys(keys)
            desk.run("cert-to-efi-sig-list", "-g", OWNER, "certificate", "list")
            for name in ("PK", "KEK", "db"):
                desk.run("sign-efi-sig-list", "-g", OWNER, "-k", "key", "-c", "certificate", name, "list", name)
            return {f"{name}.auth": desk.read(name) for name in ("PK", "KEK", "db")}

    def uki(self, keys: Keys, kernel: bytes, initrd: bytes, os_release: bytes, cmdline: str) -> bytes:
        """A unified kernel image with a signature of what it is measured as, but itself not signed."""
        with self._desk() as desk:
            desk.write_keys(keys)
            desk.run("openssl", "rsa", "-in", "key", "-pubout", "-out", "public")
            for name, content in (("kernel", kernel), ("initrd", initrd), ("os-release", os_release)):
                desk.write(name, content)
            desk.run("ukify", "build", "--linux=kernel", "--initrd=initrd", "--os-release=@os-release",
                     f"--cmdline={cmdline}", "--pcr-private-key=key", "--pcr-public-key=public", "--pcr-banks=sha256",
                     "--output=uki")
            return desk.read("uki")

    @property
    def firmware(self) -> Firmware:
        """UEFI firmware for a virtual machine, in setup mode: everything boots until somebody enrols keys."""
        here = self._tools / "usr/share/OVMF"
        return Firmware(here / "OVMF_CODE_4M.secboot.fd", here / "OVMF_VARS_4M.fd")

    @contextmanager
    def _desk(self) -> Iterator[_Desk]:
        with tempfile.TemporaryDirectory(dir=self._tools / "root") as name:
            yield _Desk(self._tools, Path(name))


class _Desk:
    """A directory inside the tree, for the programs to work in."""

    def __init__(self, tools: Path, directory: Path) -> None:
        self._tools = tools
        self._directory = directory

    def run(self, *command: str) -> None:
        guest.call(["chroot", self._tools, "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh",
                    f"/{self._directory.relative_to(self._tools)}", *command])

    def write(self, name: str, content: bytes) -> None:
        (self._directory / name).write_bytes(content)

    def write_keys(self, keys: Keys) -> None:
        self.write("key", keys.key)
        self.write("certificate", keys.certificate)

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()
