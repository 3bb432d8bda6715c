# SPDX-License-Identifier: Apache-2.0
"""SSH keys of root for a new machine, by a file for systemd-tmpfiles in the /etc of its deployment.

root's home may lie in /var, and may be a symlink there that leads anywhere: systemd-tmpfiles finds out at each boot,
and makes the file only where there is none. The file in /etc is a local change, so every upgrade takes it along.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path

from ..errors import UsageError
from ..linux import files

NAME = "tmpfiles.d/bootcd-root-ssh.conf"
MAX_SIZE = 64 * 1024
"""Bytes of authorized_keys."""
_LABEL = "security.selinux"


def read_keys(path: str) -> bytes:
    """The content of a file in the form of authorized_keys. Raises UsageError when it is none."""
    with files.translate(f"cannot read {path}", named=True):
        descriptor = files.open_regular(path, follow=True)
        with open(descriptor, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    lines = [line.strip() for line in data.splitlines()]
    if len(data) > MAX_SIZE:
        raise UsageError(f"{path}: more than {MAX_SIZE} bytes")
    if b"\0" in data or any(b"PRIVATE KEY" in line for line in lines):
        raise UsageError(f"{path} holds no public keys", advice="Name a file of public keys, such as id_ed25519.pub.")
    if not any(line and not line.startswith(b"#") and b" " in line for line in lines):
        raise UsageError(f"{path} holds no keys")
    return data if data.endswith(b"\n") else data + b"\n"


def write_keys(etc: Path, keys: bytes) -> None:
    """Let the first boot put the keys in place."""
    text = ("# Written at installation. Remove this file, and the keys stay where they are.\n"
            "d /root/.ssh 0700 root root -\n"
            f"f~ /root/.ssh/authorized_keys 0600 root root - {base64.b64encode(keys).decode()}\n")
    target = etc / NAME
    with files.translate(f"cannot write {target}"):
        target.parent.mkdir(mode=0o755, exist_ok=True)
    files.atomic_write(target, text.encode())
    with contextlib.suppress(OSError):  # neither is labelled where there is no SELinux
        os.setxattr(target, _LABEL, os.getxattr(target.parent, _LABEL))
