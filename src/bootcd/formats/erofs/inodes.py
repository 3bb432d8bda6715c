# SPDX-License-Identifier: Apache-2.0
"""Inodes, xattrs and directory entries of an EROFS image that nobody has checked yet.

`Inodes` reads one inode at a time and checks everything that can be seen from it alone: that all of it lies within the
image, and that names, lengths and counts make sense. What ties inodes together (link counts, cycles) is the
business of bootcd.formats.erofs.reader.

Structures of a hostile image may overlap, so that few bytes describe much. Therefore every byte that is read counts
against a budget of the size of the image, which an image without overlaps cannot exceed as long as its reader
asks once for every inode. What is built from an image is thus bounded by a small multiple of its size.
"""

from __future__ import annotations

import stat
import struct
from itertools import pairwise
from typing import Final

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import BLOCK_SIZE, INODE_ALIGN, DataLayout, Version

IMAGE_MAX: Final = 1 << 30
"""Largest image in bytes that is read; composefs-rs has the same limit."""

_KNOWN_COMPAT: Final = layout.COMPAT_SB_CHECKSUM | layout.COMPAT_MTIME | layout.COMPAT_XATTR_FILTER
_KNOWN_INCOMPAT: Final = layout.INCOMPAT_CHUNKED_FILE
_XATTR_ALIGN: Final = 4
_ESCAPED_NAME_MAX: Final = layout.XATTR_NAME_MAX + len(layout.OVERLAY_ESCAPED_PREFIX) - len(layout.OVERLAY_PREFIX)
_NULL_POINTER: Final = layout.CHUNK_POINTER.pack(layout.CHUNK_NULL)

Pairs = list[tuple[bytes, bytes]]
"""Names and values of xattrs as they are on disk: a name may come twice."""


class Superblock:
    """The two headers of an image, validated.

    Raises ErofsError if they are none of an image of composefs, or if the image is larger than `IMAGE_MAX`.
    """

    __slots__ = (
        "build_time", "build_time_nsec", "flags", "inode_count", "root_nid", "version", "xattr_offset",
    )  # fmt: skip

    def __init__(self, view: memoryview) -> None:
        size = len(view)
        if size > IMAGE_MAX:
            raise ErofsError(f"the image has {size} bytes; at most {IMAGE_MAX} are supported")
        if size < layout.INODES_OFFSET or size % BLOCK_SIZE:
            raise ErofsError(f"the image has {size} bytes, which is not a positive multiple of {BLOCK_SIZE}")
        magic, header_version, self.flags, version = layout.HEADER.unpack_from(view)
        if magic != layout.HEADER_MAGIC:
            raise ErofsError(f"the image does not start with the magic number of composefs: {magic:#010x}")
        if header_version != layout.HEADER_VERSION or version not in tuple(Version):
            raise ErofsError(f"composefs header version {header_version}, format {version} is unknown")
        self.version = Version(version)
        (
            magic, _checksum, compat, block_bits, extension_slots, self.root_nid, self.inode_count, self.build_time,
            self.build_time_nsec, blocks, meta_block, xattr_block, _uuid, _volume, incompat, compression, devices,
            _device_slot, directory_bits, xattr_prefixes, _prefix_start, packed_nid, _reserved,
        ) = layout.SUPERBLOCK.unpack_from(view, layout.SUPERBLOCK_OFFSET)  # fmt: skip
        if magic != layout.SUPERBLOCK_MAGIC:
            raise ErofsError(f"the image has no EROFS superblock: magic number {magic:#010x}")
        if block_bits != layout.BLOCK_BITS or blocks * BLOCK_SIZE != size:
            raise ErofsError(f"the superblock counts {blocks} blocks of 2**{block_bits} bytes in {size} bytes")
        if compat & ~_KNOWN_COMPAT or incompat & ~_KNOWN_INCOMPAT:
            raise ErofsError(f"EROFS features {compat:#x}, {incompat:#x} include some that composefs does not use")
        if compression or devices or extension_slots or packed_nid or meta_block or xattr_prefixes or directory_bits:
            raise ErofsError("the superblock uses a structure that composefs does not use")
        if self.build_time_nsec >= 10**9:
            raise ErofsError(f"the build time of the superblock has {self.build_time_nsec} nanoseconds")
        self.xattr_offset = xattr_block * BLOCK_SIZE


class RawInode:
    """An inode as it is on disk. `tail` is the offset of what follows its xattrs."""

    __slots__ = (
        "gid", "ino", "layout", "mode", "mtime", "mtime_nsec", "name_filter", "nid", "nlink", "size", "start", "tail",
        "uid", "xattrs",
    )  # fmt: skip

    nid: int
    mode: int
    layout: int
    size: int
    start: int
    """`i_u`: first data block, chunk format or device number."""
    ino: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    nlink: int
    tail: int
    name_filter: int
    xattrs: Pairs


