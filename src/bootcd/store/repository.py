# SPDX-License-Identifier: Apache-2.0
"""A composefs repository, shared with cfsctl and bootc.

    <path>/                   held with flock LOCK_SH as long as it is open, LOCK_EX while garbage is collected
      meta.json               algorithm, image format, features; with fs-verity on it the repository is *secure*
      objects/xx/<rest>       files, images and splitstreams, named by fs-verity digest; complete or absent
      images/<hex>            -> ../objects/xx/<rest>           images/refs/<ref>    -> ../<hex>
      streams/<content id>    -> ../objects/xx/<rest>           streams/refs/<ref>   -> ../<content id>

Locking contract: every open repository holds the shared lock, so nothing that it found can be collected meanwhile. An
open repository blocks everybody's collection: open, work, close.

Durability contract: an object may be lost in a power cut until `sync`; a link in images/ or streams/ is only made
after one, so what a link leads to is complete.

Secure means that every object has fs-verity and that the kernel's digest decides. Without fs-verity in kernel or file
system, digests are computed here when something is written or read, and nobody watches later reads. Spec 1.4 to 1.9.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Self

from ..errors import (
    MetadataError,
    RepositoryConflict,
    RepositoryError,
    RepositoryNotFound,
    RepositoryTooNew,
)
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm
from ..linux import files, verity
from .images import Images
from .metadata import FILE_NAME, MAX_SIZE, Metadata
from .objects import ObjectStore
from .root import Root
from .streams import Streams

LOCK_WAIT = 10.0
"""Seconds to wait for somebody's garbage collection before giving up."""
EXCLUSIVE_WAIT = 1.0


class Repository(Root):
    """An open repository; a context manager. Made by `init` or `open`."""

    def __init__(self, path: str, fd: int, lock: files.Lock, metadata: Metadata, secure: bool) -> None:
        super().__init__(path, fd, metadata, secure)
        self._lock = lock
        self.objects = ObjectStore(self)
        self.streams = Streams(self, self.objects)
        self.images = Images(self, self.objects)

    @classmethod
    def init(
        cls, path: str | os.PathLike[str], algorithm: Algorithm = Algorithm.SHA512, version: Version = Version.V1,
        insecure: bool | None = None,
    ) -> Self:
        """Create a repository, or open it when one with the same settings is there.

        `insecure` None takes fs-verity when kernel and file system have it. Raises RepositoryConflict when there is
        one with other settings, Unsupported when fs-verity is demanded and missing.
        """
        where = os.fspath(path)
        metadata = Metadata(algorithm, version)
        with files.translate(f"cannot create repository {where}"):
            parent = os.path.dirname(os.path.abspath(where))
            os.makedirs(parent, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(where, 0o700)
                files.step("repository.after_mkdir")
                files.fsync_dir(parent)
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                existing = _read_meta(fd)
                if existing is None:
                    if _exists(fd, "objects"):
                        raise RepositoryConflict(f"{where} has objects but no {FILE_NAME}")
                    if insecure is None:
                        insecure = not verity.supported(fd, algorithm)
                    _write_meta(fd, metadata, insecure)
                    existing = _read_meta(fd)
                if existing is None or existing != metadata.format():
                    raise RepositoryConflict(f"repository {where} exists with other settings")
                if insecure is not None and insecure != (not _is_secure(fd, algorithm)):
                    raise RepositoryConflict(
                        f"repository {where} exists {'with' if insecure else 'without'} fs-verity")
            finally:
                os.close(fd)
        return cls.open(where)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, wait: float = LOCK_WAIT) -> Self:
        """Open a repository and take the shared lock.

        Raises RepositoryNotFound, RepositoryTooNew, MetadataError, and Busy when somebody collects garbage for longer
        than `wait` seconds.
        """
        where = os.fspath(path)
        try:
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RepositoryNotFound(f"no repository at {where}: {error.strerror}") from error
        except OSError as error:
            raise files.error_of(f"cannot open repository {where}", error) from error
        try:
            lock = files.Lock(fd, f"repository {where}")
            lock.shared(wait)
            try:
                found = _read_meta(fd)
                if found is None and _exists(fd, "objects"):
                    raise RepositoryError(f"repository {where} has no {FILE_NAME}: an older composefs wrote it",
                                          advice=f"'cfsctl --repo {where} fsck' brings it up to date.")
                if found is None:
                    raise RepositoryNotFound(f"no repository at {where}: no {FILE_NAME}")
                metadata = Metadata.parse(found)
                secure = _is_secure(fd, metadata.algorithm)
            except MetadataError as error:
                raise MetadataError(f"repository {where}: {error}") from error
            except RepositoryTooNew as error:
                raise RepositoryTooNew(f"repository {where}: {error}") from error
            return cls(where, fd, lock, metadata, secure)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Release the lock and all descriptors."""
        if self.fd >= 0:
            self.objects.close()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def exclusive(self, wait: float = EXCLUSIVE_WAIT) -> Iterator[None]:
        """Be the only one who has the repository open. Raises Busy when others do not close it in `wait` seconds."""
        self._lock.exclusive(wait)
        try:
            yield
        finally:
            self._lock.shared(LOCK_WAIT)


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def _read_meta(fd: int) -> bytes | None:
    """The text of meta.json, or None when there is none."""
    try:
        meta_fd = files.open_regular(FILE_NAME, fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.error_of(f"cannot read {FILE_NAME}", error) from error
    with open(meta_fd, "rb") as file:
        return file.read(MAX_SIZE + 1)


def _is_secure(fd: int, algorithm: Algorithm) -> bool:
    with files.translate(f"cannot read {FILE_NAME}"):
        meta_fd = files.open_regular(FILE_NAME, fd)
    try:
        return verity.measure(meta_fd, algorithm) is not None
    finally:
        os.close(meta_fd)


def _write_meta(fd: int, metadata: Metadata, insecure: bool) -> None:
    with files.tmpfile(fd) as temporary:
        files.write_all(temporary.fd, metadata.format())
        os.fsync(temporary.fd)
        temporary.reopen_read_only()
        if not insecure:
            verity.enable(temporary.fd, metadata.algorithm)
        files.step("repository.before_meta")
        files.link_tmpfile(temporary, fd, FILE_NAME)  # somebody faster may have won: the caller compares
        files.step("repository.after_meta")
    os.fsync(fd)
