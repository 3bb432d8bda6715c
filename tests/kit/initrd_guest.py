# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots a deployment from a disk, through an initrd that a distribution's own program made.

    root.tar    Debian 13 with systemd, dracut and initramfs-tools; made once and kept in build/vm
    disk        ext4 with a composefs repository that has the Debian as its image, and state/
    initrd.*    made by dracut and by mkinitramfs in the Debian, with the parts that meson installs; by mkinitcpio, too,
                where that is installed: Debian does not have it

The machine's first unit writes what it sees to /dev/ttyS1 and turns it off. The disk is never written: it has no
fs-verity, since the machine at hand makes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm
from bootcd.store.repository import Repository
from bootcd.store.scan import scan_directory
from kit import guest
from kit.installed import meson_install

PACKAGES = ("systemd", "systemd-sysv", "udev", "dracut", "initramfs-tools-core", "linux-image-cloud-amd64", "e2fsprogs",
            "kmod", "mount", "busybox-static", "libarchive-tools")
DISK = "1500M"
"""Its size; the file is sparse."""
UNIT = """\
[Unit]
Description=Say what this machine runs
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=file:/dev/ttyS1
StandardError=inherit
ExecStart=-/bin/cat /proc/self/mountinfo
ExecStart=-/bin/sh -c 'touch /etc/new /var/new && echo state is writable; touch /usr/new || echo image is not'
ExecStart=-journalctl --boot --no-pager --output=cat --identifier=bootcd-setup-root
ExecStart=systemctl poweroff --no-block
"""
MAKE_INITRDS = """\
for name in proc dev sys; do mount --bind /$name $root/$name; done
for name in run tmp var/tmp; do mount -t tmpfs tmpfs $root/$name; done
chroot $root dracut --quiet --force --no-hostonly --no-hostonly-cmdline --omit 'plymouth network' \\
    --add-drivers 'virtio_blk virtio_pci' --kver $kernel /boot/initrd.dracut
chroot $root mkinitramfs -o /boot/initrd.initramfs-tools $kernel
"""
MAKE_MKINITCPIO = """\
cp $from/bin/mkinitcpio $root/usr/bin
cp -r $from/lib/initcpio $root/usr/lib
cp $root/usr/bin/busybox $root/usr/lib/initcpio
# Where Arch has them.
cp --dereference $root/usr/lib/x86_64-linux-gnu/libkmod.so.2 $root/usr/lib
cp --archive --no-clobber $root/usr/sbin/. $root/usr/bin
for init in udev systemd; do
    echo "HOOKS=(base $init block filesystems bootcd) COMPRESSION=cat" >$root/tmp/config
    # It complains about what only a newer systemd has; the boots show whether anything lacks.
    initrd=boot/initrd.mkinitcpio-$init
    chroot $root mkinitcpio -c /tmp/config -k $kernel -g /$initrd || [ -s $root/$initrd ]
done
"""
OURS = ("lib/bootcd/bootcd-setup-root", "lib/systemd/system/bootcd-setup-root.service",
        "lib/dracut/modules.d/37bootcd/module-setup.sh", "share/initramfs-tools/hooks/bootcd",
        "share/initramfs-tools/scripts/local-bottom/bootcd", "lib/initcpio/install/bootcd", "lib/initcpio/hooks/bootcd")
INITRDS = ("dracut", "initramfs-tools", "mkinitcpio-udev", "mkinitcpio-systemd")


@dataclass(frozen=True)
class Machine:
    """What boots, below `directory`, the id of its deployment, and those of INITRDS that there are."""

    directory: Path
    id: str
    initrds: frozenset[str]

    def boot(self, initrd: str, kargs: str, timeout: float) -> tuple[str, str]:
        """What the machine wrote to its report and to its console. `initrd` is one of `initrds`."""
        emulator = guest.prepare()
        kit = guest.Kit(emulator.qemu, self.directory / "vmlinuz", emulator.root)
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            console, report = Path(name, "console"), Path(name, "report")
            guest.start(kit, self.directory / f"initrd.{initrd}", console, report, timeout,
                        f"root=/dev/vda rw {kargs}", [f"file={self.directory}/disk,snapshot=on"])
            return report.read_text(errors="replace"), console.read_text(errors="replace")


