# SPDX-License-Identifier: Apache-2.0
"""Which partitions an installation boots from, and doing the same on all of them.

    the first     the ESP, or XBOOTLDR beside it where there is one; named by --esp, or found by where it is mounted
    mirrors       ESPs, or XBOOTLDRs, of further disks, kept equal to it: [boot] mirrors of bootcd.toml(5)
    loaders       those of all these that firmware looks at: boot loader, loader.conf, keys for Secure Boot

XBOOTLDR is a partition of that type, with a file system that firmware reads, mounted at `/boot` while the ESP is
mounted elsewhere (Boot Loader Specification, UAPI.1). Entries and kernels lie there then, and the boot loader on the
ESP. But where kernels of ours are already, the next ones go, too.

A partition that cannot be used is `away`, with a reason. Only when none is left, that is an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from ..errors import AccessError, BootcdError, NotFound, UsageError
from ..linux import partition
from .esp import KERNELS, Esp
from .kernels import needed

T = TypeVar("T")

XBOOTLDR_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
READABLE = frozenset({"vfat"})
"""File systems that every firmware reads."""

RUNNING = Path("/sysroot")
ROOT = Path("/")
"""Boot partitions of the running system are mounted in its root directory, those of any other below its sysroot."""

_PLACES = ("efi", "boot/efi", "boot")
_MORE_PLACES = ("esp",)


class Partitions:
    """The boot partitions of one installation. What is asked is read from the first, which `order` decides."""

    def __init__(self, places: list[Esp], loaders: list[Esp], away: dict[str, BootcdError],
                 note: Callable[[str], None] = lambda message: None) -> None:
        """`note` is told what is away later on. Raises the first of the reasons in `away` when there is no place."""
        self.places = places
        self.loaders = loaders
        self.away = away
        self._note = note
        if not places:
            raise next(iter(away.values()))

    @property
    def first(self) -> Esp:
        return self.places[0]

    @property
    def loader(self) -> Esp:
        """Where the boot loader is that starts what is on the first."""
        own = next((esp for esp in self.loaders if esp.path == self.first.path), None)
        return own or (self.loaders[0] if self.loaders else self.first)

    @property
    def are_several(self) -> bool:
        """Whether there is something to be kept equal, be it away or not."""
        return len(self.places) + len(self.away) > 1

    def order(self, by: Callable[[Esp], tuple[int, ...]]) -> None:
        """Put the one first that is worth most, the earlier of equals."""
        self.places.sort(key=by, reverse=True)

    def each(self, work: Callable[[Esp], T]) -> list[T]:
        """Do the same everywhere, one after the other; returns what it returned on those that work, the first first.

        A partition that fails as a device does, and one that nobody can write to, is away from then on; raises what the
        last one did when none is left. Lack of room, and what is wrong with the work itself, is raised, unless it was
        done somewhere already: what is visible is not taken back, and who cannot follow is away, too.
        """
        return self._each(self.places, work)

    def each_loader(self, work: Callable[[Esp], T]) -> list[T]:
        """The same where boot loaders are."""
        return self._each(self.loaders, work)

    def check_writable(self) -> None:
        """Leave out what cannot be written. Raises ReadOnly or what else is wrong when nothing is left."""
        if self.are_several:
            self.each(Esp.probe)
        else:
            self.first.check_writable()

    def give_up(self, esp: Esp, error: BootcdError) -> None:
        """Do without a partition. Raises the error when it is the last one."""
        if [other.path for other in self.places] == [esp.path]:
            raise error
        # Not the error itself: with its traceback it would keep files open, and the file system from being unmounted.
        self.away[esp.path] = type(error)(str(error), advice=error.hint)
        for found in (self.places, self.loaders):
            found[:] = [other for other in found if other.path != esp.path]
        self._note(f"A boot partition is left out: {error}.")

    # --- room ---

    def free(self) -> int:
        """Bytes that kernels may still take: those of the partition that has least."""
        return min(self.each(Esp.free_for_kernels))

    def needed(self, sizes: Iterable[int]) -> int:
        """Bytes that a set of new files takes on each."""
        sizes = list(sizes)
        return max(self.each(lambda esp: needed(esp, sizes)))

    def clean(self) -> None:
        """Remove what interrupted writes left behind."""
        self.each(Esp.clean)

    def prepare(self) -> None:
        """Make our directories."""
        self.each(Esp.prepare)

    def _each(self, among: list[Esp], work: Callable[[Esp], T]) -> list[T]:
        results = []
        for esp in list(among):
            try:
                results.append(work(esp))
            except BootcdError as error:
                its_own = type(error) is BootcdError or isinstance(error, (AccessError, NotFound))
                if len(among) == 1 or not (its_own or results):
                    raise
                self.give_up(esp, error)
        return results


def find_partitions(
    sysroot: Path, named: Path | None, mirrors: Iterable[str], note: Callable[[str], None] = lambda message: None,
) -> Partitions:
    """Look for them. `named` is what --esp says, `mirrors` are paths as on the running system.

    Raises UsageError when the first has to be named, NotFound when what is named is not there; neither, when a mirror
    is.
    """
    others = [_place(sysroot, path) for path in mirrors]
    places: list[Esp] = []
    loaders: list[Esp] = []
    away: dict[str, BootcdError] = {}
    try:
        first, loader = (Esp(named),) * 2 if named is not None else _find_first(sysroot, others)
        places.append(first)
        loaders.append(loader)
    except BootcdError as error:
        away[str(named or "the first")] = error
    for path in others:
        if any(os.path.realpath(path) == os.path.realpath(esp.path) for esp in places):
            continue
        try:
            esp = _mirror(sysroot, path)
        except BootcdError as error:
            away[str(path)] = error
            continue
        places.append(esp)
        if partition.partition_type(esp.path) != XBOOTLDR_TYPE:
            loaders.append(esp)
    return Partitions(places, loaders, away, note)


def _place(sysroot: Path, path: str) -> Path:
    return (ROOT if sysroot == RUNNING else sysroot) / path.lstrip("/")


def _mirror(sysroot: Path, path: Path) -> Esp:
    if not os.path.ismount(path) and (sysroot == RUNNING or not (path / "loader").is_dir()):
        raise NotFound(f"nothing is mounted at {path}", advice="Mount the boot partition of the other disk there.")
    return Esp(path)


def _find_first(sysroot: Path, mirrors: list[Path]) -> tuple[Esp, Esp]:
    """Where kernels and entries are, and where the boot loader is."""
    candidates = [_place(sysroot, f"/{name}") for name in (*_PLACES, *(() if sysroot == RUNNING else _MORE_PLACES))]
    mounted = [path for path in candidates if os.path.ismount(path) and path not in mirrors]
    ours = [path for path in mounted if os.path.isdir(path / KERNELS)]
    if len(ours) > 1:  # a second disk may have one, too
        raise UsageError(f"{' and '.join(map(str, ours))} are boot partitions with kernels of bootcd",
                         advice="Unmount all but the one that the machine boots from, or name it by --esp; "
                         "[boot] mirrors in bootcd.toml keeps further ones equal.")
    xbootldr = next((path for path in mounted if _is_xbootldr(path, mounted)), None)
    esps = [path for path in mounted if path != xbootldr]
    if sysroot == RUNNING or (xbootldr is not None and esps):
        place = next(iter((*ours, *filter(None, [xbootldr]), *mounted)), None)
        if place is not None:
            return Esp(place), Esp(esps[0] if place == xbootldr and esps else place)
    # An installation without mounts of its own, such as one in a directory
    for name in (*_PLACES, *_MORE_PLACES):
        if (sysroot / name / "loader").is_dir():
            return (Esp(sysroot / name),) * 2
    raise UsageError(f"the EFI system partition of {sysroot} was not found",
                     advice="Mount it, or name it with --esp DIR.")


def _is_xbootldr(path: Path, mounted: list[Path]) -> bool:
    if path.name != "boot" or len(mounted) < 2 or partition.file_system(path) not in READABLE:
        return False
    return partition.partition_type(path) in (XBOOTLDR_TYPE, "")  # the latter where udev does not run
