# SPDX-License-Identifier: Apache-2.0
"""Our boot entries: one file for each generation, written once and never rewritten.

    loader/entries/bootcd-<generation, 10 digits>-<first 12 of the deployment's id>[+tries].conf

    title     what the image calls itself
    sort-key  bootcd                              the same in all of ours
    version   <generation, 10 digits> [<version of the image>]
    linux, initrd, options                        or
    uki | efi                                     (`uki` is known to systemd-boot 258 and newer)

The generation only grows, and it alone decides the order among ours, everywhere: systemd-boot compares sort-key,
machine-id, then version, newest first, by UAPI.10; GRUB's blscfg compares the file name as an RPM's
name-version-release. Its parts are found from the right, so the counter is written as `+3`, not `+3-0`: with one more
'-' the generation would move from the version into the name. A machine-id, which comes before the version, must be the
same in all of ours or in none (`machine_id_for`).

Foreign entries, whatever their state, are listed and left alone.
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass, field

from ..errors import BootcdError, BootEntryError, Refused
from ..formats import bls
from ..formats.bls import BootEntry, EntryName
from .esp import CONFIG, ENTRIES, Esp
from .kernels import kernel_of

SORT_KEY = "bootcd"
DEFAULT_TRIES = 3
ID_LENGTH = 12
MAX_GENERATION = 10**10 - 1

_OURS = re.compile(r"bootcd-([0-9]{10})-([0-9a-f]{12})", re.IGNORECASE)
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_MAX_VERSION = 120


@dataclass(frozen=True, slots=True)
class OurEntry:
    """An entry of ours. `problem` says why it cannot boot, None when nothing is wrong; `shown` is whether the boot
    loader offers it all the same, which it does when the file to start is there."""

    file_name: str
    name: EntryName
    generation: int
    id_prefix: str
    content: BootEntry
    problem: str | None = None
    shown: bool = True

    @property
    def kernel(self) -> str | None:
        """The name in `EFI/bootcd` of what it starts."""
        return kernel_of(self.content.loader or "")


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """Somebody else's. `content` is empty when `problem` says that it cannot be read; `shown` is whether the boot
    loader offers it."""

    file_name: str
    content: BootEntry
    problem: str | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries; `ours` newest generation first."""

    ours: list[OurEntry] = field(default_factory=list)
    foreign: list[ForeignEntry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LoaderConfig:
    """What matters in loader.conf: `default` starts an entry even if all its tries failed, so no fallback happens."""

    default: str | None = None
    preferred: str | None = None
    timeout: str | None = None


def entry_name(generation: int, deployment: str, tries: int | None = DEFAULT_TRIES) -> EntryName:
    """The file name for a generation. Raises BootEntryError when there can be no such name."""
    if not 0 <= generation <= MAX_GENERATION:
        raise BootEntryError(f"generation {generation} cannot be part of a boot entry's name")
    stem = f"bootcd-{generation:010}-{deployment[:ID_LENGTH].lower()}"
    if not _OURS.fullmatch(stem):
        raise BootEntryError(f"{deployment!r} is no id of a deployment")
    return EntryName(stem, tries)


def compose_kernel(title: str, generation: int, version: str | None, digest: str, options: str,
                   machine_id: str | None = None) -> BootEntry:
    """An entry that starts the kernel and initrd with this boot digest."""
    entry = _compose(title, generation, version, machine_id)
    entry.add("linux", f"/EFI/bootcd/{digest}/vmlinuz")
    entry.add("initrd", f"/EFI/bootcd/{digest}/initrd")
    if options:
        entry.add("options", options)
    return entry


def compose_uki(title: str, generation: int, version: str | None, deployment: str, *, key: str = "efi",
                machine_id: str | None = None) -> BootEntry:
    """An entry that starts the UKI of a deployment; its command line is the one that is sealed into it.

    `key` is `uki` where the boot loader knows that, else `efi`.
    """
    entry = _compose(title, generation, version, machine_id)
    entry.add(key, f"/EFI/bootcd/{deployment}.efi")
    return entry


def list_entries(esp: Esp) -> Listing:
    """Every `*.conf` in the directory. A file that makes no sense is listed with its problem, it never is an error."""
    ours: list[OurEntry] = []
    foreign: list[ForeignEntry] = []
    for file_name in esp.names(ENTRIES):
        if not file_name.lower().endswith(bls.SUFFIX):
            continue
        content, problem = _read(esp, f"{ENTRIES}/{file_name}")
        try:
            name: EntryName | None = EntryName.parse(file_name)
        except BootEntryError as error:
            name, problem = None, problem or str(error)
        found = _OURS.fullmatch(name.stem) if name else None
        shown = content.loader is not None and _is_file(esp, content.loader)
        if name is None or found is None:
            shown_name = os.fsencode(file_name).decode(errors="backslashreplace")
            foreign.append(ForeignEntry(shown_name, content, problem, shown and name is not None))
            continue
        problem = problem or _missing(esp, content)
        ours.append(OurEntry(file_name, name, int(found[1]), found[2].lower(), content, problem, shown))
    ours.sort(key=lambda entry: (-entry.generation, entry.file_name))
    return Listing(ours, foreign)


def menu(entries: list[OurEntry]) -> list[OurEntry]:
    """Our entries that the boot loader shows, in its order."""
    shown = [entry for entry in entries if entry.shown]
    return bls.sort_entries(shown, lambda entry: (entry.name, entry.content))


def machine_id_for(listing: Listing, machine_id: str | None) -> str | None:
    """What a new entry has to carry: the same as the ones before, since the machine-id is compared before the version.
    `machine_id` is taken for the first entry only."""
    for entry in listing.ours:
        if entry.shown:
            return entry.content.get("machine-id")
    return machine_id


def write_entry(esp: Esp, name: EntryName, entry: BootEntry) -> str:
    """Make an entry visible: one new name in the directory. Everything it refers to must be durable by then.

    Writing the same entry again does nothing. Raises Refused when the generation is taken by another one.
    """
    data = entry.format()
    generation = name.stem.rpartition("-")[0]
    for other in list_entries(esp).ours:
        if other.name.stem.rpartition("-")[0] != generation:
            continue
        if other.name.stem == name.stem and other.content == entry:
            return other.file_name
        if other.content.loader is not None:
            raise Refused(f"{esp.join(ENTRIES)}/{other.file_name} has the generation of {name} already")
        esp.remove(f"{ENTRIES}/{other.file_name}")  # nothing can be started by it, so it was damaged
    esp.make_directory(ENTRIES)
    esp.write(f"{ENTRIES}/{name}", [data], len(data))
    return str(name)


def remove_entry(esp: Esp, name: EntryName) -> bool:
    """Remove an entry, whatever its counter has become; False when it is gone already."""
    current = _current(esp, name)
    for file_name in current:
        esp.remove(f"{ENTRIES}/{file_name}")
    return bool(current)


def stop_counting(esp: Esp, name: EntryName) -> bool:
    """The entry has booted well: take the counter off its name, as systemd-bless-boot(8) does where it is installed;
    otherwise a good deployment would use up its tries and be sorted last. False when there is no counter."""
    counted = [found for found in _current(esp, name) if EntryName.parse(found).tries_left is not None]
    for file_name in counted:
        esp.rename(f"{ENTRIES}/{file_name}", EntryName.parse(file_name).id)
    return bool(counted)


def furthest(one: EntryName, other: EntryName) -> EntryName:
    """Of two names of an entry that differ in the counter, the later one: tries only become fewer, and at last the
    counter goes."""
    return min(one, other, key=lambda name: (-1 if name.tries_left is None else name.tries_left,
                                             -(name.tries_done or 0)))


def set_counter(esp: Esp, name: EntryName) -> bool:
    """Let the counter of an entry be that in `name`. False when it is that already, or there is no such entry."""
    current = [file_name for file_name in _current(esp, name) if file_name != str(name)]
    for file_name in current:
        esp.rename(f"{ENTRIES}/{file_name}", str(name))
    return bool(current)


def read_config(esp: Esp) -> LoaderConfig:
    """loader.conf; empty when it is absent or cannot be read."""
    content, _ = _read(esp, CONFIG)
    return LoaderConfig(*(content.get(key) or None for key in ("default", "preferred", "timeout")))


def config_warnings(config: LoaderConfig) -> list[str]:
    """What in loader.conf defeats the order of the entries, one sentence each."""
    warnings = []
    if config.default == "@saved":
        warnings.append("loader.conf sets 'default @saved': the entry chosen last boots instead of newer ones")
    elif config.default is not None and not means_all_of_ours(config.default):
        warnings.append(f"loader.conf sets 'default {config.default}': that entry boots even after it failed, "
                        "and instead of newer ones")
    if config.preferred is not None and not means_all_of_ours(config.preferred):
        warnings.append(f"loader.conf sets 'preferred {config.preferred}': that entry boots instead of newer ones")
    return warnings


def means_all_of_ours(pattern: str) -> bool:
    """Whether a pattern for the default entry takes every one of ours: it then leaves their order alone."""
    samples = ("bootcd-0000000000-000000000000.conf", "bootcd-9999999999-ffffffffffff.conf")
    return all(fnmatch.fnmatchcase(sample, pattern.lower()) for sample in samples)


def _compose(title: str, generation: int, version: str | None, machine_id: str | None) -> BootEntry:
    entry = BootEntry()
    entry.add("title", bls.clean(title)[:_MAX_VERSION].strip() or "Linux")
    entry.add("version", f"{generation:010} {bls.clean(version or '')[:_MAX_VERSION]}".strip())
    if machine_id is not None:
        if not _MACHINE_ID.fullmatch(machine_id):
            raise BootEntryError(f"{machine_id!r} is no machine ID")
        entry.add("machine-id", machine_id)
    entry.add("sort-key", SORT_KEY)
    return entry


def _read(esp: Esp, path: str) -> tuple[BootEntry, str | None]:
    try:
        if esp.size(path) is None:
            return BootEntry(), f"{path} is no regular file"
        return BootEntry.parse(esp.read(path, bls.MAX_SIZE), path), None
    except BootcdError as error:
        return BootEntry(), str(error)


def _missing(esp: Esp, content: BootEntry) -> str | None:
    if content.loader is None:
        return "it names nothing to start"
    for path in content.files:
        if not _is_file(esp, path):
            return f"{path} is missing"
    return None


def _is_file(esp: Esp, path: str) -> bool:
    try:
        return esp.size(path) is not None
    except BootcdError:  # a path that no file system would take
        return False


def _current(esp: Esp, name: EntryName) -> list[str]:
    found = []
    for file_name in esp.names(ENTRIES):
        try:
            if EntryName.parse(file_name).stem.lower() == name.stem.lower():
                found.append(file_name)
        except BootEntryError:
            continue
    return found
