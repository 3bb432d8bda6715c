# SPDX-License-Identifier: Apache-2.0
"""Extended attributes of an image: which are shared, and how they are stored.

A pair of name and value that occurs more than once among all inodes is written once, to a table behind the inodes, and
every inode refers to it. The others follow the inode. The size of an inode's area is known before anything is placed;
the references are not, since they depend on where the table begins.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Final, NoReturn

from bootcd.errors import ErofsError
from bootcd.formats.erofs import layout
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.prepare import Node, Xattr

_AREA_MAX: Final = layout.XATTR_AREA.size + 4 * (0xFFFF - 1)
_SHARED_MAX: Final = 0xFF
_ESCAPED_MAX: Final = layout.XATTR_NAME_MAX + len(layout.OVERLAY_ESCAPED_PREFIX) - len(layout.OVERLAY_PREFIX)
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class XattrTable:
    """The shared xattrs of an image. Making it sets the xattr fields of all nodes; raises ErofsError."""

    def __init__(self, nodes: Sequence[Node], version: Version) -> None:
        self._nodes = nodes
        self._version = version
        self._names: dict[bytes, tuple[int, bytes, int]] = {}
        counts = Counter(chain.from_iterable(node.xattrs for node in nodes))
        shared = [xattr for xattr, count in counts.items() if count > 1]
        if version is Version.V2:
            shared.sort(key=lambda xattr: (self._name(xattr)[:2], xattr[2]))
        else:
            shared.sort(reverse=True)
        entries = [self._encode(xattr) for xattr in shared]
        self.data = b"".join(entries)
        """The table itself."""
        offsets: dict[Xattr, int] = {}
        offset = 0
        for xattr, entry in zip(shared, entries, strict=True):
            offsets[xattr] = offset
            offset += len(entry)
        for node in nodes:
            if node.xattrs:
                self._describe(node, offsets)

    @property
    def has_acl(self) -> bool:
        """Whether any inode has a POSIX ACL."""
        acls = (layout.XATTR_INDEX_ACL_ACCESS, layout.XATTR_INDEX_ACL_DEFAULT)
        return any(index in acls for index, _, _ in self._names.values())

    @staticmethod
    def area(node: Node, base: int) -> bytes:
        """What is stored behind an inode, if its table begins `base` bytes behind xattr_blkaddr."""
        shared = node.shared_xattrs
        head = layout.XATTR_AREA.pack(~node.filter & 0xFFFFFFFF, len(shared))
        if not shared:
            return head + node.local_xattrs
        return head + b"".join([layout.XATTR_REF.pack((base + offset) >> 2) for offset in shared]) + node.local_xattrs

    def _describe(self, node: Node, offsets: dict[Xattr, int]) -> None:
        names = self._names
        bits = 0
        shared = []
        local = []
        for xattr in node.xattrs:
            offset = offsets.get(xattr)
            if offset is None:
                local.append(self._encode(xattr))
            else:
                shared.append(offset)
            bits |= names[xattr[0]][2]
        node.filter = bits
        node.shared_xattrs = shared
        node.local_xattrs = b"".join(local)
        node.xattr_size = layout.XATTR_AREA.size + 4 * len(shared) + len(node.local_xattrs)
        if len(shared) > _SHARED_MAX:
            raise ErofsError(
                f"{node.path()}: {len(shared)} of its xattrs occur in other files as well, the limit is {_SHARED_MAX}"
            )
        if node.xattr_size > _AREA_MAX:
            raise ErofsError(f"{node.path()}: its xattrs take {node.xattr_size} bytes, an image can hold {_AREA_MAX}")

    def _encode(self, xattr: Xattr) -> bytes:
        index, suffix, _ = self._names.get(xattr[0]) or self._name(xattr)
        _, size, value = xattr
        try:
            head = layout.XATTR_ENTRY.pack(len(suffix), index, size)
        except struct.error:
            self._fail(xattr, f"its value has {size} bytes, at most {layout.XATTR_VALUE_MAX} can be stored")
        return head + suffix + value + _PADDING[(len(suffix) + size) & 3]

    def _name(self, xattr: Xattr) -> tuple[int, bytes, int]:
        """(index, suffix, filter bit) of the name."""
        name = xattr[0]
        known = self._names.get(name)
        if known is None:
            longest = _ESCAPED_MAX if name.startswith(layout.OVERLAY_ESCAPED_PREFIX) else layout.XATTR_NAME_MAX
            if not 1 <= len(name) <= longest or b"\0" in name:
                self._fail(xattr, "no xattr can have this name")
            index, suffix = layout.split_xattr_name(name, self._version)
            known = self._names[name] = index, suffix, layout.xattr_filter_bit(index, suffix)
        return known

    def _fail(self, xattr: Xattr, why: str) -> NoReturn:
        path = next(node.path() for node in self._nodes if xattr in node.xattrs)
        raise ErofsError(f"{path}: xattr {xattr[0][:300].decode('utf-8', 'backslashreplace')}: {why}")
