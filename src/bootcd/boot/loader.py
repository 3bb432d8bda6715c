# SPDX-License-Identifier: Apache-2.0
"""The boot loader: what it says of itself in EFI variables, and putting systemd-boot on the partition at installation.

Variables are files `<name>-<vendor GUID>`: four bytes of attributes, then the value, for the loader's UTF-16LE text
that ends with NUL (https://systemd.io/BOOT_LOADER_INTERFACE). They are absent where a machine boots by BIOS, through
GRUB or without firmware variables in a container; everything is None then.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import NotBootable
from ..formats.tree import Directory, RegularFile
from .entries import means_all_of_ours
from .esp import CONFIG, KEYS, Esp

EFIVARS = "/sys/firmware/efi/efivars"
LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
GLOBAL_GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SECURITY_GUID = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SHIM_GUID = "605dab50-e046-4300-abb6-3dd810dd8b23"
SYSTEMD_BOOT = b"/usr/lib/systemd/boot/efi"

OVERRIDES = ("LoaderEntryDefault", "LoaderEntryPreferred", "LoaderEntryOneShot")
"""Variables that override the order of the entries."""

_MAX_VARIABLE = 64 * 1024
_MAX_LOADER = 16 << 20
_ATTRIBUTES = 4
_BINARY = re.compile(rb"systemd-boot(ia32|x64|arm|aa64|riscv64|loongarch64)\.efi(\.signed)?")
_PRODUCT = re.compile(r"systemd-boot ([0-9]+)")


@dataclass(frozen=True, slots=True)
class LoaderVariables:
    """What the firmware tells. `selected` is the id of the entry that was booted; `default`, `preferred` and `one_shot`
    override the order of the entries; `secure_boot` is whether the firmware checked signatures."""

    selected: str | None = None
    default: str | None = None
    preferred: str | None = None
    one_shot: str | None = None
    info: str | None = None
    boot_count_path: str | None = None
    device_part_uuid: str | None = None
    secure_boot: bool | None = None

    @property
    def systemd_boot(self) -> int | None:
        """The version of systemd-boot, None when something else booted the machine."""
        found = _PRODUCT.match(self.info or "")
        return int(found[1][:6]) if found else None

    @property
    def uki_key(self) -> str:
        """The key by which an entry names a UKI: `uki` is known from version 258 on, `efi` to all."""
        return "uki" if (self.systemd_boot or 0) >= 258 else "efi"

    def warnings(self) -> list[str]:
        """What defeats the order of the entries, one sentence each."""
        warnings = []
        if self.default and not means_all_of_ours(self.default):
            warnings.append(f"the EFI variable LoaderEntryDefault is set to '{self.default}': that entry boots even "
                            "after it failed, and instead of newer ones; 'bootctl set-default \"\"' removes it")
        if self.preferred and not means_all_of_ours(self.preferred):
            warnings.append(f"the EFI variable LoaderEntryPreferred is set to '{self.preferred}': that entry boots "
                            "instead of newer ones; 'bootctl set-preferred \"\"' removes it")
        if self.one_shot:
            warnings.append(f"the EFI variable LoaderEntryOneShot is set: the next boot is '{self.one_shot}'")
        return warnings


def read_variables(path: str = EFIVARS) -> LoaderVariables:
    """Never raises: what is absent, unreadable or malformed is None."""
    secure = _value(path, "SecureBoot", GLOBAL_GUID)
    return LoaderVariables(
        selected=_text(path, "LoaderEntrySelected"),
        default=_text(path, "LoaderEntryDefault"),
        preferred=_text(path, "LoaderEntryPreferred"),
        one_shot=_text(path, "LoaderEntryOneShot"),
        info=_text(path, "LoaderInfo"),
        boot_count_path=_text(path, "LoaderBootCountPath"),
        device_part_uuid=_text(path, "LoaderDevicePartUUID"),
        secure_boot=secure == b"\1" if secure is not None and len(secure) == 1 else None,
    )


def override_paths(path: str = EFIVARS) -> list[str]:
    """The files of OVERRIDES. The kernel gives them another time when they are written (efivarfs)."""
    return [os.path.join(path, f"{name}-{LOADER_GUID}") for name in OVERRIDES]


def key_variables(path: str = EFIVARS) -> tuple[bytes, bytes] | None:
    """The signature lists of the keys that the firmware, and shim beside it, trust; and of those that are revoked. None
    when those of the firmware cannot be read."""
    trusted = _value(path, "db", SECURITY_GUID)
    if trusted is None:
        return None
    return trusted + (_value(path, "MokListRT", SHIM_GUID) or b""), _value(path, "dbx", SECURITY_GUID) or b""


def install_systemd_boot(esp: Esp, root: Directory, read_file: Callable[[RegularFile], bytes]) -> list[str]:
    """Copy systemd-boot from an image, signed if there is a signed one, to its place and to the removable path.

    A file that is there already is left alone, whoever put it there. Returns the paths written. Raises NotBootable when
    the image has no systemd-boot and there is no boot loader at the removable path either.
    """
    written: list[str] = []
    binaries = _binaries(root)
    if not binaries and not any(name.lower().endswith(".efi") for name in esp.names("EFI/BOOT")):
        raise NotBootable(f"the image has no systemd-boot in {SYSTEMD_BOOT.decode()}, and {esp.path} no boot loader",
                          advice="Install systemd-boot in the image, or another boot loader on the partition.")
    for architecture, file in binaries.items():
        places = (f"EFI/systemd/systemd-boot{architecture}.efi", f"EFI/BOOT/BOOT{architecture.upper()}.EFI")
        missing = [place for place in places if esp.size(place) is None]
        if not missing:
            continue
        data = read_file(file)
        for place in missing:
            esp.make_directory(os.path.dirname(place))
            esp.write(place, [data], len(data))
            written.append(place)
    return written


def lacking(source: Esp, target: Esp) -> list[str]:
    """What `target` has not of what systemd-boot needs and `source` has: the loader itself, also at the removable path
    if it is there, `loader.conf`, and keys. Other boot loaders are left to those who installed them."""
    found = [f"EFI/systemd/{name}" for name in source.names("EFI/systemd") if _BINARY.fullmatch(os.fsencode(name))]
    for path in list(found):
        architecture = path.removeprefix("EFI/systemd/systemd-boot").partition(".")[0]
        removable = f"EFI/BOOT/BOOT{architecture.upper()}.EFI"
        if source.size(removable) == source.size(path) and source.read(removable, _MAX_LOADER) == source.read(
                path, _MAX_LOADER):
            found.append(removable)
    for keys in source.names(KEYS):
        found += [f"{KEYS}/{keys}/{name}" for name in source.names(f"{KEYS}/{keys}")]
    found.append(CONFIG)
    return [path for path in found if source.size(path) is not None and target.size(path) is None]


def copy_loader(source: Esp, target: Esp) -> list[str]:
    """Copy what is lacking, which replaces nothing; returns the paths."""
    missing = lacking(source, target)
    for path in missing:
        target.make_directory(os.path.dirname(path))
        target.write(path, source.chunks(path), source.size(path))
    return missing


def _binaries(root: Directory) -> dict[str, RegularFile]:
    directory = root.directory(SYSTEMD_BOOT)
    found: dict[str, RegularFile] = {}
    for name, node in directory.sorted_entries() if directory else ():
        match = _BINARY.fullmatch(name)
        if match and isinstance(node, RegularFile):
            found[match[1].decode()] = node  # the signed one comes later in byte order
    return found


def _value(path: str, name: str, guid: str) -> bytes | None:
    with contextlib.suppress(OSError), open(os.path.join(path, f"{name}-{guid}"), "rb") as file:
        data = file.read(_MAX_VARIABLE + 1)
        if _ATTRIBUTES <= len(data) <= _MAX_VARIABLE:
            return data[_ATTRIBUTES:]
    return None


def _text(path: str, name: str) -> str | None:
    value = _value(path, name, LOADER_GUID)
    if value is None:
        return None
    try:
        return value.decode("utf-16-le").partition("\0")[0] or None
    except UnicodeDecodeError:
        return None
