# SPDX-License-Identifier: Apache-2.0
"""A machine as bootc's composefs backend leaves it: the same formats, but names, places and boot entries of its own.

It is installed by bootcd, so that repository, images and state are what they have to be, and then made to look as
bootc's source (1.16) has it. What bootc itself would write on a real machine is not checked by this.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bootcd.config import Config
from bootcd.deploy.records import Record, Records
from bootcd.layout import BOOTC_TAG_PREFIX, IMAGE_REF_PREFIX, TAG_PREFIX, Sysroot
from bootcd.model import SilentProgress
from bootcd.ops import update
from bootcd.ops.machine import Machine
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from kit.images import Dir, Entry, File, ImageBuilder
from kit.os_images import base_layer, os_image

PROGRAM = [Dir("usr/lib/bootc"), File("usr/lib/bootc/initramfs-setup", b"ELF", mode=0o755)]
"""What says that the initrd mounts the root by bootc's program."""
KARGS = [Dir("usr/lib/bootc/kargs.d"), File("usr/lib/bootc/kargs.d/10.toml", b'kargs = ["console=ttyS0"]\n')]


def image(version: str, kernel: bytes = b"kernel one", extra: list[Entry] | None = None) -> ImageBuilder:
    """An image that was built for bootc."""
    return os_image(version, [*PROGRAM, *KARGS, *(extra or [])], base=base_layer(kernel=kernel))


def install_as_bootc(directory: Path, *images: ImageBuilder, machine_kargs: tuple[str, ...] = ("root=UUID=1-2", "rw"),
                     ) -> list[Record]:
    """Install the images one after the other into `sysroot` and `esp` of the directory, by way of its `layout`. Returns
    what bootcd had noted of them, the newest first; bootc notes nothing like it."""
    machine = Machine(Sysroot(directory / "sysroot"), directory / "esp", Config(keep_previous=len(images)),
                      SilentProgress())
    source = f"oci:{directory}/layout:latest"
    for number, one in enumerate(images):
        one.write_layout(directory / "layout", "latest")
        if number:
            update.upgrade(machine, download_only=False, allow_rejected=False)
        else:
            update.install(machine, source, machine_kargs)
    records = sorted(Records(machine.sysroot.records).load()[0].values(), key=lambda one: -(one.generation or 0))
    _hide(machine, records)
    return records


def _hide(machine: Machine, records: list[Record]) -> None:
    sysroot, esp = machine.sysroot, machine.esp().path
    esp_path = Path(esp)
    with Repository.open(sysroot.repository) as repository:
        images = OciImages(repository)
        for record in records:
            images.tag(record.manifest_digest, BOOTC_TAG_PREFIX + record.manifest_digest)
            images.untag(TAG_PREFIX + record.manifest_digest)
            repository.images.unname(IMAGE_REF_PREFIX + record.id)
    for path in (esp_path / "loader/entries").glob("bootcd-*"):
        path.unlink()
    holders: dict[str, str] = {}
    for place, record in enumerate(records):
        holder = holders.setdefault(record.boot_digest, record.id)
        lines = [f"title {record.title}", f"version {record.version}", f"sort-key bootc-test-{place}"]
        if record.boot_type == "uki":
            source, target = esp_path / f"EFI/bootcd/{record.id}.efi", esp_path / "EFI/Linux/bootc"
            target.mkdir(parents=True, exist_ok=True)
            source.rename(target / f"bootc_composefs-{record.id}.efi")
            addons = source.with_name(source.name + ".extra.d")
            if addons.exists():
                addons.rename(target / f"bootc_composefs-{record.id}.efi.extra.d")
            lines.append(f"efi /EFI/Linux/bootc/bootc_composefs-{record.id}.efi")
        else:
            directory = esp_path / f"EFI/Linux/bootc_composefs-{holder}"
            if not directory.exists():
                directory.parent.mkdir(parents=True, exist_ok=True)
                (esp_path / "EFI/bootcd" / record.boot_digest).rename(directory)
            options = " ".join([*record.own.machine, record.composefs_karg, *record.image_kargs])
            lines += [f"linux /EFI/Linux/bootc_composefs-{holder}/vmlinuz",
                      f"initrd /EFI/Linux/bootc_composefs-{holder}/initrd", f"options {options}"]
        name = f"bootc_test-{record.version}-{0 if place else 1}.conf"
        (esp_path / "loader/entries" / name).write_text("".join(f"{line}\n" for line in lines))
        origin = sysroot.deployment(record.id) / f"{record.id}.origin"
        origin.write_text(f"[origin]\ncontainer-image-reference=ostree-unverified-image:{record.image}\n\n[boot]\n"
                          f"boot_type={record.boot_type}\ndigest={record.boot_digest}\n\n[image]\n"
                          f"manifest_digest={record.manifest_digest}\n")
    shutil.rmtree(sysroot.own_state)
    shutil.rmtree(esp_path / "EFI/bootcd")
