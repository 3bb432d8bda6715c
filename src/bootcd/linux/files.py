# SPDX-License-Identifier: Apache-2.0
"""Durable and atomic file operations, locks, and the fail points of the crash tests.

Invariants:

* What gets a name is complete. A file is written without a name (O_TMPFILE) or under a hidden one, and only then
  linked or renamed to where others look.
* `durable` means: when the call returns, the content *and the name* survive a power cut, as far as the disk honours
  a flush. Renaming before the data is on disk is what leaves empty files behind, hence fsync, rename, fsync.
* Every durable act passes a named `step`, so that a test can end the process exactly there.

OSError does not leave this package for conditions that a user can do something about: see `error_of`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import (
    BootcdError,
    Busy,
    NoSpace,
    NotFound,
    PermissionDenied,
    ReadOnly,
    RecordError,
    RootFull,
    Unsupported,
)

FICLONE = 0x40049409
_COPY_CHUNK = 1 << 20
_ATTEMPTS = 16
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR}
_HIDDEN = re.compile(r"\..+\.[0-9a-f]{12}", re.DOTALL)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)

# --- fail points ------------------------------------------------------------------------------------------------

_crash_name, _, _crash_count = os.environ.get("BOOTCD_CRASH_AT", "").partition(":")
_crash_left = int(_crash_count) if _crash_count.isdigit() else 1
_crash_lock = threading.Lock()
CRASH_STATUS = 137
observe: Callable[[str], None] | None = None
"""Called with the name of every step; the crash tests count them and end the process, or break something, at one."""


def step(name: str) -> None:
    """A named point beside a durable act; does nothing in production.

    With BOOTCD_CRASH_AT="name[:n]" in the environment the process ends here the n-th time, as by SIGKILL: no
    handlers, no flushing.
    """
    if observe is not None:
        observe(name)
    if name != _crash_name:
        return
    global _crash_left
    with _crash_lock:
        _crash_left -= 1
        if _crash_left == 0:
            os._exit(CRASH_STATUS)


def leave_fail_points() -> None:
    """To the processes that this one starts: the daemon keeps files of its own, and it is its workers that shall
    end."""
    global _crash_name
    _crash_name = ""


# --- errors -----------------------------------------------------------------------------------------------------


def error_of(what: str, error: OSError, full: type[NoSpace] = RootFull, *, named: bool = False) -> BootcdError:
    """The error of this project that an OSError amounts to; `what` begins the message. With `named`, a path that does
    not exist is one that somebody has named."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(message)
    if error.errno == errno.EROFS:
        return ReadOnly(message)
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(message)
    if named and error.errno == errno.ENOENT:
        return NotFound(message)
    return BootcdError(message)


@contextlib.contextmanager
def translate(what: str, *, full: type[NoSpace] = RootFull, named: bool = False) -> Iterator[None]:
    """Turn an OSError of the block into an error of this project; `full` is raised for ENOSPC and EDQUOT, NotFound for
    a path that somebody has `named`."""
    try:
        yield
    except OSError as error:
        raise error_of(what, error, full, named=named) from error


# --- durability -------------------------------------------------------------------------------------------------


