# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes, checked by cryptsetup. That a TPM2 opens one is shown in tests/vm/test_encrypted.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from bootcd.errors import Unsupported
from bootcd.linux import luks
from kit import loopback
from kit.loopback import MIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    with path.open("wb") as made:
        made.truncate(32 * MIB)
    return path


def tags(path: Path) -> dict[str, str]:
    done = subprocess.run(["blkid", "--probe", "--output", "export", path], capture_output=True, text=True, check=True)
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def test_a_machine_without_a_tpm2() -> None:
    if Path("/sys/class/tpmrm").is_dir():
        pytest.skip("there may be a TPM2")
    with pytest.raises(Unsupported, match="no TPM2") as found:
        luks.check_tpm2()
    assert "recovery-key" in found.value.hint


@pytest.fixture
def mapper() -> None:
    if os.geteuid() != 0 or not Path("/dev/mapper/control").exists():
        pytest.skip("no device-mapper here")
    missing = [program for program in ("cryptsetup", "systemd-cryptenroll") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


@pytest.mark.usefixtures("mapper")
def test_only_the_recovery_key_opens_the_volume(file: Path) -> None:
    volume = str(uuid.uuid4())
    with loopback.attached(file) as device:
        key = luks.make_luks(str(device), "secret", volume)
        recovery = luks.enroll_recovery_key(str(device), key)
        with luks.opened(str(device), key, "bootcd-test") as plain:
            Path(plain).write_bytes(b"plain text" * 1000)
            luks.forget_key(str(device), key)
        assert not Path("/dev/mapper/bootcd-test").exists()
    assert (tags(file)["TYPE"], tags(file)["UUID"], tags(file)["LABEL"]) == ("crypto_LUKS", volume, "secret")
    assert b"plain text" not in file.read_bytes()

    with loopback.attached(file) as device:
        def opens(secret: bytes) -> bool:
            done = subprocess.run(["cryptsetup", "open", "--test-passphrase", "--key-file", "-", device],
                                  input=secret, check=False, capture_output=True)
            return done.returncode == 0

        assert len(recovery.replace("-", "")) == 64
        assert opens(recovery.encode())
        assert not opens(key)
        assert not opens(b"")
        dump = subprocess.run(["cryptsetup", "luksDump", device], capture_output=True, text=True, check=True).stdout
        assert "systemd-recovery" in dump
        assert dump.count(": luks2") == 1, "one key slot"
