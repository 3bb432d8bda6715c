# SPDX-License-Identifier: Apache-2.0
"""Small PE files with the sections that a test wants."""

from __future__ import annotations

import struct


def make_pe(sections: dict[str, bytes], *, alignment: int = 512) -> bytes:
    """A PE32+ file as linkers lay it out, and as one can sign it: raw data padded to `alignment`, VirtualSize exact."""
    optional = bytearray(240)
    table_end = 0x80 + 24 + len(optional) + 40 * len(sections)
    offset = -(-table_end // alignment) * alignment
    table, body = b"", b""
    for index, (name, content) in enumerate(sections.items()):
        raw_size = -(-len(content) // alignment) * alignment
        table += struct.pack("<8sIIII16x", name.encode(), len(content), 0x1000 * (index + 1), raw_size, offset)
        body += content.ljust(raw_size, b"\0")
        offset += raw_size
    entry, base = 0x1000, 0x400000
    struct.pack_into("<H2xIIIIIQII", optional, 0, 0x20B, len(body), 0, 0, entry, entry, base, 0x1000, alignment)
    headers = -(-table_end // alignment) * alignment
    struct.pack_into("<II4xH", optional, 56, 0x1000 * (len(sections) + 1), headers, 10)  # an EFI application
    struct.pack_into("<I", optional, 108, 16)
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, len(optional), 0x22)
    head = header.ljust(0x80, b"\0") + coff + bytes(optional) + table
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + body