def fsync_dir(path: str | os.PathLike[str], dir_fd: int | None = None) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncfs(fd: int) -> None:
    """Make everything on the file system of `fd` durable."""
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise error_of("cannot flush the file system", OSError(code, os.strerror(code)))


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`; a single write may stop at 2 GiB or at a signal."""
    done = os.write(fd, data)
    if done == len(data):
        return
    view = memoryview(data).cast("B")
    while done < len(view):
        done += os.write(fd, view[done:])


def atomic_write(
    path: str | os.PathLike[str], data: bytes, mode: int = 0o644, *, durable: bool = True, dir_fd: int | None = None,
    full: type[NoSpace] = RootFull,
) -> None:
    """Create or replace a file so that at any moment the name shows the whole old or the whole new content.

    Works on FAT as well, where `mode` is what the mount makes of it. Raises `full` when there is no room; the old
    content is then untouched.
    """
    name = os.fspath(path)
    directory, base = os.path.split(name)
    hidden = os.path.join(directory, f".{base[:200]}.{secrets.token_hex(6)}")
    with translate(f"cannot write {name}", full=full):
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=dir_fd)
        try:
            try:
                with contextlib.suppress(PermissionError):  # FAT refuses what it cannot represent
                    os.fchmod(fd, mode)
                write_all(fd, data)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            step("atomic_write.before_rename")
            os.rename(hidden, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(hidden, dir_fd=dir_fd)
            raise
        step("atomic_write.after_rename")
        if durable:
            fsync_dir(directory or ".", dir_fd)
        step("atomic_write.after_sync")


def remove_leftovers(directory: str | os.PathLike[str]) -> None:
    """Remove what an `atomic_write` that was cut off left in a directory, which need not be there.

    Only for who knows that nobody else writes into it.
    """
    with translate(f"cannot remove leftovers in {os.fspath(directory)}"):
        try:
            found = [name for name in os.listdir(directory) if _HIDDEN.fullmatch(name)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in found:
            os.unlink(os.path.join(directory, name))


def replace_symlink(dirfd: int, name: str, target: str) -> bool:
    """Make `name` a symlink to `target`, atomically replacing another symlink. Returns whether anything changed.

    Raises BootcdError when `name` is something else than a symlink: nothing that a user put there is overwritten.
    """
    with translate(f"cannot make symlink {name}"):
        try:
            os.symlink(target, name, dir_fd=dirfd)
        except FileExistsError:
            pass
        else:
            step("replace_symlink.after_create")
            return True
        try:
            if os.readlink(name, dir_fd=dirfd) == target:
                return False
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise BootcdError(f"cannot make symlink {name}: it exists and is no symlink") from error
            if error.errno != errno.ENOENT:
                raise
        for _ in range(_ATTEMPTS):
            hidden = f".symlink-{secrets.token_hex(6)}"
            try:
                os.symlink(target, hidden, dir_fd=dirfd)
            except FileExistsError:
                continue
            step("replace_symlink.before_rename")
            try:
                os.rename(hidden, name, src_dir_fd=dirfd, dst_dir_fd=dirfd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(hidden, dir_fd=dirfd)
                raise
            step("replace_symlink.after_rename")
            return True
    raise BootcdError(f"cannot make symlink {name}: no free temporary name")


def exchange(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Let two names of one file system trade places, at once (renameat2, RENAME_EXCHANGE). Raises OSError."""
    first, second = os.fsencode(one), os.fsencode(other)
    if _libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(one))


# --- files without a name ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_directory(name: str) -> Iterator[Path]:
    """A new directory that only this user can enter; it goes, with all that is in it, when the block ends."""
    with translate("cannot use a temporary directory"), tempfile.TemporaryDirectory(prefix=f"bootcd-{name}.") as path:
        yield Path(path)


class TempFile:
    """An open file that has no name yet, or a hidden one where the file system lacks O_TMPFILE.

    A context manager: leaving it closes the file, which frees it unless it was linked.
    """

    __slots__ = ("_dirfd", "_hidden", "fd")

    def __init__(self, fd: int, dirfd: int = -1, hidden: str | None = None) -> None:
        self.fd = fd
        self._dirfd = dirfd
        self._hidden = hidden

    def reopen_read_only(self) -> None:
        """Trade the writable descriptor for a read-only one, as fs-verity demands."""
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(self.fd)
        self.fd = fd

    def swap(self, other: TempFile) -> None:
        """Exchange what the two stand for."""
        self.fd, other.fd = other.fd, self.fd
        self._dirfd, other._dirfd = other._dirfd, self._dirfd
        self._hidden, other._hidden = other._hidden, self._hidden

    def close(self) -> None:
        if self._hidden is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._dirfd)
            self._hidden = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()


def tmpfile(dirfd: int, mode: int = 0o644, *, hide_in: int | None = None) -> TempFile:
    """A new file for reading and writing on the file system of `dirfd`, invisible until `link_tmpfile`.

    Without O_TMPFILE (some overlay, NFS and FUSE file systems) it is `.tmp-object-*` in that directory, or in
    `hide_in`. Name the directory where the file will be linked: ext4 places inodes by directory, and creating all in
    one takes it several times as long.
    """
    try:
        return TempFile(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=dirfd))
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    dirfd = dirfd if hide_in is None else hide_in
    for _ in range(_ATTEMPTS):
        hidden = f".tmp-object-{secrets.token_hex(6)}"
        with contextlib.suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            return TempFile(os.open(hidden, flags, mode, dir_fd=dirfd), dirfd, hidden)
    raise BootcdError("cannot create a temporary file: no free name")


def link_tmpfile(file: TempFile, dirfd: int, name: str) -> bool:
    """Give the file its name. Returns False when the name is taken; it then still is what it was."""
    try:
        # Without dst_dir_fd Python calls link(2), which cannot follow the magic link in /proc.
        os.link(f"/proc/self/fd/{file.fd}", name, dst_dir_fd=dirfd, follow_symlinks=True)
    except FileExistsError:
        return False
    return True


def reflink(source_fd: int, target_fd: int) -> bool:
    """Share the blocks of the source with the target; False where the file system cannot."""
    try:
        fcntl.ioctl(target_fd, FICLONE, source_fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        return False
    return True


def copy_file(source_fd: int, target_fd: int) -> None:
    """Copy the whole content: by reflink, else inside the kernel, else through memory. The target must be empty."""
    if reflink(source_fd, target_fd):
        return
    offset = 0
    try:
        while count := os.copy_file_range(source_fd, target_fd, _COPY_CHUNK * 64, offset, offset):
            offset += count
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
    # copy_file_range answers 0 for files of /proc and the like, which claim to be empty: read to the true end.
    while data := os.pread(source_fd, _COPY_CHUNK, offset):
        written = 0
        while written < len(data):
            written += os.pwrite(target_fd, data[written:], offset + written)
        offset += len(data)


# --- locks ------------------------------------------------------------------------------------------------------


class Lock:
    """flock(2) on an open file or directory. The lock belongs to the descriptor and goes with it.

    Going from shared to exclusive is not atomic in the kernel, and a failed attempt loses the shared lock, so
    `exclusive` takes that back before it raises Busy.
    """

    __slots__ = ("_fd", "_held", "what")

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self.what = what
        self._held = fcntl.LOCK_UN

    def shared(self, wait: float = 0.0) -> None:
        """Take or go down to the shared lock, trying for `wait` seconds. Raises Busy."""
        self._take(fcntl.LOCK_SH, wait)

    def exclusive(self, wait: float = 0.0) -> None:
        """Take the lock for this holder alone, trying for `wait` seconds. Raises Busy."""
        self._take(fcntl.LOCK_EX, wait)

    def release(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._held = fcntl.LOCK_UN

    def _take(self, kind: int, wait: float) -> None:
        deadline = time.monotonic() + wait
        pause = 0.005
        while True:
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._held == fcntl.LOCK_SH:
                    fcntl.flock(self._fd, fcntl.LOCK_SH)
            except OSError as error:
                raise error_of(f"cannot lock {self.what}", error) from error
            else:
                self._held = kind
                return
            if time.monotonic() >= deadline:
                raise Busy(f"{self.what} is in use by another process")
            time.sleep(pause)
            pause = min(pause * 2, 0.1)


def is_read_only(fd: int) -> bool:
    """Whether the directory of `fd` cannot be written: mounted read-only, or no permission."""
    return bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY) or not os.access(f"/proc/self/fd/{fd}", os.W_OK)


def open_regular(name: str | bytes, dir_fd: int | None = None, *, follow: bool = False) -> int:
    """Open a regular file for reading. Raises OSError, or Unsupported when it is anything else; never blocks."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(name, flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unsupported(f"{os.fsdecode(name)} is no regular file")
    return fd


def read_own(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file that only we write. Raises OSError, and RecordError when something else is in its place:
    no regular file, or one of more than `limit` bytes."""
    try:
        fd = open_regular(os.fspath(path))
    except Unsupported as error:
        raise RecordError(f"{os.fspath(path)}: no regular file") from error
    with open(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise RecordError(f"{os.fspath(path)}: larger than {limit} bytes")
    return data
