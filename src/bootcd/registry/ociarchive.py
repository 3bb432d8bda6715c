# SPDX-License-Identifier: Apache-2.0
"""`oci-archive:FILE[:NAME]`: an OCI image layout in one uncompressed tar file, read in place.

Only names, types, sizes and offsets of the members are taken from the archive; nothing is extracted. Links are names of
other members at most, and not followed in a layout. Sparse members and members that appear twice are refused, because
different readers see different content in them.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import threading
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import BootcdError, OciError, SourceUnreachable
from ..model import ImageReference
from .ocidir import LayoutSource, Region, open_regular
from .resolve import located
from .sources import SourceOptions

_MAX_HEADER = 8 << 10
_MAX_HEADERS = 8 << 20
_MAX_LINKS = 8
COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"\xfd7zXZ": "unxz", b"BZh": "bunzip2"}


class Archive:
    """A tar file whose members can be opened. The file stays open until `close`, and is opened again when needed."""

    def __init__(self, reference: ImageReference) -> None:
        self._reference = reference
        self._lock = threading.Lock()
        self._file: Region | None = None
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}

    def close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file.fd)

    def open(self, name: str, *, follow: bool = False) -> Region | None:
        """A member by its name; with `follow`, through links inside the archive. None when there is none. Raises
        SourceUnreachable, OciError."""
        with self._lock:
            if self._file is None:
                self._file = self._opened()
            for _ in range(_MAX_LINKS if follow else 0):
                if name not in self._links:
                    break
                name = self._links[name]
            place = self._members.get(name)
            return None if place is None else Region(os.dup(self._file.fd), *place)

    def _opened(self) -> Region:
        path = self._reference.name
        file = open_regular(self._reference, Path(path))
        if file is None:
            raise SourceUnreachable(f"{self._reference}: there is no file {path}", advice="Check the path.")
        try:
            start = os.pread(file.fd, 8, 0)
            for magic, tool in COMPRESSED.items():
                if start.startswith(magic):
                    advice = f"Decompress it first: {tool} -c FILE > FILE.tar; only its layers need compression."
                    raise OciError("the archive is compressed as a whole", advice=advice)
            self._links = {}
            self._members = members(file, self._links)
        except BootcdError as error:
            os.close(file.fd)
            raise located(error, str(self._reference)) from None
        except BaseException:
            os.close(file.fd)
            raise
        return file


class OciArchive(LayoutSource):
    """One image of a layout in a tar file."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        super().__init__(reference, options)
        self._archive = Archive(reference)

    def close(self) -> None:
        self._archive.close()

    def _open(self, name: str) -> Region | None:
        return self._archive.open(name)


def members(file: Region, links: dict[str, str] | None = None) -> dict[str, tuple[int, int]]:
    """Where the content of each regular member is: name to offset and size. `links` gets the names of links, with those
    of what they lead to, as far as that is inside the archive. Raises OciError."""
    found: dict[str, tuple[int, int]] = {}
    last = -1
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:", errorlevel=2) as archive:
            for member in archive:
                # A header with a negative size makes tarfile go backwards, and so on for ever.
                if member.offset <= last or member.size < 0:
                    raise OciError(f"malformed tar header at byte {max(member.offset, 0)}")
                last = member.offset
                name = member.name.removeprefix("./")
                if member.issparse():
                    raise OciError(f"the archive has a sparse member, '{_shown(name)}'")
                if links is not None and (member.issym() or member.islnk()):
                    if name in found or name in links:
                        raise OciError(f"the archive has two members named '{_shown(name)}'")
                    base = posixpath.dirname(name) if member.issym() else ""
                    links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
                if not member.isreg():
                    continue
                if member.offset_data + member.size > file.size:
                    raise OciError(f"the archive ends in the middle of '{_shown(name)}'")
                if name in found or (links is not None and name in links):
                    raise OciError(f"the archive has two members named '{_shown(name)}'")
                found[name] = (member.offset_data, member.size)
    except BootcdError:
        raise
    except Exception as error:  # tarfile documents no bound on what a malformed header raises
        raise OciError(f"not a tar archive, or a malformed one: {type(error).__name__}") from None
    return found


def _shown(name: str) -> str:
    """A name that need not be UTF-8, for a message that must be."""
    return name[:100].encode("utf-8", "backslashreplace").decode()


class _Headers:
    """What tarfile reads headers through: bounded each, and bounded in all, since it keeps what it has read."""

    def __init__(self, file: Region) -> None:
        self._file = file
        self._position = 0
        self._left = _MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise OciError(f"a tar header near byte {self._position} is larger than {_MAX_HEADER} bytes")
        self._left -= size
        if self._left < 0:
            raise OciError(f"the archive has more than {_MAX_HEADERS} bytes of headers")
        data = os.pread(self._file.fd, size, self._position)
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or not 0 <= position <= self._file.size:
            raise OciError("the archive ends in the middle of a member")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position
