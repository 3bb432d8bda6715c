# SPDX-License-Identifier: Apache-2.0
"""Sections and signatures of PE files, as far as unified kernel images need them (PE/COFF specification; UAPI.5 for
UKIs; Windows Authenticode Portable Executable Signature Format, 2008).

    0               "MZ"
    0x3c            u32, offset of the signature
    signature       "PE\\0\\0"
    + 4             COFF header, 20 bytes: number of sections at +2 (u16), size of the optional header at +16 (u16)
    + 24            optional header: 0x10b (PE32) or 0x20b (PE32+) at 0, SizeOfHeaders at 60, CheckSum at 64, number of
                    data directories at 92 or 108, the directories behind it; the fifth (8 bytes: offset and size)
                    leads to the certificates
    + optional      40 bytes for each section: name (8 bytes, padded with zeros), VirtualSize, VirtualAddress,
                    SizeOfRawData, PointerToRawData, ...
    certificates    each: u32 length of all of it, u16 revision, u16 type (2 is PKCS#7), content, padding to 8 bytes

A section's content is the first VirtualSize bytes at PointerToRawData: SizeOfRawData is rounded up to the alignment of
the file. Where VirtualSize is larger, the firmware fills memory with zeros that are not in the file; the content then
ends with the raw data, and what follows in the file is never taken for it.

Nothing is copied: a section is a view of the data given, which may be a mapped file. A `Layout` needs only the headers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import PeError

if TYPE_CHECKING:
    from typing_extensions import Buffer

HEAD = 64 * 1024
"""Bytes from the beginning that hold all headers of a sensible file."""

_MAGIC = b"MZ"
_SIGNATURE = b"PE\0\0"
_SIGNATURE_OFFSET = struct.Struct("<60xI")
_COFF = struct.Struct("<4s2xH12xH2x")
_SECTION = struct.Struct("<8sI4xII16x")
_DIRECTORIES = {0x10B: 96, 0x20B: 112}
"""By the magic number of the optional header: where its data directories begin."""
_CERTIFICATE = struct.Struct("<IHH")
_PKCS7 = 2


@dataclass(frozen=True, slots=True)
class Section:
    """Where in the file the content of a section is; `raw_size` is what belongs to it with the padding."""

    name: str
    offset: int
    size: int
    raw_size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What the headers say. `name` is for messages."""

    name: str
    size: int
    sections: tuple[Section, ...]
    optional: memoryview
    optional_offset: int

    @classmethod
    def parse(cls, head: Buffer, size: int, name: str = "PE file") -> Layout:
        """Read the headers in the beginning of a file of `size` bytes. Raises PeError when they, or any section, are
        not wholly inside it."""
        view = memoryview(head).cast("B").toreadonly()
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
            length = min(virtual_size, raw_size)
            if length and raw + length > size:
                raise PeError(f"{name}: section {label!r} at {raw}, {length} bytes, is beyond the end at {size}")
            sections.append(Section(label, raw, length, raw_size))
        here = start + _COFF.size
        return cls(name, size, tuple(sections), view[here:table], here)

    def section(self, name: str) -> Section:
        """The first section of that name. Raises PeError when there is none."""
        for section in self.sections:
            if section.name == name:
                return section
        raise PeError(f"{self.name}: there is no section {name!r}")

    @property
    def certificates(self) -> tuple[int, int]:
        """Offset and size of the certificate table; two zeros when there is none. Raises PeError."""
        place = self._certificate_directory()
        offset, size = struct.unpack_from("<II", self.optional, place) if place is not None else (0, 0)
        if size and (offset % 8 or offset + size != self.size):
            raise PeError(f"{self.name}: the certificates at {offset}, {size} bytes, are not the end of the file")
        return (offset, size) if size else (0, 0)

    def signed_ranges(self) -> list[tuple[int, int]]:
        """What the Authenticode digest is made of, in order, as pairs of offset and length: headers but for checksum
        and place of the certificates, then the sections in the order of their offsets, then what is behind them.

        Raises PeError when that is not each byte of the file once: no tool writes such files, and a firmware might see
        another program than we.
        """
        place = self._certificate_directory()
        if place is None:
            raise PeError(f"{self.name}: there is no place for certificates")
        (headers,) = struct.unpack_from("<I", self.optional, 60)
        checksum, directory = self.optional_offset + 64, self.optional_offset + place
        end = self.certificates[0] or self.size
        ranges = [(0, checksum), (checksum + 4, directory - checksum - 4), (directory + 8, headers - directory - 8)]
        at = headers
        for section in sorted(self.sections, key=lambda one: one.offset):
            if section.raw_size:
                if section.offset != at:
                    raise PeError(f"{self.name}: section {section.name!r} begins at {section.offset}, not at {at}")
                ranges.append((at, section.raw_size))
                at += section.raw_size
        if headers < directory + 8 or at > end:
            raise PeError(f"{self.name}: headers and sections do not fit into {end} bytes")
        return [*ranges, (at, end - at)]

    def _certificate_directory(self) -> int | None:
        """Where in the optional header it is said where the certificates are."""
        if len(self.optional) < 2:
            return None
        first = _DIRECTORIES.get(int.from_bytes(self.optional[:2], "little"))
        if first is None or len(self.optional) < first + 40:
            return None
        (count,) = struct.unpack_from("<I", self.optional, first - 4)
        return first + 32 if count > 4 else None


def signatures(table: bytes, name: str = "PE file") -> list[bytes]:
    """The PKCS#7 signatures in a certificate table. Raises PeError."""
    found, at = [], 0
    while at < len(table):
        length, _, kind = _CERTIFICATE.unpack_from(table, at) if at + _CERTIFICATE.size <= len(table) else (0, 0, 0)
        if length < _CERTIFICATE.size or at + length > len(table):
            raise PeError(f"{name}: a certificate at {at} of the table is beyond its end at {len(table)}")
        if kind == _PKCS7:
            found.append(bytes(table[at + _CERTIFICATE.size : at + length]))
        at += -(-length // 8) * 8
    return found


class Pe:
    """The sections of a PE file."""

    __slots__ = ("_data", "_layout")

    def __init__(self, data: memoryview, layout: Layout) -> None:
        self._data = data
        self._layout = layout

    @classmethod
    def parse(cls, data: Buffer, name: str = "PE file") -> Pe:
        """Read the section table of a whole file. Raises PeError when it, or any section, is not wholly inside it."""
        view = memoryview(data).cast("B").toreadonly()
        return cls(view, Layout.parse(view, len(view), name))

    @property
    def sections(self) -> list[str]:
        """The names in the order of the table; a name may be there more than once."""
        return [section.name for section in self._layout.sections]

    def section(self, name: str) -> memoryview:
        """The content of the first section of that name. Raises PeError when there is none."""
        found = self._layout.section(name)
        return self._data[found.offset : found.offset + found.size]

    def text(self, name: str, limit: int = 64 * 1024) -> str:
        """The content of a section as text, up to its first NUL.

        Raises PeError when it is longer than `limit` bytes or no UTF-8.
        """
        content = self.section(name)
        if len(content) > limit:
            raise PeError(f"{self._layout.name}: section {name!r} has {len(content)} bytes, at most {limit} make sense")
        return as_text(content, f"{self._layout.name}: section {name!r}")


def as_text(content: Buffer, what: str) -> str:
    """The content of a section, `what`, as text up to its first NUL. Raises PeError when it is no UTF-8."""
    try:
        return bytes(content).partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise PeError(f"{what} is no UTF-8 at byte {error.start}") from None
