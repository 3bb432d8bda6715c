# SPDX-License-Identifier: Apache-2.0
"""The directory of an open repository, which all its parts share."""

from __future__ import annotations

from ..errors import BootcdError, ReadOnly, RepositoryTooNew
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm
from ..linux import files
from .metadata import Metadata


class Root:
    """`path` and `fd` are the directory, `metadata` what its meta.json says, `secure` whether fs-verity decides. `fd`
    is -1 once the repository is closed."""

    def __init__(self, path: str, fd: int, metadata: Metadata, secure: bool) -> None:
        self.path = path
        self.fd = fd
        self.metadata = metadata
        self.secure = secure
        self._refusal = self._why_not_writable()

    @property
    def algorithm(self) -> Algorithm:
        return self.metadata.algorithm

    @property
    def version(self) -> Version:
        """The format of new images."""
        return self.metadata.version

    def sync(self) -> None:
        """Make everything written so far durable."""
        files.syncfs(self.fd)

    def require_writable(self) -> None:
        """Raises ReadOnly, PermissionDenied or RepositoryTooNew when nothing may be changed here."""
        if self._refusal is not None:
            raise self._refusal

    def _why_not_writable(self) -> BootcdError | None:
        unknown = self.metadata.unknown_read_only
        if unknown:
            names = ", ".join(map(repr, unknown))
            return RepositoryTooNew(f"repository {self.path} can only be read: unknown features {names}")
        if files.is_read_only(self.fd):
            return ReadOnly(f"repository {self.path} is on a read-only file system or not ours to write")
        return None