class Inodes:
    """One pass over the inodes of an image. Raises ErofsError for everything that is wrong, naming the nid."""

    def __init__(self, view: memoryview, superblock: Superblock) -> None:
        self._view = view
        self._size = len(view)
        self._superblock = superblock
        self._is_v2 = superblock.version is Version.V2
        self._budget = self._size
        self._shared: dict[int, tuple[bytes, bytes]] = {}

    def read(self, nid: int) -> RawInode:
        """The inode at `nid`. To be called once for each nid."""
        view = self._view
        offset = nid * INODE_ALIGN
        if not layout.INODES_OFFSET <= offset <= self._size - layout.COMPACT.size:
            raise ErofsError(f"inode {nid} is outside the image")
        inode = RawInode()
        inode.nid = nid
        form = view[offset] | view[offset + 1] << 8
        inode.layout = form >> layout.LAYOUT_SHIFT
        if form & layout.FORMAT_EXTENDED:
            header = layout.EXTENDED.size
            if offset > self._size - header:
                raise ErofsError(f"inode {nid} reaches beyond the image")
            (
                _, xattr_count, inode.mode, _, inode.size, inode.start, inode.ino, inode.uid, inode.gid, inode.mtime,
                inode.mtime_nsec, inode.nlink,
            ) = layout.EXTENDED.unpack_from(view, offset)  # fmt: skip
            if inode.mtime_nsec >= 10**9:
                raise ErofsError(f"inode {nid} has {inode.mtime_nsec} nanoseconds in its mtime")
        else:
            header = layout.COMPACT.size
            (
                _, xattr_count, inode.mode, inode.nlink, inode.size, _, inode.start, inode.ino, inode.uid, inode.gid, _,
            ) = layout.COMPACT.unpack_from(view, offset)  # fmt: skip
            inode.mtime = self._superblock.build_time
            inode.mtime_nsec = self._superblock.build_time_nsec
        if inode.layout not in (DataLayout.FLAT_PLAIN, DataLayout.FLAT_INLINE, DataLayout.CHUNK_BASED):
            raise ErofsError(f"inode {nid} has format {form:#x}, which composefs does not use")
        if inode.size >= 1 << 63:
            raise ErofsError(f"inode {nid} claims {inode.size} bytes")
        self._spend(header, nid)
        if xattr_count:
            self._read_xattrs(inode, offset + header, layout.XATTR_AREA.size + (xattr_count - 1) * _XATTR_ALIGN)
        else:
            inode.tail = offset + header
            inode.xattrs = []
            inode.name_filter = 0xFFFFFFFF
        return inode

    def content(self, inode: RawInode) -> bytes:
        """What the inode holds of its own: a symlink's target, a small file's content."""
        if inode.layout == DataLayout.CHUNK_BASED:
            raise ErofsError(f"inode {inode.nid} has chunks where its content is expected")
        if inode.layout == DataLayout.FLAT_INLINE and self._is_v2:
            return self._bytes(inode.tail, inode.size, inode.nid)  # composefs-rs never used blocks for content in V2
        return b"".join(self._parts(inode))

    def entries(self, inode: RawInode) -> list[tuple[bytes, int, int]]:
        """The (name, nid, type) of a directory, `.` and `..` included, strictly in byte order of the names."""
        if inode.layout == DataLayout.CHUNK_BASED:
            raise ErofsError(f"directory {inode.nid} has chunks")
        found: list[tuple[bytes, int, int]] = []
        last = b""
        for block in self._parts(inode):
            entries = _dirents(block, inode.nid)
            if entries[0][0] <= last:
                raise ErofsError(f"directory {inode.nid}: {_show(entries[0][0])} is out of order or comes twice")
            last = entries[-1][0]
            found += entries
        return found

    def check_chunks(self, inode: RawInode, expected: bool = True) -> None:
        """Refuse chunks that are no holes: composefs keeps no content in chunks.

        `expected` tells whether V2 writes a chunk for this kind of file; it does for none but those with a digest.
        """
        form = inode.start
        if self._is_v2:
            if form & 0xFFFF != layout.CHUNK_BITS_MASK:
                raise ErofsError(f"inode {inode.nid} has chunk format {form:#x}")
            count = 1 if expected else 0
        else:
            bits = (form & layout.CHUNK_BITS_MASK) + layout.BLOCK_BITS
            if form & 0xFFFF & ~layout.CHUNK_BITS_MASK:
                raise ErofsError(f"inode {inode.nid} has chunk format {form:#x}")
            count = -(-inode.size >> bits)
        size = count * len(_NULL_POINTER)
        if not self._is_v2 and size > BLOCK_SIZE - INODE_ALIGN and inode.tail % BLOCK_SIZE + size > BLOCK_SIZE:
            return  # writers put a list that fits no block into a block of its own, which i_u is too narrow to name
        if self._bytes(inode.tail, size, inode.nid) != _NULL_POINTER * count:
            raise ErofsError(f"inode {inode.nid} has a chunk that is no hole")

    def _parts(self, inode: RawInode) -> list[bytes]:
        """The data of a flat inode in pieces of one block, the last one shorter."""
        offset = inode.start * BLOCK_SIZE
        if inode.layout == DataLayout.FLAT_INLINE:
            tail_size = inode.size % BLOCK_SIZE
            data = self._bytes(offset, inode.size - tail_size, inode.nid)
            tail = self._bytes(inode.tail, tail_size, inode.nid)
            if inode.tail % BLOCK_SIZE + tail_size > BLOCK_SIZE and not stat.S_ISLNK(inode.mode):
                raise ErofsError(f"the inline data of inode {inode.nid} crosses a block boundary")
        else:
            data, tail = self._bytes(offset, inode.size, inode.nid), b""
        parts = [data[at:at + BLOCK_SIZE] for at in range(0, len(data), BLOCK_SIZE)]
        if tail:
            parts.append(tail)
        return parts

    def _read_xattrs(self, inode: RawInode, offset: int, size: int) -> None:
        area = self._bytes(offset, size, inode.nid)
        inode.tail = offset + size
        inode.name_filter, shared_count = layout.XATTR_AREA.unpack_from(area)
        at = layout.XATTR_AREA.size + shared_count * layout.XATTR_REF.size
        if at > size:
            raise ErofsError(f"inode {inode.nid} claims {shared_count} shared xattrs in {size} bytes")
        pairs: Pairs = []
        if shared_count:
            for ref in struct.unpack_from(f"<{shared_count}I", area, layout.XATTR_AREA.size):
                pair = self._shared.get(ref)
                pairs.append(self._read_shared(ref, inode.nid) if pair is None else pair)
        while at < size:
            suffix_size, index, value_size = layout.XATTR_ENTRY.unpack_from(area, at)
            at += layout.XATTR_ENTRY.size
            end = at + suffix_size + value_size
            if end > size:
                raise ErofsError(f"an xattr of inode {inode.nid} reaches beyond the inode")
            name = _xattr_name(index, area[at:at + suffix_size], inode.nid)
            pairs.append((name, area[at + suffix_size:end]))
            at = -(-end // _XATTR_ALIGN) * _XATTR_ALIGN
        inode.xattrs = pairs

    def _read_shared(self, ref: int, nid: int) -> tuple[bytes, bytes]:
        offset = self._superblock.xattr_offset + ref * _XATTR_ALIGN
        header = self._bytes(offset, layout.XATTR_ENTRY.size, nid)
        suffix_size, index, value_size = layout.XATTR_ENTRY.unpack(header)
        body = self._bytes(offset + len(header), suffix_size + value_size, nid)
        pair = (_xattr_name(index, body[:suffix_size], nid), body[suffix_size:])
        self._shared[ref] = pair
        return pair

    def _bytes(self, offset: int, size: int, nid: int) -> bytes:
        if offset + size > self._size:
            raise ErofsError(f"inode {nid} refers to bytes {offset} to {offset + size} of {self._size}")
        self._spend(size, nid)
        return self._view[offset:offset + size].tobytes()

    def _spend(self, size: int, nid: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise ErofsError(f"at inode {nid} the structures of the image overlap")


def _dirents(block: bytes, nid: int) -> list[tuple[bytes, int, int]]:
    """The entries of one block of a directory, strictly in order."""
    size = len(block)
    headers = block[8] | block[9] << 8 if size >= layout.DIRENT.size else 0  # where the first name starts
    if not headers or headers % layout.DIRENT.size or headers >= size:
        raise ErofsError(f"directory {nid} has a block without valid entries")
    nids, offsets, types = zip(*layout.DIRENT.iter_unpack(block[:headers]), strict=True)
    end = block.find(0, offsets[-1])
    if end < 0:
        end = size
    ends = (*offsets[1:], end)
    if block.find(0, headers, end) >= 0 or block.find(b"/", headers, end) >= 0:
        raise ErofsError(f"directory {nid} has a name with a NUL byte or '/'")
    if block.count(0, end) != size - end:
        raise ErofsError(f"directory {nid} has bytes after its last name")
    for begin, until in zip(offsets, ends, strict=True):
        if not 0 < until - begin <= layout.NAME_MAX:
            raise ErofsError(f"directory {nid} has a name from offset {begin} to {until}")
    names = [block[begin:until] for begin, until in zip(offsets, ends, strict=True)]
    if any(a >= b for a, b in pairwise(names)):
        raise ErofsError(f"directory {nid} has names that are out of order or come twice")
    return list(zip(names, nids, types, strict=True))


def _xattr_name(index: int, suffix: bytes, nid: int) -> bytes:
    if index < len(layout.XATTR_PREFIXES):
        name = layout.XATTR_PREFIXES[index] + suffix
        longest = _ESCAPED_NAME_MAX if name.startswith(layout.OVERLAY_ESCAPED_PREFIX) else layout.XATTR_NAME_MAX
        if 0 < len(name) <= longest and b"\0" not in name:
            return name
    raise ErofsError(f"inode {nid} has an xattr with the invalid name {index}:{_show(suffix)}")


def _show(value: bytes) -> str:
    return repr(value.decode("ascii", "backslashreplace"))
