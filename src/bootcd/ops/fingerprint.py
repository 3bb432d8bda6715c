# SPDX-License-Identifier: Apache-2.0
"""A value that changes when anybody changes the installation, at the price of a few calls of stat(2).

Every file that matters is replaced as a whole, so it gets another inode, and its directory another time.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..boot.esp import ENTRIES, KERNELS
from ..boot.loader import EFIVARS, override_paths
from ..deploy.localkargs import SHOWN
from ..errors import BootcdError
from .machine import Machine

Fingerprint = list[list[str | int]]
"""A JSON value, to be compared and nothing else."""


def watched(machine: Machine) -> tuple[Path, ...]:
    """The directories in which every change that matters shows. Some may be missing."""
    sysroot = machine.sysroot
    streams = sysroot.repository / "streams" / "refs"
    ours = (sysroot.own_state, sysroot.records, sysroot.journal.parent, streams, streams / "oci")
    return (*ours, Path(EFIVARS), *_drop_ins(machine), *_on_esp(machine))


def fingerprint(machine: Machine) -> Fingerprint:
    """What the installation is recognized by. Never fails; what is missing is part of it."""
    sysroot = machine.sysroot
    streams = sysroot.repository / "streams" / "refs"
    found: Fingerprint = [_identity(path) for path in (
        sysroot.rejected, sysroot.last_result, sysroot.update, sysroot.journal.parent, sysroot.journal,
        streams, streams / "oci", *map(Path, override_paths(EFIVARS)))]
    for directory in (sysroot.records, *_drop_ins(machine)):
        found += _listing(directory)
    for directory in _on_esp(machine):
        # On FAT the inode number is made up, and another one after the cache was dropped; a time is good to two
        # seconds, but a boot entry is never rewritten, nor is a kernel: its name or its size tell.
        found += [[name, mtime, 0, size] for name, mtime, _, size in _listing(directory)]
    return found


def _drop_ins(machine: Machine) -> tuple[Path, ...]:
    """Where deployments have files that ask for kernel arguments; only what is there."""
    homes = (machine.sysroot.deployment(record.stem) for record in sorted(machine.sysroot.records.glob("*.json")))
    found = (home / SHOWN.removeprefix("/") for home in homes)
    return tuple(directory for directory in found if os.path.isdir(directory))


def _on_esp(machine: Machine) -> tuple[Path, ...]:
    try:
        places = machine.boot().places
    except BootcdError:
        return ()
    return tuple(Path(esp.join(name)) for esp in places for name in (ENTRIES, KERNELS))


def _listing(directory: Path) -> Fingerprint:
    """The directory and its files. Hidden ones are being written."""
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError:
        names = []
    return [_identity(directory), *(_identity(directory / name) for name in names)]


def _identity(path: Path) -> list[str | int]:
    try:
        state = path.lstat()
    except OSError:
        return [str(path), 0, 0, 0]
    return [str(path), state.st_mtime_ns, state.st_ino, state.st_size]
