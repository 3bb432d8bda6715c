# SPDX-License-Identifier: Apache-2.0
"""What the machine does that loses its power: one installation from its first deployment to a collection."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crash.program import publish
from kit.images import Dir, File, ImageBuilder
from kit.os_images import base_layer, os_image

ESP_START, ESP_SIZE = 1 << 20, 40 << 20
ROOT_START, ROOT_SIZE = 41 << 20, 96 << 20
MARK = ROOT_START + ROOT_SIZE
"""A sector behind the partitions, where the machine writes down what it is about to do."""
DISK_SIZE = MARK + (1 << 20)
PARTITIONS = (f"label: gpt\nfirst-lba: 34\nstart={ESP_START // 512}, size={ESP_SIZE // 512}, type=uefi\n"
              f"start={ROOT_START // 512}, size={ROOT_SIZE // 512}, type=linux\n")
LATEST = "oci:layout:latest"
KEPT = frozenset({0, 3, 11})
"""Statuses of a second run that finds that everything is done: fine, no such pin, refused."""


def version(name: str) -> ImageBuilder:
    """An image with a kernel of its own of 1 MB, and 60 files that no other version has."""
    files = [File(f"usr/share/data/{number}", f"{name} {number}\n".encode() * 300) for number in range(60)]
    kernel = name.encode() * 200_000
    return os_image(name, [Dir("usr/share"), Dir("usr/share/data"), File("etc/added-by", f"{name}\n".encode()), *files],
                    base=base_layer(kernel=kernel[: 1 << 20]))


@dataclass(frozen=True)
class Act:
    """A command; before it `image` is published. `booted`: the machine runs version 1.1 and knows it."""

    name: str
    arguments: tuple[str, ...]
    image: str = ""
    tag: str = "latest"
    booted: bool = False
    settled: frozenset[int] = field(default=KEPT)


RUNNING = "1.1"
ACTS = (
    Act("install", ("install", "to-filesystem", LATEST), "1.0"),
    Act("pin", ("pin", "default", "--label", "good")),
    Act("upgrade", ("upgrade",), RUNNING),
    Act("boot-complete", ("boot-complete",), booted=True),
    Act("stage", ("upgrade",), "1.2", booted=True),
    Act("finalize", ("finalize",), booted=True),
    Act("rollback", ("rollback", RUNNING), booted=True),
    Act("switch", ("switch", "oci:layout:beta"), "2.0", "beta", booted=True),
    Act("finalize the switch", ("finalize",), booted=True),
    Act("unpin", ("unpin", "good"), booted=True),
    Act("cleanup", ("cleanup",), booted=True),
)


def tell_images(world: Path, acts: tuple[Act, ...]) -> None:
    """Publish what the source has when the last of these acts begins."""
    for act in acts:
        if act.image:
            publish(world, version(act.image), act.tag)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")


@contextmanager
def mounted(world: Path, esp: str | Path, root: str | Path, options: tuple[str, str] = ("", "")) -> Iterator[None]:
    """The two file systems at `world`/esp and `world`/sysroot. `options` are those of the two mounts."""
    places = []
    try:
        for name, kind, device, option in (("sysroot", "ext4", root, options[1]), ("esp", "vfat", esp, options[0])):
            (world / name).mkdir(exist_ok=True)
            run("mount", "-t", kind, *(["-o", option] if option else []), device, world / name)
            places.append(world / name)
        yield
    finally:
        for place in reversed(places):
            run("umount", place)


@contextmanager
def running(world: Path, act: Act) -> Iterator[None]:
    """/sysroot is that of the world where the act belongs to a running system; the kernel's command line says which
    deployment that is."""
    if not act.booted:
        yield
        return
    os.makedirs("/sysroot", exist_ok=True)
    run("mount", "--bind", world / "sysroot", "/sysroot")
    try:
        yield
    finally:
        run("umount", "/sysroot")
