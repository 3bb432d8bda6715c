# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for what this machine's kernel may lack: Debian's own kernel, everything in memory, one script.

Made by `prepare` once and kept in build/vm, under a name that changes with the recipe:

    qemu/       the emulator, and one of a TPM, with libraries and firmware; started by its own dynamic loader, nothing
                is installed
    vmlinuz     Debian's kernel for clouds: virtual machines need no more
    root.cpio   Debian with Python and the test dependencies, as an initramfs

The emulator is that of Debian 13. The one of Debian 12, QEMU 7.2, is not used even where it is installed: without KVM
it crashes guests now and then. There is no KVM in `run` either, so that results are the same everywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from kit.debian import DebianError, architecture, mirror
from kit.small_debian import cpio

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BOOTCD_VM_CACHE", ROOT / "build" / "vm"))

SUITE = "trixie"
EMULATOR = ("qemu-system-x86", "swtpm")
GUEST = ("python3", "python3-pytest", "python3-hypothesis", "python3-zstandard", "python3-requests", "python3-isal",
         "e2fsprogs", "dosfstools", "btrfs-progs", "attr", "kmod", "mount", "libssl3t64", "fdisk", "cryptsetup-bin",
         "systemd-cryptsetup", "python3-cryptography", "python3-yaml", "libtss2-esys-3.0.2-0t64", "libtss2-rc0t64",
         "libtss2-mu-4.0.1-0t64", "libtss2-tcti-device0t64")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
KERNEL = r"""#!/bin/sh
# The kernel's files without its package, which would pull in what makes initramfs images.
set -e
cd "$1"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
apt-get --quiet=2 download --option=APT::Sandbox::User=root "$package"
dpkg-deb -x linux-image-*.deb .
rm linux-image-*.deb boot/System.map*
chroot . depmod "$(ls usr/lib/modules)"
"""

MEMORY = "3G"
_STEP = 0.2
TAIL = 60
"""Lines of the console that a failure shows."""


class GuestError(Exception):
    """The virtual machine cannot be made, or did not come to its end."""


class PowerCutError(GuestError):
    """The power was cut, as the caller wanted it."""


@dataclass(frozen=True)
class Case:
    """One test that ran in the virtual machine."""

    name: str
    outcome: str
    text: str


@dataclass(frozen=True)
class Kit:
    """What a virtual machine is started from."""

    qemu: Path
    kernel: Path
    root: Path

    def command(self) -> list[str]:
        """The emulator."""
        return [*self.program("qemu-system-x86_64"),
                "-L", str(self.qemu / "usr/share/qemu"), "-L", str(self.qemu / "usr/share/seabios")]

    def program(self, name: str, *libraries: str) -> list[str]:
        """A program of the emulator's tree, run by its own dynamic loader with its own libraries; `libraries` are more
        directories of those."""
        paths = [str(self.qemu / path) for path in ("usr/lib/x86_64-linux-gnu", *libraries)]
        return [str(self.qemu / "lib64/ld-linux-x86-64.so.2"), "--library-path", ":".join(paths),
                str(self.qemu / "usr/bin" / name)]


