# SPDX-License-Identifier: Apache-2.0
"""Sections of PE files, as far as unified kernel images need them (PE/COFF specification; UAPI.5 for UKIs).

    0               "MZ"
    0x3c            u32, offset of the signature
    signature       "PE\\0\\0"
    + 4             COFF header, 20 bytes: number of sections at +2 (u16), size of the optional header at +16 (u16)
    + optional      40 bytes for each section: name (8 bytes, padded with zeros), VirtualSize, VirtualAddress,
                    SizeOfRawData, PointerToRawData, ...

A section's content is the first VirtualSize bytes at PointerToRawData: SizeOfRawData is rounded up to the alignment of
the file. Where VirtualSize is larger, the firmware fills memory with zeros that are not in the file; the content then
ends with the raw data, and what follows in the file is never taken for it.

Nothing is copied: a section is a view of the data given, which may be a mapped file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..errors import PeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAGIC = b"MZ"
_SIGNATURE = b"PE\0\0"
_SIGNATURE_OFFSET = struct.Struct("<60xI")
_COFF = struct.Struct("<4s2xH12xH2x")
_SECTION = struct.Struct("<8sI4xII16x")


class Pe:
    """The sections of a PE file. `name` is for messages."""

    __slots__ = ("_data", "_sections", "name")

    def __init__(self, data: memoryview, sections: list[tuple[str, int, int]], name: str) -> None:
        self._data = data
        self._sections = sections
        self.name = name

    @classmethod
    def parse(cls, data: Buffer, name: str = "PE file") -> Pe:
        """Read the section table. Raises PeError when it, or any section, is not wholly inside the data."""
        view = memoryview(data).cast("B").toreadonly()
        if len(view) < _SIGNATURE_OFFSET.size or view[:2] != _MAGIC:
            raise PeError(f"{name}: this is no PE file")
        (start,) = _SIGNATURE_OFFSET.unpack_from(view)
        if start + _COFF.size > len(view):
            raise PeError(f"{name}: the PE header at {start} is beyond the end at {len(view)}")
        signature, count, optional = _COFF.unpack_from(view, start)
        if signature != _SIGNATURE:
            raise PeError(f"{name}: there is no PE signature at {start}")
        table = start + _COFF.size + optional
        if table + count * _SECTION.size > len(view):
            raise PeError(f"{name}: the table of {count} sections at {table} is beyond the end at {len(view)}")
        sections = []
        for padded, virtual_size, raw_size, raw in _SECTION.iter_unpack(view[table : table + count * _SECTION.size]):
            label = padded.rstrip(b"\0").decode("latin-1")
            size = min(virtual_size, raw_size)
            if size and raw + size > len(view):
                raise PeError(f"{name}: section {label!r} at {raw}, {size} bytes, is beyond the end at {len(view)}")
            sections.append((label, raw, size))
        return cls(view, sections, name)

    @property
    def sections(self) -> list[str]:
        """The names in the order of the table; a name may be there more than once."""
        return [label for label, _, _ in self._sections]

    def section(self, name: str) -> memoryview:
        """The content of the first section of that name. Raises PeError when there is none."""
        for label, offset, size in self._sections:
            if label == name:
                return self._data[offset : offset + size]
        raise PeError(f"{self.name}: there is no section {name!r}")

    def text(self, name: str, limit: int = 64 * 1024) -> str:
        """The content of a section as text, up to its first NUL.

        Raises PeError when it is longer than `limit` bytes or no UTF-8.
        """
        content = self.section(name)
        if len(content) > limit:
            raise PeError(f"{self.name}: section {name!r} has {len(content)} bytes, at most {limit} make sense")
        try:
            return bytes(content).partition(b"\0")[0].decode()
        except UnicodeDecodeError as error:
            raise PeError(f"{self.name}: section {name!r} is no UTF-8 at byte {error.start}") from None
