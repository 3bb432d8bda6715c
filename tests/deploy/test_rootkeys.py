# SPDX-License-Identifier: Apache-2.0
"""SSH keys for root: what is taken, and what systemd-tmpfiles makes of it."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.deploy.rootkeys import MAX_SIZE, NAME, read_keys, write_keys
from bootcd.errors import BootcdError, Unsupported, UsageError

KEYS = b"# mine\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@home 100%\n"


def test_the_file_says_what_to_make(tmp_path: Path) -> None:
    source = tmp_path / "keys"
    source.write_bytes(KEYS.rstrip())
    assert read_keys(str(source)) == KEYS
    write_keys(tmp_path, KEYS)
    lines = (tmp_path / NAME).read_text().splitlines()
    assert base64.b64decode(lines[-1].split()[-1]) == KEYS
    assert lines[-1].split()[:5] == ["f~", "/root/.ssh/authorized_keys", "0600", "root", "root"]


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="systemd-tmpfiles is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_systemd_puts_the_keys_in_place_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "var/roothome").mkdir(parents=True)
    (root / "root").symlink_to("var/roothome")
    write_keys(root / "etc", KEYS)
    keys = root / "var/roothome/.ssh/authorized_keys"
    for expected in (KEYS, b"changed\n"):
        subprocess.run(["systemd-tmpfiles", f"--root={root}", "--create", root / "etc" / NAME], check=True)
        assert keys.read_bytes() == expected
        assert keys.stat().st_mode & 0o777 == 0o600
        assert keys.parent.stat().st_mode & 0o777 == 0o700
        keys.write_bytes(b"changed\n")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "holds no keys"), (b"# nothing\n\n", "holds no keys"), (b"\0ssh-ed25519 A", "no public keys"),
    (b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3 BlbnNz\n", "no public keys"), (b"a b\n" * MAX_SIZE, "more than"),
])
def test_what_holds_no_keys(content: bytes, message: str, tmp_path: Path) -> None:
    source = tmp_path / "keys"
    source.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_keys(str(source))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BootcdError, match="No such file"):
        read_keys(str(tmp_path / "absent"))
    with pytest.raises((Unsupported, BootcdError)):
        read_keys(str(tmp_path))
