# SPDX-License-Identifier: Apache-2.0
"""Writes layers as zstd:chunked: as containers/storage does, or wrong where a test wants it.

    layer = ChunkedLayer([File("usr/bin/a", b"...")])
    layer.contents["entries"][0]["offset"] += 1      # before `blob` is asked for

Format: containers/storage, package pkg/chunked (a frame for each content, tables in skippable frames, footer).
"""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import zstandard

from kit.images import Entry, Layer, sha256

PREFIX = "io.github.containers.zstd-chunked."
OLD_PREFIX = "io.containers.zstd-chunked."
CHUNK = 64 << 10
"""Bytes of a chunk. The original cuts by a rolling checksum, about as often."""


class ChunkedLayer(Layer):
    """`tar_split` False writes as versions before tar-split did, under the old names."""

    def __init__(self, entries: Iterable[Entry] = (), *, tar: bytes | None = None, tar_split: bool = True,
                 level: int = 3) -> None:
        super().__init__(entries, "zstd", tar=tar)
        self._has_tar_split = tar_split
        self._level = level
        self.annotations: dict[str, str] = {}

    @cached_property
    def _packed(self) -> tuple[bytes, dict[str, Any], list[dict[str, Any]]]:
        """Frames of the tar, table of contents, and lines of tar-split."""
        blob = bytearray()
        contents: list[dict[str, Any]] = []
        lines: list[dict[str, Any]] = []
        position = 0
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as archive:
            for member in archive:
                if not member.isfile() or not member.size:
                    contents.append({"type": "dir" if member.isdir() else "reg", "name": member.name})
                    continue
                data = self.tar[member.offset_data : member.offset_data + member.size]
                headers = self.tar[position : member.offset_data]
                blob += self._frame(headers)
                start = len(blob)
                entries: list[dict[str, Any]] = []
                for offset in range(0, len(data), CHUNK):
                    chunk = data[offset : offset + CHUNK]
                    entries.append({"type": "chunk", "name": member.name, "offset": len(blob), "chunkOffset": offset,
                                    "chunkSize": len(chunk), "chunkDigest": sha256(chunk)})
                    blob += self._frame(chunk)
                if len(entries) == 1:
                    entries = [{}]
                entries[0] |= {"type": "reg", "name": member.name, "mode": member.mode, "size": member.size,
                               "digest": sha256(data), "offset": start, "endOffset": len(blob)}
                contents += entries
                lines += [{"type": 2, "payload": base64.b64encode(headers).decode()},
                          {"type": 1, "name": member.name, "size": member.size, "payload": "AAAAAAAAAAA="}]
                position = member.offset_data + member.size
        rest = self.tar[position:]
        blob += self._frame(rest)
        lines.append({"type": 2, "payload": base64.b64encode(rest).decode()})
        return bytes(blob), {"version": 1, "entries": contents}, lines

    @property
    def contents(self) -> dict[str, Any]:
        """The table of contents."""
        return self._packed[1]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """tar-split."""
        return self._packed[2]

    @cached_property
    def blob(self) -> bytes:
        packed, contents, lines = self._packed
        prefix = PREFIX if self._has_tar_split else OLD_PREFIX
        split = b"".join(json.dumps({**line, "position": number}, separators=(",", ":")).encode() + b"\n"
                         for number, line in enumerate(lines))
        split_frame = self._frame(split)
        if self._has_tar_split:
            contents.setdefault("tarSplitDigest", sha256(split_frame))
        table = json.dumps(contents, separators=(",", ":")).encode()
        table_frame = self._frame(table)
        start = len(packed) + 8
        blob = packed + _skippable(table_frame)
        given = {"manifest-checksum": sha256(table_frame),
                 "manifest-position": f"{start}:{len(table_frame)}:{len(table)}:1"}
        if self._has_tar_split:
            given["tarsplit-position"] = f"{len(blob) + 8}:{len(split_frame)}:{len(split)}"
            blob += _skippable(split_frame)
        self.annotations = {prefix + key: value for key, value in given.items()} | self.annotations
        return blob + _skippable(struct.pack("<4Q", start, len(table_frame), len(table), 1) + b"GNUlInUx")

    def descriptor(self, *, docker: bool = False) -> dict[str, Any]:
        return super().descriptor(docker=docker) | {"annotations": self.annotations}

    def _frame(self, data: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=self._level).compress(data)


def _skippable(data: bytes) -> bytes:
    return struct.pack("<II", 0x184D2A50, len(data)) + data
