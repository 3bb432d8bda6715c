# SPDX-License-Identifier: Apache-2.0
"""The structures of a composefs EROFS image, shared by the writer and the reader.

    0      composefs header (32 bytes), zeros up to 1024
    1024   EROFS superblock (128 bytes)
    1152   inode table, the root inode first; every inode starts on a multiple of 32
           shared xattr entries, each padded to 4
           data blocks of 4096, up to the end of the file

Everything is little-endian. A "nid" is the byte offset of an inode divided by 32.
Sources: the EROFS on-disk format as documented by the Linux kernel, and the composefs image format.
"""

from __future__ import annotations

import stat
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final

BLOCK_BITS: Final = 12
BLOCK_SIZE: Final = 1 << BLOCK_BITS
INODE_ALIGN: Final = 32
"""Inodes start on multiples of this; nids count in it."""


class Version(IntEnum):
    """The `composefs_version` of an image. V0 and V1 lay inodes out breadth first and differ only in how whiteouts are
    escaped; V2 is what composefs-rs wrote before 0.9."""

    V0 = 0
    V1 = 1
    V2 = 2


# --- header: magic, version, flags, composefs_version, zeros

HEADER: Final = Struct("<IIII16x")
HEADER_MAGIC: Final = 0xD078629A
HEADER_VERSION: Final = 1
FLAG_HAS_ACL: Final = 1

# --- superblock

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK: Final = Struct("<IIIBBHQqIIII16s16sIHHHBBIQB23x")
"""magic, checksum, feature_compat, blkszbits, extslots, root_nid, inos, build_time (signed), build_time_nsec, blocks,
meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat, available_compr_algs, extra_devices, devt_slotoff,
dirblkbits, xattr_prefix_count, xattr_prefix_start, packed_nid, xattr_filter_reserved"""
SUPERBLOCK_MAGIC: Final = 0xE0F5E1E2
INODES_OFFSET: Final = SUPERBLOCK_OFFSET + SUPERBLOCK.size

COMPAT_SB_CHECKSUM: Final = 1
COMPAT_MTIME: Final = 2
COMPAT_XATTR_FILTER: Final = 4
INCOMPAT_CHUNKED_FILE: Final = 4

# --- inodes

COMPACT: Final = Struct("<HHHHIIIIHHI")
"""format, xattr_icount, mode, nlink, size, reserved, i_u, ino, uid, gid, reserved"""
EXTENDED: Final = Struct("<HHHHQIIIIqII16x")
"""format, xattr_icount, mode, reserved, size, i_u, ino, uid, gid, mtime (signed), mtime_nsec, nlink"""

FORMAT_EXTENDED: Final = 1
LAYOUT_SHIFT: Final = 1


class DataLayout(IntEnum):
    """How the content of an inode is stored: bits 1 to 3 of its format."""

    FLAT_PLAIN = 0
    FLAT_INLINE = 2
    CHUNK_BASED = 4


CHUNK_BITS_MASK: Final = 0x1F
"""The bits of a chunk format (`i_u`) that hold log2(chunk size) - BLOCK_BITS."""
CHUNK_BITS_MAX: Final = 43
CHUNK_POINTER: Final = Struct("<I")
CHUNK_NULL: Final = 0xFFFFFFFF
"""The address of a chunk that is a hole; composefs uses no other."""

# --- directories: headers of a block, then the names without separators

DIRENT: Final = Struct("<QHBx")
"""nid, offset of the name within the block, file type"""
NAME_MAX: Final = 255

