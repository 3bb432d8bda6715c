# SPDX-License-Identifier: Apache-2.0
"""A TPM 2.0 for a virtual machine: swtpm, out of the tree that has the emulator."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from kit import guest


def start(directory: Path) -> list[str]:
    """Start the TPM whose memory is in `directory`, a new one where there is none, and return what gives it to QEMU. It
    ends with the machine that has it. Raises GuestError."""
    directory.mkdir(parents=True, exist_ok=True)
    socket = Path(tempfile.gettempdir(), f"tpm-{secrets.token_hex(8)}")  # a socket's path has at most 107 bytes
    guest.call([*guest.prepare().program("swtpm", "usr/lib/x86_64-linux-gnu/swtpm"), "socket", "--tpm2", "--daemon",
                "--terminate", "--tpmstate", f"dir={directory}", "--ctrl", f"type=unixio,path={socket}"])
    return ["-chardev", f"socket,id=tpm,path={socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
            "-device", "tpm-crb,tpmdev=tpm0"]
