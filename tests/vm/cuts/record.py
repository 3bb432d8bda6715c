# SPDX-License-Identifier: Apache-2.0
"""Plays the story once, on the disk whose writes are logged. Runs in the virtual machine."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

from crash.program import Program, fast_directory
from vm.cuts.story import ACTS, MARK, PARTITIONS, Act, mounted, run, running, tell_images

DISK = "/dev/vda"


def mark(text: str) -> None:
    """Put a text into the log. All that came before is on the disk by then."""
    os.sync()
    with mmap.mmap(-1, mmap.PAGESIZE) as page:  # aligned, as O_DIRECT wants it
        page.write(text.encode())
        disk = os.open(DISK, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        os.pwrite(disk, memoryview(page)[:512], MARK)
        os.close(disk)


def edit(world: Path) -> None:
    """What an administrator does meanwhile."""
    for etc in (world / "sysroot/state/deploy").glob("*/etc"):
        (etc / "hostname").write_text("machine\n")
    for name in ("loader/entries/foreign.conf", "EFI/foreign/grubx64.efi"):
        file = world / "esp" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"title Foreign\n")


def play(program: Program, world: Path, act: Act) -> None:
    with running(world, act):
        mark(f"begin {act.name}")
        done = program(world, *act.arguments)
        mark(f"end {act.name}")
    assert done.status == 0, f"{act.name}: {done.err}"
    print(act.name, done.out.replace("\n", " "), flush=True)


def main() -> None:
    Path("/tmp/partitions").write_text(PARTITIONS)
    run("sh", "-c", f"sfdisk --quiet {DISK} < /tmp/partitions")
    run("mkfs.vfat", "-F", "32", f"{DISK}1")
    run("mkfs.ext4", "-q", "-b", "4096", "-O", "verity", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
        f"{DISK}2")
    with fast_directory() as scratch, Program(scratch) as program:
        world = scratch / "world"
        world.mkdir()
        with mounted(world, f"{DISK}1", f"{DISK}2"):
            for number, act in enumerate(ACTS):
                tell_images(world, ACTS[number : number + 1])
                play(program, world, act)
                if act.name == "install":
                    edit(world)
    Path("/dev/ttyS1").write_text("recorded\n")


if __name__ == "__main__":
    sys.exit(main())