FILE_TYPES: Final[dict[int, int]] = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""S_IFMT bits to the type in a directory entry."""

# --- xattrs

XATTR_AREA: Final = Struct("<IB7x")
"""name_filter, shared_count; then that many `XATTR_REF`, then entries"""
XATTR_REF: Final = Struct("<I")
"""Offset of a shared entry in words of 4 bytes, counted from xattr_blkaddr * BLOCK_SIZE"""
XATTR_ENTRY: Final = Struct("<BBH")
"""length of the suffix, index of the prefix, length of the value; then suffix and value, padded to 4"""
XATTR_NAME_MAX: Final = 255
XATTR_VALUE_MAX: Final = 0xFFFF
XATTR_FILTER_SEED: Final = 0x25BBE08F

XATTR_PREFIXES: Final[tuple[bytes, ...]] = (
    b"", b"user.", b"system.posix_acl_access", b"system.posix_acl_default", b"trusted.", b"lustre.", b"security.",
)
"""The prefix that each index stands for."""
XATTR_INDEX_ACL_ACCESS: Final = 2
XATTR_INDEX_ACL_DEFAULT: Final = 3
XATTR_INDEX_LUSTRE: Final = 5

# --- names of xattrs with a meaning for composefs

OVERLAY_PREFIX: Final = b"trusted.overlay."
OVERLAY_ESCAPED_PREFIX: Final = b"trusted.overlay.overlay."
"""What a `trusted.overlay.` name of the tree begins with inside an image."""
XATTR_METACOPY: Final = b"trusted.overlay.metacopy"
XATTR_REDIRECT: Final = b"trusted.overlay.redirect"
XATTR_OPAQUE: Final = b"trusted.overlay.opaque"

WHITEOUT_XATTRS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"trusted.overlay.overlay.whiteout", b""), (b"user.overlay.whiteout", b""),
)
"""Added to the empty regular file that stands for a whiteout (V0 and V1)."""
WHITEOUT_PARENT_XATTRS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"trusted.overlay.overlay.whiteouts", b""), (b"user.overlay.whiteouts", b""),
)
"""Added to a directory that holds whiteouts (V0 and V1)."""
WHITEOUT_OPAQUE_XATTRS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"trusted.overlay.overlay.opaque", b"x"), (b"user.overlay.opaque", b"x"),
)
"""Added to it as well by V1."""

METACOPY_HEADER: Final = Struct("<BBBB")
"""0, length of header and digest, 0, kernel id of the hash; then the digest"""

STUB_NAMES: Final[tuple[bytes, ...]] = tuple(b"%02x" % i for i in range(256))
"""Character devices 0/0 that V0 and V1 put into the root, so that no object directory shows through the overlay."""
STUB_PERMISSIONS: Final = 0o644


def split_xattr_name(name: bytes, version: Version) -> tuple[int, bytes]:
    """The (index, suffix) under which an image stores a full name. Only V2 knows `lustre.`."""
    for index in (6, 5, 4, 3, 2, 1):
        prefix = XATTR_PREFIXES[index]
        if name.startswith(prefix) and (index != XATTR_INDEX_LUSTRE or version is Version.V2):
            return index, name[len(prefix):]
    return 0, name


@lru_cache(maxsize=4096)
def xattr_filter_bit(index: int, suffix: bytes) -> int:
    """The bit of `name_filter` that belongs to a name, set. The filter is the complement of the or of all bits."""
    return 1 << (_xxh32(suffix, (XATTR_FILTER_SEED + index) & 0xFFFFFFFF) & 31)


_P1, _P2, _P3, _P4, _P5 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1
_M = 0xFFFFFFFF
_LANES = Struct("<IIII")


def _xxh32(data: bytes, seed: int) -> int:
    """XXH32, as the xxHash specification defines it."""
    size = len(data)
    offset = 0
    if size >= 16:
        lanes = [(seed + _P1 + _P2) & _M, (seed + _P2) & _M, seed, (seed - _P1) & _M]
        while offset + 16 <= size:
            for i, word in enumerate(_LANES.unpack_from(data, offset)):
                lane = (lanes[i] + word * _P2) & _M
                lanes[i] = ((lane << 13 | lane >> 19) * _P1) & _M
            offset += 16
        a, b, c, d = lanes
        value = (a << 1 | a >> 31) + (b << 7 | b >> 25) + (c << 12 | c >> 20) + (d << 18 | d >> 14)
    else:
        value = seed + _P5
    value = (value + size) & _M
    while offset + 4 <= size:
        value = (value + int.from_bytes(data[offset:offset + 4], "little") * _P3) & _M
        value = ((value << 17 | value >> 15) * _P4) & _M
        offset += 4
    for byte in data[offset:]:
        value = (value + byte * _P5) & _M
        value = ((value << 11 | value >> 21) * _P1) & _M
    value = ((value ^ value >> 15) * _P2) & _M
    value = ((value ^ value >> 13) * _P3) & _M
    return value ^ value >> 16
