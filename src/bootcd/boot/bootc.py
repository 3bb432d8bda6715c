# SPDX-License-Identifier: Apache-2.0
"""What bootc's composefs backend has on the boot partition of a machine with systemd-boot.

    loader/entries/*.conf                             one for each deployment that it keeps
    loader/entries.staged/                            those that its finalize exchanges for them at shutdown
    EFI/Linux/bootc_composefs-<id>/{vmlinuz,initrd}   shared by deployments that have the same pair
    EFI/Linux/bootc/bootc_composefs-<id>.efi          the UKI of the deployment <id>, and beside it
    EFI/Linux/bootc/bootc_composefs-<id>.efi.extra.d  its addons

An entry of bootc is told by what it starts, whatever it is called. Its `options` name the deployment; of a UKI, its
path does. FAT does not know upper from lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import BootcdError, Refused
from ..formats import bls
from ..formats.bls import EntryName
from .entries import ForeignEntry, Listing
from .esp import ENTRIES, Esp
from .kargs import find_kargs, is_composefs, split_cmdline

STAGED = "loader/entries.staged"
HAS_STAGED = f"bootc has a deployment staged, and replaces all boot entries at shutdown ({STAGED})"
_EXTRA = ".extra.d"
_PAIR = re.compile(r"(EFI/Linux/bootc_composefs-(?:[0-9a-f]{64}){1,2})/vmlinuz", re.IGNORECASE)
_UKI = re.compile(r"(EFI/Linux/bootc/bootc_composefs-((?:[0-9a-f]{64}){1,2})\.efi)", re.IGNORECASE)
_NAME = re.compile(r"bootc_[^/]*\.conf", re.IGNORECASE)
_OURS_TO_REMOVE = re.compile(
    rf"{ENTRIES}/[A-Za-z0-9+_.-]+\.conf|EFI/Linux/bootc_composefs-(?:[0-9a-f]{{64}}){{1,2}}|"
    r"EFI/Linux/bootc/bootc_composefs-(?:[0-9a-f]{64}){1,2}\.efi", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BootcEntry:
    """An entry of bootc: the deployment `id` that it starts, from what is at `place`: a directory with kernel and
    initrd, or a UKI. `karg` and `kargs` are the argument that names the image, and the others; a UKI has its own."""

    file_name: str
    id: str
    boot_type: str
    place: str
    karg: str = ""
    kargs: tuple[str, ...] = ()


def bootc_entries(listing: Listing) -> tuple[list[BootcEntry], list[str]]:
    """Bootc's entries as the menu shows them, the default first, and what is wrong with those that make no sense."""
    found: list[tuple[EntryName, ForeignEntry, BootcEntry]] = []
    problems = []
    for entry in listing.foreign:
        try:
            made = _bootc_entry(entry)
            if made is not None:
                found.append((EntryName.parse(entry.file_name), entry, made))
        except BootcdError as error:
            problems.append(f"boot entry {entry.file_name}: {error}")
    ordered = bls.sort_entries(found, lambda item: (item[0], item[1].content))
    return [made for _, _, made in ordered], problems


def has_staged(esp: Esp) -> bool:
    """Whether bootc will exchange all boot entries at shutdown: those that others write meanwhile would be lost."""
    return bool(esp.names(STAGED))


def is_removable(path: str) -> bool:
    """Whether `remove` may be asked for this path."""
    return _OURS_TO_REMOVE.fullmatch(path) is not None


def addons(esp: Esp, place: str) -> set[str]:
    """The names of the addons of a UKI of bootc."""
    return {name for name in esp.names(place + _EXTRA) if name.lower().endswith(".addon.efi")}


def remove(esp: Esp, path: str) -> None:
    """Remove an entry, a directory with a kernel, or a UKI with its addons; it is no error when it is gone."""
    assert is_removable(path)
    esp.remove(path)
    if path.lower().endswith(".efi"):
        esp.remove(path + _EXTRA)


def _bootc_entry(entry: ForeignEntry) -> BootcEntry | None:
    """None for an entry of somebody else. Raises BootcdError for one that should be of bootc and makes no sense."""
    loader = entry.content.loader or ""
    uki, pair = _UKI.fullmatch(loader), _PAIR.fullmatch(loader)
    if uki is None and pair is None:
        if _NAME.fullmatch(entry.file_name):
            raise Refused(entry.problem or f"it starts {loader or 'nothing'}, which is not where bootc has its kernels")
        return None
    if not entry.shown:
        raise Refused(f"{loader} is missing")
    if uki is not None:
        return BootcEntry(entry.file_name, uki[2].lower(), "uki", uki[1])
    assert pair is not None
    arguments = split_cmdline(entry.content.options)
    named = [argument for argument in arguments if is_composefs(argument)]
    ids = {karg.digest.hex() for karg in find_kargs(entry.content.options)}
    if len(named) != 1 or len(ids) != 1:
        raise Refused(f"it names {len(named)} images instead of one")
    return BootcEntry(entry.file_name, ids.pop(), "bls", pair[1], named[0],
                      tuple(argument for argument in arguments if not is_composefs(argument)))
