# SPDX-License-Identifier: Apache-2.0
"""Where everything lies in an image.

Inodes follow each other, each with its xattrs and the tail of its content. No tail may cross a block, so inodes are
moved up as the two generations of composefs do it: V0 and V1 by what is missing, V2 also where it would just fit.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Final

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import BLOCK_SIZE, DataLayout, Version
from bootcd.formats.erofs.prepare import DirectoryNode, Node
from bootcd.formats.tree import Device, RegularFile, Symlink

_ALIGN: Final = layout.INODE_ALIGN - 1
_BLOCK: Final = BLOCK_SIZE - 1
_DIRENT_SIZE: Final = layout.DIRENT.size
_TAIL_MAX: Final = BLOCK_SIZE // 2
"""A longer remainder of a directory or file gets a block of its own."""
_CHUNKS_MAX: Final = 1024
_V2_CHUNK_FORMAT: Final = 31
_INT64: Final = 1 << 64


def describe(nodes: Sequence[Node], version: Version) -> None:
    """Set the data fields of all nodes, block addresses excepted. Raises ErofsError."""
    for node in nodes:
        kind = node.file_type
        if isinstance(node, DirectoryNode):
            _describe_directory(node)
        elif kind == stat.S_IFREG:
            _describe_file(node, version)
        elif kind == stat.S_IFLNK:
            assert isinstance(node.inode, Symlink)
            node.inline = node.inode.target
            node.size = node.tail = len(node.inline)
            node.data_layout = DataLayout.FLAT_INLINE
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert isinstance(node.inode, Device)
            node.address = node.inode.rdev


def choose_forms(nodes: Sequence[Node]) -> tuple[int, int]:
    """Make inodes compact that can be, and return the (mtime, mtime_nsec) that they share.

    It is the earliest of the image, with seconds compared as unsigned numbers.
    """
    seconds = min(node.inode.mtime % _INT64 for node in nodes)
    nanoseconds = min(node.inode.mtime_nsec for node in nodes if node.inode.mtime % _INT64 == seconds)
    same = (seconds, seconds - _INT64)
    for node in nodes:
        inode = node.inode
        if (
            inode.mtime in same and inode.mtime_nsec == nanoseconds and node.nlink <= 0xFFFF
            and inode.uid <= 0xFFFF and inode.gid <= 0xFFFF and node.size <= 0xFFFFFFFF
        ):
            node.extended = False
    return seconds, nanoseconds


def place(nodes: Sequence[Node], version: Version) -> int:
    """Give every inode its offset; returns the end of the last, padded."""
    position = layout.INODES_OFFSET
    put = _put_v2 if version is Version.V2 else _put_v1
    for node in nodes:
        end = position + (64 if node.extended else 32) + node.xattr_size
        if node.tail:
            moved = put(node, position, end)
            end += moved - position
            position = moved
        node.offset = position
        position = (end + node.tail + _ALIGN) & ~_ALIGN
    return position


def place_blocks(nodes: Sequence[Node], first: int) -> int:
    """Give every inode that has data blocks its first; returns the number of blocks of the image."""
    block = first
    for node in nodes:
        if node.blocks:
            node.block = block
            # A chunk format takes precedence over the low half of the address; it never matters, as the pointers are
            # all null, but it is what composefs writes.
            if node.data_layout == DataLayout.CHUNK_BASED:
                node.address |= block & 0xFFFF0000
            else:
                node.address = block
            block += node.blocks
    return block


def _put_v1(node: Node, start: int, end: int) -> int:
    """Where an inode goes that could start at `start` and whose tail would then start at `end`."""
    tail = node.tail
    if node.file_type == stat.S_IFLNK:
        if end - start + tail >= BLOCK_SIZE:
            node.data_layout = DataLayout.FLAT_PLAIN
            node.tail = 0
            node.blocks = 1
        if start // BLOCK_SIZE != (end + tail - 1) // BLOCK_SIZE:
            return (start + _BLOCK) & ~_BLOCK
        return start
    missing = BLOCK_SIZE - (end & _BLOCK)
    if missing >= tail:
        return start
    padding = (missing + _ALIGN) & ~_ALIGN
    if ((end + padding) & _BLOCK) + tail > BLOCK_SIZE:
        # Only a list of nearly 1024 chunks can be as long as that.
        node.inline = node.inline.ljust(BLOCK_SIZE, b"\xff")
        node.tail = 0
        node.blocks = 1
        return (start + _BLOCK) & ~_BLOCK
    return start + padding


def _put_v2(node: Node, start: int, end: int) -> int:
    if node.data_layout != DataLayout.FLAT_INLINE:
        return start
    last = end - 1
    if last // BLOCK_SIZE == (end + node.size % BLOCK_SIZE) // BLOCK_SIZE:
        return start
    return (start + BLOCK_SIZE - (last & _BLOCK) + _ALIGN) & ~_ALIGN


def _describe_directory(node: DirectoryNode) -> None:
    """Cut the entries into blocks."""
    groups = node.groups
    used = 0
    for i, name in enumerate(node.names):
        cost = _DIRENT_SIZE + len(name)
        used += cost
        if used > BLOCK_SIZE:
            groups.append(i)
            used = cost
    groups.append(len(node.names))
    if used > _TAIL_MAX:
        node.blocks = len(groups)
        used = 0
    else:
        node.blocks = len(groups) - 1
        node.tail = used
        node.data_layout = DataLayout.FLAT_INLINE
    node.size = node.blocks * BLOCK_SIZE + used


def _describe_file(node: Node, version: Version) -> None:
    inode = node.inode
    if not isinstance(inode, RegularFile):
        return  # an escaped whiteout: empty
    if inode.inline is None and (inode.size or inode.digest is not None or inode.payload is not None):
        _describe_chunks(node, inode, version)
        return
    content = inode.inline or b""
    node.inline = content
    node.size = len(content)
    if version is Version.V2:
        node.tail = node.size
    else:
        node.blocks, node.tail = divmod(node.size, BLOCK_SIZE)
        if node.tail > _TAIL_MAX:
            node.blocks += 1
            node.tail = 0
    if node.tail:
        node.data_layout = DataLayout.FLAT_INLINE


def _describe_chunks(node: Node, inode: RegularFile, version: Version) -> None:
    node.size = inode.size
    node.data_layout = DataLayout.CHUNK_BASED
    if version is Version.V2:
        node.address = _V2_CHUNK_FORMAT
        chunks = 1 if inode.digest is not None else 0
    else:
        bits = min(max((inode.size - 1).bit_length(), layout.BLOCK_BITS), layout.CHUNK_BITS_MAX)
        node.address = bits - layout.BLOCK_BITS
        chunks = (inode.size + (1 << bits) - 1) >> bits
    if chunks > _CHUNKS_MAX:
        raise ErofsError(f"{node.path()}: a size of {inode.size} bytes is more than an image can express")
    node.inline = b"\xff\xff\xff\xff" * chunks
    node.tail = len(node.inline)
