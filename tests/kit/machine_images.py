# SPDX-License-Identifier: Apache-2.0
"""Bootable images of Debian with our package in them: what the whole of bootcd is for.

    layer      what it has                                              when it is made
    base       Debian with systemd, a kernel, Python                    once a recipe; kept in build/vm
    product    our package, an initramfs with our program,              once a source tree; kept in build/vm
               what tests need (tests/vm/image)
    version    os-release, and what makes this version special          always
    uki        for sealed images: a signed UKI with the digest          always

Programs of Debian that are needed on the way (dracut, ukify, openssl) run in chroots; nothing is installed here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from kit import guest
from kit.images import Dir, Entry, File, ImageBuilder, Layer, Symlink, Whiteout
from kit.installed import meson_install
from kit.secure_boot import Keys, SecureBoot

PACKAGES = ("systemd", "systemd-sysv", "udev", "systemd-boot", "dracut-core", "dbus", "polkitd", "python3",
            "python3-requests", "python3-cryptography", "python3-yaml", "python3-zstandard", "python3-isal",
            "python3-dbus-next", "python3-systemd", "libssl3t64", "e2fsprogs", "dosfstools", "erofs-utils",
            "fsverity", "kmod", "mount", "procps", "fdisk", "attr", "cpio", "btrfs-progs", "cryptsetup-bin",
            "systemd-cryptsetup", "tpm2-tools")
TOOLS = ("ovmf", "systemd-ukify", "systemd-boot-efi", "sbsigntool", "openssl", "efitools", "systemd",
         "libtss2-esys-3.0.2-0t64", "libtss2-rc0t64", "libtss2-mu-4.0.1-0t64")
PRUNE = r"""#!/bin/sh
# What a container image has not, and what a machine makes anew.
set -e
cd "$1"
for kernel in boot/vmlinuz-*; do mv "$kernel" "usr/lib/modules/${kernel#boot/vmlinuz-}/vmlinuz"; done
rm -rf boot/* var/cache/* var/log/* var/lib/apt var/lib/dpkg etc/fstab etc/resolv.conf
mkdir -p sysroot
: > etc/machine-id
"""
PYTHON = "/usr/lib/python3/dist-packages"
EXTRA = guest.ROOT / "tests/vm/image"
UNITS = ("test-agent.service", "systemd-networkd.service", "bootcd.service", "bootcd-boot-complete.service",
         "bootcd-boot-started.service", "bootcd-finalize-staged.service", "bootcd-health-check.service",
         "bootcd-hold-esp.service", "bootcd-reboot-required.service",
         "bootcd-staged.path")
MASKED = ("e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service", "sys-kernel-debug.mount",
          "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount",
          "systemd-binfmt.service", "systemd-networkd-persistent-storage.service", "systemd-rfkill.socket",
          "systemd-networkd-wait-online.service", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount")
"""What takes seconds of an emulated processor and is of no use here."""
DRACUT = ("--quiet", "--no-hostonly", "--no-hostonly-cmdline", "--reproducible", "--zstd")
CMDLINE = "rw console=ttyS0 panic=1 rd.shell=0"
"""What a UKI says besides the digest. There is no root=: systemd finds the partition by its type."""
BOOTC_PROGRAM = "usr/lib/bootc/initramfs-setup"
BOOTC_UNIT = "bootc-root-setup.service"
KEEP_PRODUCTS = 3
LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"


@dataclass(frozen=True)
class Sealed:
    """A sealed image, its UKI, and the same before it was signed."""

    image: ImageBuilder
    uki: bytes
    unsigned_uki: bytes


class Workshop:
    """Makes images. Everything that is not worth to be kept lies in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    # --- what is kept in build/vm ---

    @cached_property
    def base(self) -> Path:
        """A tar of Debian. Raises GuestError."""
        recipe = (guest.SUITE, PACKAGES, guest.LEFT_OUT, guest.KERNEL, PRUNE)
        return kept("machine", recipe, lambda fresh: self._bootstrap(fresh, PACKAGES, guest.KERNEL, PRUNE)) / "root.tar"

    @cached_property
    def tools(self) -> Path:
        """A tree of Debian with the programs that make and sign UKIs, and the firmware. Raises GuestError."""
        def make(fresh: Path) -> None:
            self._bootstrap(fresh, TOOLS)
            unpack(fresh / "root.tar", fresh / "root")
            (fresh / "root.tar").unlink()

        return kept("tools", (guest.SUITE, TOOLS, guest.LEFT_OUT), make) / "root"

    @cached_property
    def secure_boot(self) -> SecureBoot:
        """Keys, signatures and firmware, by the programs in `tools`."""
        return SecureBoot(self.tools)

    @cached_property
    def product(self) -> Path:
        """A tar of our package and what belongs to it. Takes half a minute after a change of the sources."""
        installed = self.directory / "installed"
        self._install(installed)
        recipe = (self.base.parent.name, UNITS, MASKED, DRACUT,
                  [(path, mode, hashlib.sha256(content).hexdigest()) for path, mode, content in _files(installed)])
        home = kept("product", recipe, lambda fresh: self._compose(installed, fresh / "layer.tar"))
        os.utime(home)
        products = sorted(guest.CACHE.glob("product-*"), key=lambda one: one.stat().st_mtime)
        for old in products[:-KEEP_PRODUCTS]:
            shutil.rmtree(old, ignore_errors=True)
        return home / "layer.tar"

    def _bootstrap(self, fresh: Path, packages: Sequence[str], *hooks: str) -> None:
        options = ["--skip=output/dev"]  # whoever unpacks the tar need not make devices
        for number, text in enumerate(hooks):
            hook = self.directory / f"hook{number}"
            hook.write_text(text)
            hook.chmod(0o755)
            options.append(f'--customize-hook={hook} "$1"')
        guest.bootstrap(fresh / "root.tar", packages, *options)

    def _install(self, target: Path) -> None:
        """What a distribution's package would hold, and tests/vm/image."""
        shutil.rmtree(target, ignore_errors=True)
        meson_install(self.directory / "meson", "-Dsetup_root=enabled", "-Dpython.bytecompile=-1",
                      f"-Dpython.purelibdir={PYTHON}", f"-Dpython.platlibdir={PYTHON}", destination=target)
        for program in (target / "usr/bin").iterdir():  # as dh_python3(1) does
            _, _, rest = program.read_text().partition("\n")
            program.write_text(f"#!/usr/bin/python3\n{rest}")
        shutil.copytree(EXTRA, target, dirs_exist_ok=True)

    def _compose(self, installed: Path, target: Path) -> None:
        """Put the package into Debian, do there what its maintainer scripts would, and take out what is new."""
        tree = self.directory / "tree"
        unpack(self.base, tree)
        try:
            before = {path: _stamp(tree / path) for path in _paths(tree)}
            (tree / "dev").mkdir()  # what lies in it was left out with it
            guest.call(["cp", "--recursive", "--no-preserve=ownership", f"{installed}/.", tree])
            version = self.kernel_version
            initramfs = f"/usr/lib/modules/{version}/initramfs.img"
            chroot(tree, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
                    f"{PYTHON}/bootcd")
            chroot(tree, "systemctl", "enable", *UNITS)
            chroot(tree, "systemctl", "mask", *MASKED)
            chroot(tree, "systemctl", "set-default", "multi-user.target")
            chroot(tree, "dracut", *DRACUT, "--kver", version, initramfs)
            changed = [path for path in _paths(tree) if before.get(path) != _stamp(tree / path)
                       and not path.startswith(("proc/", "sys/", "dev/", "run/", "tmp/", "var/"))]
            target.write_bytes(Layer(_entries(tree, changed)).tar)
        finally:
            shutil.rmtree(tree)

    # --- images ---

    @cached_property
    def kernel_version(self) -> str:
        with tarfile.open(self.base) as archive:
            names = (member.name.split("/") for member in archive if member.name.endswith("/vmlinuz"))
            return next(names)[-2]

    @cached_property
    def _layers(self) -> list[Layer]:
        return [Layer(tar=path.read_bytes(), compression="zstd") for path in (self.base, self.product)]

    def image(self, version: str, extra: Iterable[File | Symlink] = ()) -> ImageBuilder:
        """An image that boots by a Type 1 entry."""
        return ImageBuilder([*self._layers, _version_layer(version, extra)],
                            labels={"org.opencontainers.image.version": version, "containers.bootc": "1"})

    def sealed(self, version: str, keys: Keys, extra: Iterable[File | Symlink] = ()) -> Sealed:
        """An image that boots by a signed UKI, with a signed boot loader, and with keys to enrol."""
        tree = self.directory / "sealed"
        loader = self.secure_boot.sign(keys, (self.tools / LOADER).read_bytes())
        enrolment = self.secure_boot.enrolment(keys)
        plain = self.image(version, [File(f"{LOADER}.signed", loader), *extra, *(
            File(f"usr/lib/bootcd/keys/auto/{name}", content) for name, content in enrolment.items())])
        self._unpack(plain, tree)
        try:
            modules = tree / "usr/lib/modules" / self.kernel_version
            parts = ((modules / "vmlinuz").read_bytes(), (modules / "initramfs.img").read_bytes(),
                     (tree / "usr/lib/os-release").read_bytes(),
                     f"{CMDLINE} composefs.digest=v1-sha512-12:{self._digest(tree)}")
        finally:
            shutil.rmtree(tree)
        unsigned = self.secure_boot.uki(keys, *parts)
        uki = self.secure_boot.sign(keys, unsigned)
        layer = Layer([Dir("boot/EFI"), Dir("boot/EFI/Linux"),
                       File(f"boot/EFI/Linux/{self.kernel_version}.efi", uki)], compression="zstd")
        return Sealed(ImageBuilder([*plain.layers, layer], labels=plain.config["config"]["Labels"]), uki, unsigned)

    def for_bootc(self, version: str, program: Path) -> ImageBuilder:
        """An image that boots by a Type 1 entry, whose initrd has `program`, that of bootc, and not ours."""
        plain = self.image(version)
        unit = re.sub("(?m)^(ExecStart=|Condition.*).*", "", (guest.ROOT / "initramfs/bootcd-setup-root.service.in")
                      .read_text()) + f"ExecStart=/{BOOTC_PROGRAM} setup-root\n"
        theirs = [File(BOOTC_PROGRAM, program.read_bytes(), mode=0o755),
                  File(f"usr/lib/systemd/system/{BOOTC_UNIT}", unit.encode())]
        ours = "usr/lib/bootcd/bootcd-setup-root"
        initramfs = f"usr/lib/modules/{self.kernel_version}/initramfs.img"
        tree = self.directory / "bootc"
        self._unpack(plain, tree)
        try:
            (tree / ours).unlink()
            for file in theirs:
                (tree / str(file.path)).parent.mkdir(parents=True, exist_ok=True)
                (tree / str(file.path)).write_bytes(file.content)
                (tree / str(file.path)).chmod(file.mode)
            wants = tree / "root/parts/usr/lib/systemd/system/initrd-root-fs.target.wants"
            wants.mkdir(parents=True)
            (wants / BOOTC_UNIT).symlink_to(f"../{BOOTC_UNIT}")
            chroot(tree, "dracut", *DRACUT, "--kver", self.kernel_version, "--add-drivers", "erofs overlay",
                   "--install", f"/{BOOTC_PROGRAM} /usr/lib/systemd/system/{BOOTC_UNIT}",
                   "--include", "/root/parts", "/", "--force", f"/{initramfs}")
            theirs.append(File(initramfs, (tree / initramfs).read_bytes()))
        finally:
            shutil.rmtree(tree)
        layer = Layer([*_with_parents(theirs), Whiteout(ours)], compression="zstd")
        return ImageBuilder([*plain.layers, layer], labels=plain.config["config"]["Labels"])

    def _unpack(self, image: ImageBuilder, tree: Path) -> None:
        """The tree of an image of ours; `tree` must not be there."""
        unpack(self.base, tree)
        for number, layer in enumerate(image.layers[1:]):
            tar = self.directory / f"layer{number}"
            tar.write_bytes(layer.tar)
            unpack(tar, tree)
            tar.unlink()

    def _digest(self, tree: Path) -> str:
        """By the command that builders of images use."""
        done = subprocess.run([sys.executable, "-m", "bootcd.cli", "container", "compute-digest", tree], check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": os.fspath(guest.ROOT / "src")})
        return done.stdout.strip()


def _version_layer(version: str, extra: Iterable[File | Symlink]) -> Layer:
    text = (f'ID=machine\nNAME="Machine"\nPRETTY_NAME="Machine {version}"\nVERSION_ID={version}\n'
            "IMAGE_ID=machine\n")
    return Layer(_with_parents([
        File("usr/lib/os-release", text.encode()), Symlink("etc/os-release", "../usr/lib/os-release"),
        File("etc/version.conf", f"{version}\n".encode()), *extra,
    ]), compression="zstd")


def _with_parents(entries: Iterable[File | Symlink]) -> Iterator[Entry]:
    """Who unpacks a file changes its directory's time, unless that is in the layer as well."""
    given = list(entries)
    yield from map(Dir, sorted({os.fspath(parent) for entry in given for parent in PurePath(str(entry.path)).parents
                                if parent.name}))
    yield from given


def _files(directory: Path) -> Iterator[tuple[str, int, bytes]]:
    for path in _paths(directory):
        if (directory / path).is_file():
            yield path, (directory / path).stat().st_mode, (directory / path).read_bytes()


def _paths(directory: Path) -> Iterator[str]:
    """Everything below a directory, parents first."""
    for path, directories, files in os.walk(directory):
        directories.sort()
        here = os.path.relpath(path, directory)
        for name in sorted([*directories, *files]):
            yield os.path.normpath(os.path.join(here, name))


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.lstat()
    return state.st_mode, state.st_size if not stat.S_ISDIR(state.st_mode) else 0, state.st_mtime_ns


def _entries(tree: Path, paths: Iterable[str]) -> Iterator[Entry]:
    """Parents that did not change do not have to be named."""
    for name in paths:
        path = tree / name
        state = path.lstat()
        if stat.S_ISDIR(state.st_mode):
            yield Dir(name, mode=stat.S_IMODE(state.st_mode), uid=state.st_uid, gid=state.st_gid)
        elif stat.S_ISLNK(state.st_mode):
            yield Symlink(name, os.readlink(path))
        elif stat.S_ISREG(state.st_mode):
            yield File(name, path.read_bytes(), mode=stat.S_IMODE(state.st_mode), uid=state.st_uid, gid=state.st_gid)


def unpack(tar: Path, target: Path) -> None:
    """Over what is there, if anything. As the kernel will see it: times in whole seconds, with extended attributes."""
    target.mkdir(exist_ok=True)
    guest.call(["tar", "--extract", "--file", tar, "--directory", target, "--xattrs", "--xattrs-include=*",
                "--numeric-owner", "--delay-directory-restore", "--exclude=./dev/*"])


def chroot(tree: Path, *command: str) -> None:
    """Run a program of another system. It sees its own /proc and /dev. Raises GuestError."""
    setup = 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs tmpfs "$1/tmp"; exec chroot "$@"'
    guest.call(["unshare", "--mount", "--propagation=private", "--pid", "--fork", "sh", "-ec", setup, "sh", tree,
                *command])


def kept(name: str, recipe: object, make: Callable[[Path], None]) -> Path:
    """A directory in build/vm for this recipe, made unless it is there."""
    home = guest.CACHE / f"{name}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    with guest.alone(home):
        if home.exists():
            return home
        with tempfile.TemporaryDirectory(prefix="making.", dir=guest.CACHE) as directory:
            fresh = Path(directory, "fresh")
            fresh.mkdir()
            make(fresh)
            fresh.rename(home)
    return home
