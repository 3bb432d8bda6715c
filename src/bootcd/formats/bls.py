# SPDX-License-Identifier: Apache-2.0
"""Boot Loader Specification entries of type 1: `loader/entries/<stem>[+LEFT[-DONE]].conf`.

Source: UAPI.1 Boot Loader Specification, sections "Type #1 Boot Loader Entry Keys", "Boot counting", "Sorting".

    # comment                 kept where it stands
    title    Debian 13        key, one or more blanks, value up to the end of the line
    options  quiet            may be given more than once
    x-foo    bar              keys that we do not know are kept, in order

Lines end with LF; CR LF and CR are accepted, as systemd-boot does. A file holds at most `MAX_SIZE` bytes of UTF-8.
What `format` returns, `parse` reads back to an equal entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cmp_to_key
from typing import Any, TypeVar

from ..errors import BootEntryError
from . import version

MAX_SIZE = 64 * 1024
"""Largest entry, in bytes, that is read or written."""

SUFFIX = ".conf"

_T = TypeVar("_T")
_BLANK = " \t"
_LINE_END = re.compile(r"\r\n|\r|\n")
_KEY = re.compile(r"[^\s#\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029\ud800-\udfff]")
_FILE_NAME = re.compile(r"[A-Za-z0-9+_.-]{1,255}")
_COUNTED = re.compile(r"(.*)\+([0-9]{1,9})(?:-([0-9]{1,9}))?", re.DOTALL)
_newest_first: Callable[[str], Any] = cmp_to_key(lambda a, b: version.compare(b, a))


@dataclass(slots=True)
class BootEntry:
    """The content of one entry.

    `items` are (key, value) pairs in the order of the file. A comment or an empty line has the key "" and the text of
    the line as its value.
    """

    items: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes, name: str = "boot entry") -> BootEntry:
        """Raises BootEntryError when the data is too long, no UTF-8, or has NUL bytes."""
        if len(data) > MAX_SIZE:
            raise BootEntryError(f"{name}: {len(data)} bytes are too many, at most {MAX_SIZE} are read")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise BootEntryError(f"{name}: byte {error.start} is no UTF-8") from None
        lines = _LINE_END.split(text)
        if not lines[-1]:
            lines.pop()
        items: list[tuple[str, str]] = []
        for number, line in enumerate(lines, 1):
            line = line.strip(_BLANK)
            if "\0" in line:
                raise BootEntryError(f"{name}: line {number} contains a NUL byte")
            if not line or line.startswith("#"):
                items.append(("", line))
                continue
            words = re.split(r"[ \t]+", line, maxsplit=1)
            items.append((words[0], words[1] if len(words) > 1 else ""))
        return cls(items)

    def format(self) -> bytes:
        """The bytes of the file. Raises BootEntryError for what would not be read back as it is."""
        lines = []
        for key, value in self.items:
            if "\n" in value or "\r" in value or "\0" in value or value != value.strip(_BLANK):
                raise BootEntryError(f"boot entry: the value of '{key}' cannot be written: {value!r}")
            if not key:
                if value and not value.startswith("#"):
                    raise BootEntryError(f"boot entry: {value!r} is no comment")
                lines.append(value)
                continue
            if key.startswith("#") or any(char in key for char in _BLANK + "\r\n\0"):
                raise BootEntryError(f"boot entry: {key!r} is no key")
            lines.append(f"{key} {value}" if value else key)
        try:
            data = "".join(line + "\n" for line in lines).encode()
        except UnicodeEncodeError:
            raise BootEntryError("boot entry: a value cannot be written as UTF-8") from None
        if len(data) > MAX_SIZE:
            raise BootEntryError(f"boot entry: {len(data)} bytes are too many, at most {MAX_SIZE} can be read back")
        return data

    def get(self, key: str) -> str | None:
        """The value of a key that should be there once; the last one wins, as in systemd-boot."""
        return next((value for name, value in reversed(self.items) if name == key), None)

    def get_all(self, key: str) -> list[str]:
        """Every value of a key that may be repeated."""
        return [value for name, value in self.items if name == key]

    def set(self, key: str, value: str) -> None:
        """Give `key` this one value, in the place of the first one or at the end."""
        self._check(key, value)
        places = [place for place, (name, _) in enumerate(self.items) if name == key]
        if not places:
            self.items.append((key, value))
            return
        self.items[places[0]] = (key, value)
        for place in reversed(places[1:]):
            del self.items[place]

    def add(self, key: str, value: str) -> None:
        """Append one more value of a key that may be repeated."""
        self._check(key, value)
        self.items.append((key, value))

    @property
    def options(self) -> str:
        """All `options`, combined in their order."""
        return " ".join(value for value in self.get_all("options") if value)

    @property
    def loader(self) -> str | None:
        """The path of what the boot loader starts, relative to the partition and without a leading slash."""
        for key in ("uki", "efi", "linux"):
            value = self.get(key)
            if value:
                return value.lstrip("/")
        return None

    @property
    def files(self) -> Iterator[str]:
        """The paths of everything the entry refers to, relative to the partition and without a leading slash."""
        for key, value in self.items:
            if key in ("linux", "initrd", "efi", "uki", "devicetree", "extra") and value:
                yield value.lstrip("/")

    @staticmethod
    def _check(key: str, value: str) -> None:
        if not _KEY.fullmatch(key):
            raise BootEntryError(f"boot entry: {key!r} is no key")
        if _CONTROL.search(value) or value != value.strip(_BLANK):
            raise BootEntryError(f"boot entry: the value of '{key}' cannot be written: {value!r}")


def clean(text: str) -> str:
    """`text` as a value: control characters and line ends become single blanks."""
    return " ".join(_CONTROL.sub(" ", text).split())


@dataclass(frozen=True, slots=True)
class EntryName:
    """The name of an entry's file, taken apart.

    `tries_left` is None where boots are not counted; `tries_done` is None where that part of the counter is missing,
    which means 0.
    """

    stem: str
    tries_left: int | None = None
    tries_done: int | None = None

    @classmethod
    def parse(cls, file_name: str) -> EntryName:
        """Only what follows the last '+' can be a counter, and only if nothing but digits and one '-' is there.

        Raises BootEntryError for a name that no boot loader would take.
        """
        if not _FILE_NAME.fullmatch(file_name) or not file_name.lower().endswith(SUFFIX):
            raise BootEntryError(f"{file_name!r} is no name of a boot entry")
        stem = file_name[: -len(SUFFIX)]
        counted = _COUNTED.fullmatch(stem)
        if not counted:
            return cls(stem)
        return cls(counted[1], int(counted[2]), None if counted[3] is None else int(counted[3]))

    @property
    def bad(self) -> bool:
        """Whether all tries are used up."""
        return self.tries_left == 0

    @property
    def id(self) -> str:
        """How boot loaders call the entry, for example in LoaderEntrySelected: the file name without its counter."""
        return self.stem + SUFFIX

    def __str__(self) -> str:
        counter = "" if self.tries_left is None else f"+{self.tries_left}"
        if counter and self.tries_done is not None:
            counter += f"-{self.tries_done}"
        return self.stem + counter + SUFFIX


def sort_entries(entries: Iterable[_T], parts: Callable[[_T], tuple[EntryName, BootEntry]]) -> list[_T]:
    """`entries` as the menu shows them; without an override the boot loader starts the first.

    `parts` says what an element's name and content are. Between entries that are otherwise equal, the one with more
    tries left and fewer tries done wins, as in systemd-boot.
    """
    return sorted(entries, key=lambda element: _place(*parts(element)))


def _place(name: EntryName, entry: BootEntry) -> tuple[Any, ...]:
    sort_key = entry.get("sort-key") or ""
    machine_id = (entry.get("machine-id") or "") if sort_key else ""
    newest = (entry.get("version") or "") if sort_key else ""
    return (
        name.bad, not sort_key, sort_key.encode(errors="replace"), machine_id.encode(errors="replace"),
        _newest_first(newest),
        _newest_first(name.stem), -(name.tries_left or 0), name.tries_done or 0,
    )
