# SPDX-License-Identifier: Apache-2.0
"""A composefs image of a file tree.

The image of a tree is a function of the tree: no clock, no randomness, no order of insertion goes into it. V1 is what
composefs-rs writes since 0.9; V0 what mkcomposefs writes by default for a tree without whiteouts; V2 what composefs-rs
wrote before. Where these tools disagree about one version, composefs-rs is followed.
"""

from __future__ import annotations

import struct
from typing import Final

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import BLOCK_SIZE, Version
from bootcd.formats.erofs.placement import choose_forms, describe, place, place_blocks
from bootcd.formats.erofs.prepare import DirectoryNode, Node, prepare
from bootcd.formats.erofs.xattrs import XattrTable
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import Directory

_INT64: Final = 1 << 64


def write_image(root: Directory, version: Version = Version.V1, algorithm: Algorithm = Algorithm.SHA512) -> bytearray:
    """The image of `root`; `algorithm` is that of the digests in it. The tree is not changed.

    Raises ErofsError, naming the path, for what an image cannot hold: impossible names and xattrs, digests of another
    algorithm, numbers that do not fit, whiteouts with several names.
    """
    nodes = prepare(root, version, algorithm)
    table = XattrTable(nodes, version)
    describe(nodes, version)
    seconds, nanoseconds = (0, 0) if version is Version.V2 else choose_forms(nodes)
    inodes_end = place(nodes, version)
    first_block = -(-(inodes_end + len(table.data)) // BLOCK_SIZE)
    blocks = place_blocks(nodes, first_block)
    if blocks > 0xFFFFFFFF:
        raise ErofsError(f"the image would have {blocks} blocks, more than the format can express")

    image = bytearray(blocks * BLOCK_SIZE)
    flags = layout.FLAG_HAS_ACL if version is not Version.V2 and table.has_acl else 0
    layout.HEADER.pack_into(image, 0, layout.HEADER_MAGIC, layout.HEADER_VERSION, flags, version)
    xattr_block = 0 if version is Version.V2 else inodes_end // BLOCK_SIZE
    features = layout.COMPAT_MTIME | layout.COMPAT_XATTR_FILTER
    root_nid = nodes[0].offset // layout.INODE_ALIGN
    layout.SUPERBLOCK.pack_into(
        image, layout.SUPERBLOCK_OFFSET, layout.SUPERBLOCK_MAGIC, 0, features, layout.BLOCK_BITS, 0, root_nid,
        len(nodes), _signed(seconds), nanoseconds, blocks, 0, xattr_block, b"", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )
    table_base = inodes_end - xattr_block * BLOCK_SIZE
    for number, node in enumerate(nodes):
        try:
            end = _put_inode(image, node, number, version)
        except struct.error as error:
            raise ErofsError(f"{node.path()}: a number of its metadata does not fit the image: {error}") from None
        if node.xattr_size:
            image[end:end + node.xattr_size] = table.area(node, table_base)
            end += node.xattr_size
        if node.tail or node.blocks:
            _put_content(image, node, end)
    image[inodes_end:inodes_end + len(table.data)] = table.data
    return image


def _put_inode(image: bytearray, node: Node, number: int, version: Version) -> int:
    """Write the inode proper and return where it ends."""
    inode = node.inode
    mode = node.file_type | inode.permissions & 0o7777
    count = 1 + (node.xattr_size - layout.XATTR_AREA.size) // 4 if node.xattr_size else 0
    form = node.data_layout << layout.LAYOUT_SHIFT
    if not node.extended:
        layout.COMPACT.pack_into(
            image, node.offset, form, count, mode, node.nlink, node.size, 0, node.address, number, inode.uid,
            inode.gid, 0,
        )
        return node.offset + layout.COMPACT.size
    if version is Version.V2:
        number = node.offset // layout.INODE_ALIGN
    nanoseconds = 0 if version is Version.V2 else inode.mtime_nsec
    layout.EXTENDED.pack_into(
        image, node.offset, form | layout.FORMAT_EXTENDED, count, mode, 0, node.size, node.address, number, inode.uid,
        inode.gid, _signed(inode.mtime), nanoseconds, node.nlink,
    )
    return node.offset + layout.EXTENDED.size


def _put_content(image: bytearray, node: Node, end: int) -> None:
    """Write data blocks, and behind the inode the tail."""
    if isinstance(node, DirectoryNode):
        start = 0
        offset = node.block * BLOCK_SIZE
        last = len(node.groups) - 1
        for i, stop in enumerate(node.groups):
            block = _directory_block(node, start, stop)
            if node.tail and i == last:
                offset = end
            image[offset:offset + len(block)] = block
            offset += BLOCK_SIZE
            start = stop
        return
    content = node.inline
    split = len(content) - node.tail
    if split:
        offset = node.block * BLOCK_SIZE
        image[offset:offset + split] = content[:split]
    image[end:end + node.tail] = content[split:]


def _directory_block(node: DirectoryNode, start: int, stop: int) -> bytes:
    names = node.names[start:stop]
    pack = layout.DIRENT.pack
    types = layout.FILE_TYPES
    offset = layout.DIRENT.size * len(names)
    parts = []
    for name, child in zip(names, node.children[start:stop], strict=True):
        parts.append(pack(child.offset >> 5, offset, types[child.file_type]))
        offset += len(name)
    return b"".join(parts + names)


def _signed(seconds: int) -> int:
    """The same 64 bits as a signed number."""
    return seconds - _INT64 if _INT64 // 2 <= seconds < _INT64 else seconds
