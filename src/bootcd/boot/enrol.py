# SPDX-License-Identifier: Apache-2.0
"""Secure Boot keys of an image, put where systemd-boot finds them.

    /usr/lib/bootcd/keys/<set>/{PK,KEK,db,dbx}.auth                        in the image; bootc's place is read as well
    loader/keys/<set>/{PK,KEK,db,dbx}.auth                                 on the boot partition

systemd-boot offers a set in its menu, or enrols the one called `auto` as `secure-boot-enroll` of loader.conf(5) says,
and only while the firmware is in setup mode. Nothing here enrols anything.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import NotBootable
from ..formats.tree import Directory, RegularFile
from .esp import KEYS, Esp

PLACES = (b"/usr/lib/bootc/install/secureboot-keys", b"/usr/lib/bootcd/keys")
"""The later one wins."""
FILES = (b"PK.auth", b"KEK.auth", b"db.auth", b"dbx.auth")
MAX_SIZE = 1 << 20
"""Bytes of one file; the largest, dbx, has some ten thousand."""


def copy_keys(esp: Esp, root: Directory, read_file: Callable[[RegularFile], bytes]) -> list[str]:
    """Copy the sets of keys; a file that is there is left alone. Returns the paths written. Raises NotBootable for a
    file that can be no key."""
    wanted: dict[str, RegularFile] = {}
    for place in PLACES:
        directory = root.directory(place)
        for name, keys in directory.sorted_entries() if directory else ():
            if not isinstance(keys, Directory) or not _is_plain(name):
                continue
            for file in FILES:
                node = keys.entries.get(file)
                if node is None:
                    continue
                where = b"/".join((place, name, file)).decode()
                if not isinstance(node, RegularFile) or not 0 < node.size <= MAX_SIZE:
                    raise NotBootable(f"{where} in the image is no Secure Boot key",
                                      advice="Put the signed variable itself there, as sign-efi-sig-list makes it.")
                wanted[f"{KEYS}/{name.decode()}/{file.decode()}"] = node
    written = []
    for path, node in wanted.items():
        if esp.size(path) is None:
            data = read_file(node)
            esp.make_directory(path.rpartition("/")[0])
            esp.write(path, [data], len(data))
            written.append(path)
    return written


def _is_plain(name: bytes) -> bool:
    """Whether FAT can have that name as it is."""
    return name.isascii() and name.decode().replace("-", "").replace("_", "").isalnum()