def prepare(directory: Path) -> Machine:
    """Make the disk and the initrds in an empty directory, which takes two minutes. Raises GuestError."""
    root, parts, system = directory / "root", directory / "parts", directory / "system"
    for path in (root, system):
        path.mkdir()
    guest.call(["tar", "--extract", "--file", _debian(), "--directory", root, "--exclude=./dev/*"])
    meson_install(directory / "build", "-Dsetup_root=enabled", destination=parts)
    for name in OURS:
        (root / "usr" / name).parent.mkdir(parents=True, exist_ok=True)
        guest.call(["cp", "--preserve", parts / "usr" / name, root / "usr" / name])
    (root / "usr/lib/systemd/system/report.service").write_text(UNIT)
    wants = root / "usr/lib/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "report.service").symlink_to("../report.service")
    (root / "sysroot").mkdir()
    for name in ("fstab", "machine-id"):
        (root / "etc" / name).write_text("")
    kernel = os.listdir(root / "usr/lib/modules")[0]
    mkinitcpio = shutil.which("mkinitcpio")
    script, prefix = MAKE_INITRDS, ""
    if mkinitcpio is not None:
        script, prefix = MAKE_INITRDS + MAKE_MKINITCPIO, str(Path(mkinitcpio).parents[1])
    done = subprocess.run(["unshare", "--mount", "sh", "-ec", script], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False,
                          env={"root": str(root), "kernel": kernel, "from": prefix,
                               "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    if done.returncode:
        raise guest.GuestError(f"no initrd: {done.stdout}{done.stderr}")
    for name in INITRDS if mkinitcpio is not None else INITRDS[:2]:
        (root / f"boot/initrd.{name}").rename(directory / f"initrd.{name}")
    (root / f"boot/vmlinuz-{kernel}").rename(directory / "vmlinuz")
    guest.call(["find", root / "boot", "-mindepth", "1", "-delete"])
    digest = _deploy(root, system)
    guest.call(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", system, directory / "disk", DISK])
    guest.call(["rm", "-r", root, parts, system, directory / "build"])
    initrds = frozenset(path.name.removeprefix("initrd.") for path in directory.glob("initrd.*"))
    return Machine(directory, digest, initrds)


def _debian() -> Path:
    recipe = hashlib.sha256(repr((guest.SUITE, PACKAGES, guest.LEFT_OUT)).encode()).hexdigest()[:12]
    tar = guest.CACHE / f"initrd-{recipe}.tar"
    if not tar.exists():
        guest.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making.", dir=guest.CACHE) as name:
            guest.bootstrap(Path(name, "root.tar"), PACKAGES)
            Path(name, "root.tar").rename(tar)
    return tar


def _deploy(root: Path, system: Path) -> str:
    """The composefs repository with the tree as its image, and the state of one deployment."""
    with Repository.init(system / "composefs", Algorithm.SHA512, insecure=True) as repo:
        def store(fd: int, size: int) -> bytes:
            with repo.objects.writer() as writer:
                while data := os.read(fd, 1 << 20):
                    writer.write(data)
                return writer.commit()

        digest = repo.images.commit(write_image(scan_directory(root, store, Algorithm.SHA512))).hex()
    state, shared = system / "state/deploy" / digest, system / "state/os/default"
    for path in (state, shared):
        path.mkdir(parents=True)
    guest.call(["cp", "--archive", root / "etc", state / "etc"])
    guest.call(["cp", "--archive", root / "var", shared / "var"])
    (state / "var").symlink_to("../../os/default/var")
    return digest
