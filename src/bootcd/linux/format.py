# SPDX-License-Identifier: Apache-2.0
"""Making file systems and encrypted volumes, by the programs that distributions have for it.

Keys and passphrases go through standard input, never through an argument that others could read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from ..errors import Unsupported
from .mount import FsContext
from .run import find, run

_PROGRAMS = {
    "sfdisk": "fdisk", "wipefs": "util-linux", "blkid": "util-linux", "partx": "util-linux",
    "mkfs.fat": "dosfstools", "mkfs.ext4": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "cryptsetup": "cryptsetup-bin",
    "systemd-cryptenroll": "systemd-cryptsetup or systemd",
}
"""Each with its package in Debian."""
_VERITY = "/sys/fs/ext4/features/verity"


def require(filesystem: str, *, encrypted: bool) -> None:
    """Raise Unsupported when a program or a file system of the kernel is missing: before anything is erased."""
    for fstype in ("vfat", filesystem):
        with FsContext(fstype):
            pass
    wanted = ["sfdisk", "wipefs", "blkid", "partx", "mkfs.fat", f"mkfs.{filesystem}"]
    if encrypted:
        wanted += ["cryptsetup", "systemd-cryptenroll"]
    missing = [program for program in wanted if find(program) is None]
    if missing:
        packages = dict.fromkeys(_PROGRAMS[program] for program in missing)
        raise Unsupported(f"cannot make partitions and file systems without {', '.join(missing)}",
                          advice=f"On Debian they are in the packages {', '.join(packages)}.")


def make_fat(device: str, label: str, *, start: int) -> None:
    """A FAT32 file system. `start` is the first sector of its partition, which some firmware wants to read in it."""
    run(["mkfs.fat", "-F", "32", "-n", label, "-h", str(start), device])


def make_root(device: str, filesystem: str, label: str, uuid: str) -> None:
    """A file system that can guard files by fs-verity, if the kernel can: an ext4 with that feature could not be
    mounted by one that cannot."""
    if filesystem == "btrfs":
        run(["mkfs.btrfs", "--quiet", "--force", "--label", label, "--uuid", uuid, device])
        return
    # fs-verity needs blocks as large as pages up to Linux 6.3; the default of a small file system is 1 KiB.
    verity = ["-O", "verity"] if os.path.exists(_VERITY) else []
    run(["mkfs.ext4", "-q", "-F", "-b", "4096", *verity, "-L", label, "-U", uuid, device])


# --- encryption -------------------------------------------------------------------------------------------------------


def has_tpm2() -> bool:
    """Whether there is a TPM2 that this kernel drives."""
    return os.path.isdir("/sys/class/tpmrm") and bool(os.listdir("/sys/class/tpmrm"))


def make_luks(device: str, label: str, uuid: str, *, tpm2_pcrs: str | None) -> tuple[bytes, str]:
    """A LUKS2 volume that a recovery key opens, and the TPM2 of this machine where `tpm2_pcrs` says with which PCRs,
    none if empty. Returns the key that opens it for now, and the recovery key. `forget_key` ends the first."""
    key = secrets.token_bytes(64)
    # The key is as random as the volume key: nothing is gained by slowing down who guesses it.
    run(["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
         "1000", "--label", label, "--uuid", uuid, "--key-file", "-", device], input=key)
    recovery = _enroll(device, key, "--recovery-key")
    if tpm2_pcrs is not None:
        _enroll(device, key, "--tpm2-device=auto", f"--tpm2-pcrs={tpm2_pcrs}")
    return key, recovery


def forget_key(device: str, key: bytes) -> None:
    """Remove the key that `make_luks` made."""
    run(["cryptsetup", "luksRemoveKey", "--batch-mode", device, "-"], input=key)


@contextlib.contextmanager
def opened(device: str, key: bytes, name: str) -> Iterator[str]:
    """The path of an opened volume. It closes with its last user: call the block's end when that is a mount."""
    run(["cryptsetup", "open", "--type", "luks2", "--key-file", "-", device, name], input=key)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run(["cryptsetup", "close", "--deferred", name])


def _enroll(device: str, key: bytes, *what: str) -> str:
    # /dev/stdin would be udev's, which does not run in every container.
    done = run(["systemd-cryptenroll", "--unlock-key-file=/proc/self/fd/0", *what, device], input=key)
    return done.stdout.decode("ascii", "replace").strip()
