# SPDX-License-Identifier: Apache-2.0
"""The objects of a repository: immutable files named by the fs-verity digest of their content.

Invariants:

* A name under objects/xx appears with all its content, or not at all: files are written without a name.
* An object that is there and sound is never written again. One that is there but has the wrong size, or in a secure
  repository the wrong or no fs-verity digest, is what a power cut left behind; it is replaced in one rename.
* Nothing of our own making has a name in objects/xx that is no digest: cfsctl's collection gives up on such names.

`put` and the other methods may be called from several threads. Spec 1.8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from ..errors import ObjectMismatch, RepositoryDamaged
from ..formats.fsverity import Hasher, measure
from ..formats.tree import object_path
from ..linux import files, verity
from .root import Root

CHUNK = 1 << 20
_BUSY_RETRIES = 3
_BUSY_PAUSE = 0.001
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HEX = frozenset("0123456789abcdef")

Data = bytes | bytearray | memoryview


class ObjectStore:
    """The directory `objects` of a repository."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self.algorithm = root.algorithm
        self._secure = root.secure
        self._top = -1
        self._dirs: list[int] = [-1] * 256
        self._lock = threading.Lock()

    def close(self) -> None:
        for fd in [*self._dirs, self._top]:
            if fd >= 0:
                os.close(fd)
        self._top = -1
        self._dirs = [-1] * 256

    # --- asking ---

    def has(self, digest: bytes) -> bool:
        """Whether there is an object of that name; nothing is said about its content."""
        return self._size(digest) is not None

    def size(self, digest: bytes) -> int:
        """Its size in bytes. Raises RepositoryDamaged when it is not there."""
        size = self._size(digest)
        if size is None:
            raise self._missing(digest)
        return size

    def open(self, digest: bytes) -> int:
        """A descriptor for reading. In a secure repository the kernel guarantees the content.

        Raises RepositoryDamaged when it is not there, ObjectMismatch when the kernel's digest is another or none.
        """
        fd = self.open_unchecked(digest)
        if self._secure:
            try:
                found = verity.measure(fd, self.algorithm)
                if found != digest:
                    what = "has no fs-verity" if found is None else f"has the fs-verity digest {found.hex()}"
                    raise ObjectMismatch(f"object {digest.hex()} {what}")
            except BaseException:
                os.close(fd)
                raise
        return fd

    def open_verified(self, digest: bytes) -> int:
        """As `open`, but in an insecure repository all content is read and checked first, for who gives it away under
        another name. Raises ObjectMismatch."""
        if not self._secure:
            for _ in self.chunks(digest):
                pass
        return self.open(digest)

    def open_unchecked(self, digest: bytes) -> int:
        """A descriptor for reading, whatever the content is. Raises RepositoryDamaged when it is not there."""
        dirfd = self._dir(digest)
        if dirfd < 0:
            raise self._missing(digest)
        try:
            return files.open_regular(digest.hex()[2:], dirfd)
        except FileNotFoundError as error:
            raise self._missing(digest) from error
        except OSError as error:
            raise files.error_of(f"cannot open object {digest.hex()}", error) from error

    def read(self, digest: bytes, limit: int | None = None) -> bytes:
        """The whole content, checked against the digest. Raises as `open`, and RepositoryDamaged above `limit`."""
        with open(self.open(digest), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise RepositoryDamaged(f"object {digest.hex()} has {size} bytes, more than {limit}")
            with self._reading(digest):
                data = file.read()
        if not self._secure and measure(data, self.algorithm) != digest:
            raise ObjectMismatch(f"object {digest.hex()} has other content than its name says")
        return data

    def chunks(self, digest: bytes, *, check: bool = True) -> Iterator[bytes]:
        """The content a piece at a time, checked against the digest: by the kernel in a secure repository, else by
        us, and then only the end tells that what came before was wrong. Without `check` it is up to the kernel alone,
        for who checks another digest. Raises as `open`, and ObjectMismatch."""
        hasher = None if self._secure or not check else Hasher(self.algorithm)
        with open(self.open(digest), "rb", buffering=0) as file, self._reading(digest):
            while data := file.read(CHUNK):
                if hasher is not None:
                    hasher.update(data)
                yield data
        if hasher is not None and hasher.digest() != digest:
            raise ObjectMismatch(f"object {digest.hex()} has other content than its name says")

    def all(self) -> Iterator[bytes]:
        """Every digest that has an object, in order. Raises RepositoryDamaged for a name that is none."""
        top = self._open_top()
        if top < 0:
            return
        for first in range(256):
            prefix = f"{first:02x}"
            dirfd = self._dir(bytes([first]))
            if dirfd < 0:
                continue
            with files.translate(f"cannot list objects/{prefix}"), _anew(dirfd) as fresh:
                names = os.listdir(fresh)
            for name in sorted(names):
                if len(name) != 2 * self.algorithm.digest_size - 2 or not _HEX.issuperset(name):
                    raise RepositoryDamaged(f"objects/{prefix}/{name} is no object name")
                yield bytes.fromhex(prefix + name)

    def path(self, digest: bytes) -> str:
        """Where it lies in the file system."""
        return os.path.join(self._root.path, "objects", object_path(digest))

    def directory_fd(self) -> int:
        """The descriptor of `objects`, for mounts; it stays ours. Raises RepositoryDamaged when there is none."""
        fd = self._open_top()
        if fd < 0:
            raise RepositoryDamaged(f"repository {self._root.path} has no directory 'objects'")
        return fd

    # --- writing ---

    def put(self, data: Data) -> bytes:
        """Store content that is in memory and return its digest. Raises RootFull."""
        digest = measure(data, self.algorithm)
        self.insert(digest, data)
        return digest

    def insert(self, digest: bytes, data: Data) -> bool:
        """Store content under the digest that the caller has just measured. False when it was there already."""
        if self._is_sound(digest, len(data), data):
            return False
        dirfd = self._dir(digest, create=True)
        try:
            with files.tmpfile(dirfd, hide_in=self._top) as temporary:
                files.write_all(temporary.fd, data)
                return self._publish(temporary, digest, len(data))
        except OSError as error:
            raise files.error_of(f"cannot write object {digest.hex()}", error) from error

    def writer(self) -> ObjectWriter:
        """For content that does not fit into memory."""
        self._root.require_writable()
        top = self._open_top(create=True)
        with files.translate("cannot write an object"):
            return ObjectWriter(self, files.tmpfile(top), Hasher(self.algorithm))

    def remove(self, digest: bytes) -> int:
        """Remove an object and return the bytes that it had. Only for who holds the repository exclusively."""
        self._root.require_writable()
        size = self.size(digest)
        files.step("objects.before_remove")
        with files.translate(f"cannot remove object {digest.hex()}"):
            os.unlink(digest.hex()[2:], dir_fd=self._dir(digest))
        return size

    def remove_leftovers(self, older_than: float, *, dry_run: bool = False) -> tuple[int, int]:
        """Remove temporary files that a crash left on a file system without O_TMPFILE, when they are older than so
        many seconds. Returns their number and bytes."""
        count = size = 0
        top = self._open_top()
        if top < 0:
            return 0, 0
        limit = time.time() - older_than
        with files.translate("cannot remove leftovers in objects"), _anew(top) as fresh, os.scandir(fresh) as entries:
            for entry in entries:
                if not entry.name.startswith(".tmp-object-"):
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime < limit:
                    count += 1
                    size += status.st_size
                    if not dry_run:
                        os.unlink(entry.name, dir_fd=top)
        return count, size

    # --- inside ---

    def _missing(self, digest: bytes) -> RepositoryDamaged:
        return RepositoryDamaged(f"object {digest.hex()} is missing in {self._root.path}")

    @contextlib.contextmanager
    def _reading(self, digest: bytes) -> Iterator[None]:
        """The kernel says EIO of content that does not fit its fs-verity digest, when the page is read."""
        try:
            yield
        except OSError as error:
            if self._secure and error.errno == errno.EIO:
                raise ObjectMismatch(f"object {digest.hex()} cannot be read: damaged, or its disk is") from error
            raise files.error_of(f"cannot read object {digest.hex()}", error) from error

    def _open_top(self, *, create: bool = False) -> int:
        if self._top < 0:
            with self._lock, files.translate("cannot open the directory 'objects'"):
                if self._top < 0:
                    if create:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir("objects", 0o755, dir_fd=self._root.fd)
                    with contextlib.suppress(FileNotFoundError):
                        self._top = os.open("objects", _DIR_FLAGS, dir_fd=self._root.fd)
        return self._top

    def _dir(self, digest: bytes, *, create: bool = False) -> int:
        """The descriptor of objects/xx, or -1 when there is none."""
        first = digest[0]
        if create:
            self._root.require_writable()
        if self._dirs[first] < 0:
            top = self._open_top(create=create)
            if top < 0:
                return -1
            name = f"{first:02x}"
            with self._lock, files.translate(f"cannot open objects/{name}"):
                if self._dirs[first] < 0:
                    if create:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o755, dir_fd=top)
                    with contextlib.suppress(FileNotFoundError):
                        self._dirs[first] = os.open(name, _DIR_FLAGS, dir_fd=top)
        return self._dirs[first]

    def _size(self, digest: bytes) -> int | None:
        dirfd = self._dir(digest)
        if dirfd < 0 or len(digest) != self.algorithm.digest_size:
            return None
        try:
            return os.stat(digest.hex()[2:], dir_fd=dirfd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise files.error_of(f"cannot look for object {digest.hex()}", error) from error

    def _is_sound(self, digest: bytes, size: int, data: Data | None = None) -> bool:
        """Whether the object is there with its content, which is `data` if the caller has it at hand.

        With fs-verity the kernel knows. Without, it is read: content that has just come must not be taken to be there
        because something else of the same size has its name. That costs 1 s for each GiB that is reused, which is less
        than it took to come (440 MiB in 12,000 objects, in the page cache: 1.1 s instead of 0.7 s).
        """
        if self._size(digest) != size:
            return False
        try:
            if self._secure:
                os.close(self.open(digest))
            elif data is not None and size <= CHUNK:
                fd = self.open_unchecked(digest)
                try:
                    return os.read(fd, size + 1) == data
                finally:
                    os.close(fd)
            else:
                for _ in self.chunks(digest):
                    pass
        except (ObjectMismatch, RepositoryDamaged):
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False  # the disk cannot read it: time for another copy
        return True

    def _publish(self, temporary: files.TempFile, digest: bytes, size: int) -> bool:
        """Give a finished file its name; False when a sound one has it."""
        if self._secure:
            self._enable_verity(temporary, digest)
        name = digest.hex()[2:]
        dirfd = self._dir(digest, create=True)
        files.step("objects.before_link")
        if files.link_tmpfile(temporary, dirfd, name):
            files.step("objects.after_link")
            return True
        if self._is_sound(digest, size):
            return False
        top = self._open_top(create=True)
        hidden = f".tmp-object-{secrets.token_hex(6)}"
        files.link_tmpfile(temporary, top, hidden)
        files.step("objects.before_replace")
        os.rename(hidden, name, src_dir_fd=top, dst_dir_fd=dirfd)
        return True

    def _enable_verity(self, temporary: files.TempFile, digest: bytes) -> None:
        temporary.reopen_read_only()
        for attempt in range(_BUSY_RETRIES * 2):
            try:
                verity.enable(temporary.fd, self.algorithm)
                break
            except verity.FileBusy:
                # A fork() in another thread may have inherited our writable descriptor until its exec().
                if attempt + 1 == _BUSY_RETRIES * 2:
                    raise
                if attempt + 1 == _BUSY_RETRIES:
                    self._copy(temporary)
                else:
                    time.sleep(_BUSY_PAUSE)
        found = verity.measure(temporary.fd, self.algorithm)
        if found != digest:
            raise ObjectMismatch(f"the kernel measures {found.hex() if found else 'nothing'} for {digest.hex()}")

    def _copy(self, temporary: files.TempFile) -> None:
        """Put the content into a file that nobody else can have open."""
        with files.tmpfile(self._open_top(create=True)) as fresh:
            files.copy_file(temporary.fd, fresh.fd)
            fresh.reopen_read_only()
            temporary.swap(fresh)


class ObjectWriter:
    """Takes content piece by piece; nothing is visible before `commit`. A context manager that cleans up."""

    __slots__ = ("_file", "_hasher", "_store", "written")

    def __init__(self, store: ObjectStore, file: files.TempFile, hasher: Hasher) -> None:
        self._store = store
        self._file = file
        self._hasher = hasher
        self.written = False
        """After `commit`: whether the object is new."""

    @property
    def size(self) -> int:
        return self._hasher.size

    def write(self, data: Data) -> None:
        """Append. Raises RootFull."""
        try:
            files.write_all(self._file.fd, data)
        except OSError as error:
            raise files.error_of(f"cannot write an object after {self.size} bytes", error) from error
        self._hasher.update(data)

    def commit(self) -> bytes:
        """Give the object its name and return its digest."""
        digest = self._hasher.digest()
        try:
            if not self._store._is_sound(digest, self.size):
                self.written = self._store._publish(self._file, digest, self.size)
        except OSError as error:
            raise files.error_of(f"cannot write object {digest.hex()}", error) from error
        finally:
            self.close()
        return digest

    def close(self) -> None:
        """Give up what is not committed."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()


@contextlib.contextmanager
def _anew(dirfd: int) -> Iterator[int]:
    """The directory opened once more: btrfs lists only what was there when a descriptor was opened."""
    fd = os.open(".", _DIR_FLAGS, dir_fd=dirfd)
    try:
        yield fd
    finally:
        os.close(fd)


def parse_object_path(text: str, digest_size: int) -> bytes:
    """The digest in a path that ends in `xx/rest`. Raises RepositoryDamaged."""
    parts = text.rsplit("/", 2)
    name = "".join(parts[-2:])
    if len(parts) < 2 or len(parts[-2]) != 2 or len(name) != 2 * digest_size or not _HEX.issuperset(name):
        raise RepositoryDamaged(f"'{text}' is no path of an object")
    return bytes.fromhex(name)
