# SPDX-License-Identifier: Apache-2.0
"""Encrypted volumes (LUKS2), by cryptsetup and systemd-cryptenroll.

Keys and passphrases go through standard input, never through an argument that others could read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator

from ..errors import BootcdError, Unsupported
from .files import translate
from .run import run

_UKI_PCR = "11"
"""What systemd-stub measures a UKI into, and what signatures in a UKI are about (systemd-measure(1))."""


def check_tpm2() -> None:
    """Raise Unsupported unless there is a TPM2 that the kernel drives and systemd-cryptenroll can use."""
    if not os.path.isdir("/sys/class/tpmrm") or not os.listdir("/sys/class/tpmrm"):
        raise Unsupported("this machine has no TPM2", advice="Use --encrypt recovery-key.")
    try:
        run(["systemd-cryptenroll", "--tpm2-device=list"])
    except BootcdError as error:
        raise Unsupported(f"the TPM2 cannot be used: {error}",
                          advice="systemd-cryptenroll needs the libraries of tpm2-tss: on Debian libtss2-esys, "
                          "libtss2-rc, libtss2-mu and libtss2-tcti-device.") from error


def make_luks(device: str, label: str, uuid: str) -> bytes:
    """Make a volume; returns the key that opens it until `forget_key`."""
    key = secrets.token_bytes(64)
    # The key is as random as the volume key: nothing is gained by slowing down who guesses it.
    run(["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
         "1000", "--label", label, "--uuid", uuid, "--key-file", "-", device], input=key)
    return key


def enroll_recovery_key(device: str, key: bytes) -> str:
    """Let a new recovery key open the volume, and return it."""
    return _enroll(device, key, "--recovery-key")


def enroll_tpm2(device: str, key: bytes, pcrs: str, public_key: bytes) -> None:
    """Let the TPM2 of this machine open the volume: while `pcrs` are what they are now, and with a `public_key` (PEM)
    only for a UKI that has a signature by it of what it is measured as. Either may be empty."""
    with tempfile.NamedTemporaryFile(prefix="bootcd-", suffix=".pem") as file:
        file.write(public_key)
        file.flush()
        signed = (f"--tpm2-public-key={file.name}", f"--tpm2-public-key-pcrs={_UKI_PCR}") if public_key else ()
        _enroll(device, key, "--tpm2-device=auto", f"--tpm2-pcrs={pcrs}", *signed)


def forget_key(device: str, key: bytes) -> None:
    """Remove the key that `make_luks` made."""
    run(["cryptsetup", "luksRemoveKey", "--batch-mode", device, "-"], input=key)


@contextlib.contextmanager
def opened(device: str, key: bytes, name: str) -> Iterator[str]:
    """The path of an opened volume. It closes with its last user, which this process is until the block ends, however
    that happens: call the block's end when there is a mount."""
    run(["cryptsetup", "open", "--type", "luks2", "--key-file", "-", device, name], input=key)
    with contextlib.ExitStack() as stack:
        try:
            with translate(f"cannot open /dev/mapper/{name}"):
                descriptor = os.open(f"/dev/mapper/{name}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
        finally:
            run(["cryptsetup", "close", "--deferred", name])
        # Without udev that other name is gone already.
        yield f"/dev/dm-{os.minor(os.fstat(descriptor).st_rdev)}"


def _enroll(device: str, key: bytes, *what: str) -> str:
    # /dev/stdin would be udev's, which does not run in every container.
    done = run(["systemd-cryptenroll", "--unlock-key-file=/proc/self/fd/0", *what, device], input=key)
    return done.stdout.decode("ascii", "replace").strip()