def why_not() -> str | None:
    """Why there can be no virtual machine here, or None."""
    if os.geteuid() != 0:
        return "bootstrapping needs root"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is not installed"
    try:
        if architecture() != "amd64":
            return "the virtual machine is made for amd64"
        mirror()
    except DebianError as error:
        return str(error)
    return None


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One process at a time makes what is to be at `home`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{home.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepare() -> Kit:
    """The kit, from the cache or made anew, which takes two minutes and the network. Raises GuestError."""
    recipe = hashlib.sha256(repr((SUITE, EMULATOR, GUEST, LEFT_OUT, KERNEL)).encode()).hexdigest()[:12]
    home = CACHE / recipe
    with alone(home):
        if home.exists():
            return Kit(home / "qemu", home / "vmlinuz", home / "root.cpio")
        with tempfile.TemporaryDirectory(prefix="making.", dir=CACHE) as name:
            fresh = Path(name, "kit")
            fresh.mkdir()
            bootstrap(fresh / "qemu.tar", EMULATOR)
            (fresh / "qemu").mkdir()
            call(["tar", "--extract", "--file", fresh / "qemu.tar", "--directory", fresh / "qemu",
                   "--exclude=./dev/*"])
            (fresh / "qemu.tar").unlink()
            hook = Path(name, "kernel")
            hook.write_text(KERNEL)
            hook.chmod(0o755)
            bootstrap(fresh / "root.tar", GUEST, f'--customize-hook={hook} "$1"')
            _split(fresh / "root.tar", fresh / "root.cpio", fresh / "vmlinuz")
            (fresh / "root.tar").unlink()
            fresh.rename(home)
    return Kit(home / "qemu", home / "vmlinuz", home / "root.cpio")


def run(kit: Kit, files: Iterator[tuple[str, int, bytes]], directory: Path, timeout: float, kargs: str = "",
        more: Sequence[str] = ()) -> str:
    """Start a machine whose /init is among `files`, wait until it turns itself off, and return what it wrote to
    /dev/ttyS1. The console is in `directory`/console. `more` are options of the emulator. Raises GuestError with the
    console's last lines."""
    initrd, console, report = (directory / name for name in ("initrd", "console", "report"))
    with initrd.open("wb") as out, kit.root.open("rb") as base:
        shutil.copyfileobj(base, out)
        out.write(cpio(files))
    try:
        start(kit, initrd, console, report, timeout, kargs, more=more)
    finally:
        initrd.unlink()
    return report.read_text(errors="replace")


def start(kit: Kit, initrd: Path, console: Path, report: Path, timeout: float, kargs: str = "",
          disks: Sequence[str] = (), more: Sequence[str] = (), cut_when: Callable[[], bool] = lambda: False) -> None:
    """Run the emulator until the machine turns itself off. The first serial port is written to the file `console`, the
    second to `report`; `disks` are -drive options, `more` any others. The power is cut as soon as `cut_when` says so,
    which is asked a few times each second. Raises GuestError with the console's end, and PowerCutError."""
    command = [*kit.command(), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY,
               "-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(kit.kernel), "-initrd", str(initrd),
               "-append", f"console=ttyS0 quiet panic=-1 {kargs}".rstrip(),
               "-serial", f"file:{console}", "-serial", f"file:{report}"]
    for disk in disks:
        command += ["-drive", f"if=virtio,format=raw,{disk}"]
    command += more
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
        env={**os.environ, "TMPDIR": str(console.parent)},
    ) as process:
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise GuestError(f"no end after {timeout:.0f} s; the console's last lines:\n{tail(console)}")
                if cut_when():
                    raise PowerCutError("the power was cut")
                time.sleep(_STEP)
        finally:
            process.kill()
        errors.seek(0)
        if process.returncode:
            raise GuestError(f"the emulator failed: {errors.read().decode(errors='replace')}\n{tail(console)}")


def read_report(report: str) -> dict[str, list[Case]]:
    """The cases by suite, from parts that each begin with a line "== suite status" and go on with pytest's XML. Raises
    GuestError for a suite that did not run to its end."""
    suites = {}
    for part in re.split(r"^== ", report, flags=re.MULTILINE)[1:]:
        head, _, document = part.partition("\n")
        name, status = head.split()
        if int(status) not in (0, 1):  # neither that all passed nor that some failed
            raise GuestError(f"pytest ended with status {status} for {name}; see the console")
        cases = []
        for case in ElementTree.fromstring(document.strip()).iter("testcase"):
            bad = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
            cases.append(Case(f"{case.get('classname')}::{case.get('name')}", "passed" if bad is None else bad.tag,
                              "" if bad is None else f"{bad.get('message')}\n{bad.text}"))
        suites[name] = cases
    return suites


def tree(source: Path, target: str) -> Iterator[tuple[str, int, bytes]]:
    """A file, or a directory with all below it but what Python leaves there, for `run`."""
    yield target, source.stat().st_mode, source.read_bytes() if source.is_file() else b""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if not path.name.startswith(".") and path.name != "__pycache__" and path.suffix not in (".so", ".pyc"):
                yield from tree(path, f"{target}/{path.name}")


def tail(console: Path) -> str:
    """The last lines of a console."""
    if not console.exists():
        return "(none)"
    return "\n".join(console.read_text(errors="replace").splitlines()[-TAIL:])


def bootstrap(target: Path, packages: Sequence[str], *options: str) -> None:
    """A tar of Debian with these packages and what they need. Raises GuestError."""
    call(["mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(packages)}",
           '--aptopt=APT::Install-Recommends "false"', *(f"--dpkgopt=path-exclude={name}" for name in LEFT_OUT),
           *options, "--format=tar", SUITE, target, mirror()])


def call(command: Sequence[str | Path]) -> None:
    """Run a program. Raises GuestError with what it complained about."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise GuestError(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")


def _split(tar: Path, root: Path, kernel: Path) -> None:
    """The kernel out of the tar, the rest into an archive for initramfs."""
    with tarfile.open(tar) as archive, root.open("wb") as out:
        batch: list[tuple[str, int, bytes]] = []
        for member in archive:
            name = member.name.removeprefix("./").strip("/")
            if member.issym():
                entry = (name, stat.S_IFLNK | 0o777, member.linkname.encode())
            elif member.isdir():
                entry = (name, stat.S_IFDIR | member.mode, b"")
            elif member.isfile() or member.islnk():
                content = archive.extractfile(member)
                assert content is not None
                entry = (name, stat.S_IFREG | member.mode, content.read())
            else:
                continue
            if name.startswith("boot/vmlinuz-"):
                kernel.write_bytes(entry[2])
            elif name not in ("", "."):
                batch.append(entry)
        out.write(cpio(batch))
