# SPDX-License-Identifier: Apache-2.0
"""Root directories of images, on disk: one in which nothing is wrong, and what to put into it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.ops import tools
from kit.pefiles import make_pe
from kit.small_debian import cpio

KVER = "6.12.0-test"
MODULES = f"usr/lib/modules/{KVER}"
UKI = f"boot/EFI/Linux/{KVER}.efi"
KERNEL = make_pe({".text": b"kernel" * 100})
INITRD = {"usr/lib/bootcd/bootcd-setup-root": b"program", f"usr/lib/modules/{KVER}/kernel/fs/erofs/erofs.ko.zst": b"x",
          f"usr/lib/modules/{KVER}/kernel/fs/overlayfs/overlay.ko.xz": b"x"}
"""Files of an initrd that can mount a composefs image."""
MTIME = 1_700_000_000


def initrd(files: dict[str, bytes] = INITRD) -> bytes:
    """An initrd with these files and their directories, not compressed."""
    parents = {os.fspath(parent) for name in files for parent in Path(name).parents if parent.name}
    entries = [(name, 0o40755, b"") for name in sorted(parents)]
    return cpio([*entries, *((name, 0o100644, content) for name, content in files.items())])


def write(root: Path, path: str, content: bytes | str = b"", mode: int = 0o644) -> Path:
    """Write a file and the directories above it."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(mode)
    return target


def archive(root: Path, target: Path) -> Path:
    """Its tar, as other tools make it."""
    subprocess.run(["tar", "--create", "--file", target, "--directory", root, "--format=pax", "--xattrs", "."],
                   check=True, capture_output=True)
    return target


def clean_rootfs(root: Path) -> Path:
    """A root directory that every lint is content with."""
    for name in ("boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var/lib/app", "etc", "usr/bin"):
        (root / name).mkdir(parents=True)
    (root / "var/run").symlink_to("../run")
    write(root, f"{MODULES}/vmlinuz", KERNEL)
    write(root, f"{MODULES}/initramfs.img", initrd())
    write(root, f"{MODULES}/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    write(root, "usr/lib/os-release", 'ID=test\nNAME="Test OS"\nPRETTY_NAME="Test OS 1"\nVERSION_ID=1\n')
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:998:998::/:/bin/false\n")
    write(root, "etc/group", "root:x:0:\napp:x:998:\n")
    write(root, "etc/machine-id")
    write(root, "usr/lib/sysusers.d/app.conf", '# the app\nu! app - "The app"\n')
    write(root, "usr/lib/tmpfiles.d/app.conf", "d /var/lib/app 0755 app app -\nL /var/run - - - - ../run\n")
    write(root, "usr/lib/bootc/kargs.d/10-console.toml", 'kargs = ["console=ttyS0", "quiet"]\n')
    write(root, "usr/bin/su", b"x" * 100, 0o4755)
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            os.utime(Path(directory, name), (MTIME, MTIME), follow_symlinks=False)
    os.utime(root, (MTIME, MTIME))
    return root


def digest(root: Path) -> str:
    return tools.digests(root, Algorithm.SHA512, [Version.V1])[Version.V1].hex()


def add_uki(root: Path, cmdline: str | None = None, *, keys: Keys | None = None, **sections: bytes) -> Path:
    """Put a UKI into a root directory, by default one that names the digest which that has now."""
    if cmdline is None:
        cmdline = f"console=ttyS0 quiet composefs.digest=v1-sha512-12:{digest(root)}"
    boot = (root / "boot").stat()
    content = {".linux": KERNEL, ".initrd": initrd(), ".cmdline": cmdline.encode(),
               ".osrel": b"ID=test\n", ".uname": KVER.encode()}
    content |= {f".{name}": data for name, data in sections.items()}
    program = make_pe(content)
    path = write(root, UKI, keys.sign(program) if keys is not None else program)
    os.utime(root / "boot", ns=(boot.st_atime_ns, boot.st_mtime_ns))
    return path


class Keys:
    """A key for Secure Boot that sbsign signs with."""

    def __init__(self, directory: Path, name: str = "key") -> None:
        self.key, self.certificate = directory / f"{name}.key", directory / f"{name}.pem"
        self._directory = directory
        subprocess.run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj",
                        f"/CN={name}", "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)

    def sign(self, program: bytes) -> bytes:
        (self._directory / "program").write_bytes(program)
        subprocess.run(["sbsign", "--key", self.key, "--cert", self.certificate, "--output", "signed", "program"],
                       check=True, capture_output=True, cwd=self._directory)
        return (self._directory / "signed").read_bytes()

    @staticmethod
    def available() -> bool:
        return shutil.which("sbsign") is not None and shutil.which("openssl") is not None
