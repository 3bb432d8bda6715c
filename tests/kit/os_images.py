# SPDX-License-Identifier: Apache-2.0
"""The smallest images that bootcd can deploy: a kernel and an initrd of a few bytes, /etc, and what a test adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kit.images import Dir, Entry, File, ImageBuilder, Layer, Symlink

KERNEL_VERSION = "6.12.0-test"


def base_layer(kernel: bytes = b"kernel one", initrd: bytes = b"initrd one", extra: Iterable[Entry] = ()) -> Layer:
    """What hardly changes between versions: directories, kernel, boot loader."""
    modules = f"usr/lib/modules/{KERNEL_VERSION}"
    directories = ("boot", "dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "usr", "usr/bin", "usr/lib",
                   "usr/lib/modules", modules, "usr/lib/systemd", "usr/lib/systemd/boot", "usr/lib/systemd/boot/efi",
                   "var", "var/lib")
    return Layer([
        *(Dir(name, mode=0o755) for name in directories),
        File(f"{modules}/vmlinuz", kernel), File(f"{modules}/initramfs.img", initrd),
        File("usr/lib/systemd/boot/efi/systemd-bootx64.efi", b"MZ loader for x86-64" + bytes(100)),
        File("usr/lib/systemd/boot/efi/systemd-bootaa64.efi", b"MZ loader for arm64" + bytes(100)),
        File("var/lib/seed", b"from the image\n"),
        *extra,
    ])


def version_layer(version: str, extra: Iterable[Entry] = ()) -> Layer:
    """What every version changes."""
    text = f'ID=test\nNAME="Test OS"\nPRETTY_NAME="Test OS {version}"\nVERSION_ID={version}\n'
    return Layer([
        File("usr/lib/os-release", text.encode()), Symlink("etc/os-release", "../usr/lib/os-release"),
        File("etc/version.conf", f"version = {version}\n".encode()),
        File("usr/bin/app", f"#!/bin/sh\n# {version}\n".encode() + b"echo " + b"x" * 200 + b"\n", mode=0o755),
        *extra,
    ], compression="zstd")


def os_image(version: str, extra: Iterable[Entry] = (), *, base: Layer | None = None,
             more: Sequence[Layer] = ()) -> ImageBuilder:
    """A whole image of one version."""
    return ImageBuilder([base or base_layer(), version_layer(version, extra), *more],
                        labels={"org.opencontainers.image.version": version})
