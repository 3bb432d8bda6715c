# SPDX-License-Identifier: Apache-2.0
"""Mounts through the kernel's file descriptor API (fsopen(2) and its family, Linux 5.2).

`composefs_mount` stacks overlayfs with a data-only lower layer (the objects) on the EROFS image, and returns a
*detached* mount: nothing appears in any mount table until `attach`. Sources: Documentation/filesystems/overlayfs.rst
("Data-only lower layers", "fs-verity support"), spec 1.10.

What the kernel must have, and what is done without it:

* EROFS on plain files (6.12), else a loop device that frees itself;
* detached mounts as layers of overlayfs (6.15), else text through /proc/self/fd, for which the EROFS is attached to a
  private directory for a moment;
* data-only layers (6.5) and `verity=require` (6.6): nothing replaces them, so Unsupported is raised.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import BootcdError, Unsupported
from .files import error_of

# System calls added since 5.2 have the same number on every architecture (alpha aside).
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
AT_FDCWD = -100
MOUNT_ATTR_RDONLY = 0x01
MNT_DETACH = 2

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_READ_ONLY = 1
LO_FLAGS_AUTOCLEAR = 4
LO_FLAGS_DIRECT_IO = 16
_LOOP_CONFIG = struct.Struct("<II 5Q 4I 64s64s32s 2Q 8Q")
_LOOP_ATTEMPTS = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(what: str, number: int, *arguments: int | bytes | None) -> int:
    """A system call; raises OSError with `what` as its file name."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *converted))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


class FsContext:
    """A file system being configured. A context manager; the kernel's own words go into the errors."""

    def __init__(self, fstype: str) -> None:
        self.fstype = fstype
        try:
            self.fd = _call("fsopen", SYS_FSOPEN, fstype.encode(), FSOPEN_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise Unsupported(f"the kernel has no file system '{fstype}'",
                                  advice=f"Load the module '{fstype}' or use a kernel that has it.") from error
            if error.errno == errno.ENOSYS:
                raise Unsupported("the kernel has no fsopen system call (Linux 5.2)") from error
            raise error_of(f"cannot mount {fstype}", error) from error

    def flag(self, name: str) -> None:
        self._configure(name, FSCONFIG_SET_FLAG, name.encode(), None, 0)

    def string(self, name: str, value: str) -> None:
        self._configure(f"{name}={value}", FSCONFIG_SET_STRING, name.encode(), os.fsencode(value), 0)

    def descriptor(self, name: str, fd: int) -> None:
        self._configure(name, FSCONFIG_SET_FD, name.encode(), None, fd)

    def create(self) -> None:
        self._configure("", FSCONFIG_CMD_CREATE, None, None, 0)

    def mount(self, attributes: int = 0) -> int:
        """The detached mount's descriptor."""
        try:
            return _call("fsmount", SYS_FSMOUNT, self.fd, FSMOUNT_CLOEXEC, attributes)
        except OSError as error:
            raise self._error("cannot mount", error) from error

    def _configure(self, what: str, command: int, key: bytes | None, value: bytes | None, aux: int) -> None:
        try:
            _call("fsconfig", SYS_FSCONFIG, self.fd, command, key, value, aux)
        except OSError as error:
            raise self._error(f"option '{what}' refused" if what else "cannot mount", error) from error

    def _error(self, what: str, error: OSError) -> BootcdError:
        said = self.messages()
        return error_of(f"{self.fstype}: {what}{' (' + '; '.join(said) + ')' if said else ''}", error)

    def messages(self) -> list[str]:
        """What the kernel said about this context since the last call."""
        lines = []
        with contextlib.suppress(OSError):
            while text := os.read(self.fd, 8192):
                lines.append(text.decode("utf-8", "replace").strip().partition(" ")[2])
        return lines

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> FsContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _errno(error: BootcdError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


def mount_erofs(image_fd: int, *, loop: bool = False) -> int:
    """A detached read-only mount of an EROFS image file; `loop` insists on a loop device. Raises BootcdError."""
    if not loop:
        try:
            return _mount_erofs(f"/proc/self/fd/{image_fd}")
        except BootcdError as error:
            if _errno(error) != errno.ENOTBLK:
                raise
    fd, device = loop_device(image_fd)
    try:
        return _mount_erofs(device)
    finally:
        os.close(fd)  # the mount keeps the device, and its end frees it


def _mount_erofs(source: str) -> int:
    with FsContext("erofs") as context:
        context.flag("ro")
        context.string("source", source)
        context.create()
        return context.mount()


def loop_device(
    fd: int, *, writable: bool = False, offset: int = 0, size: int = 0, sector: int = 4096
) -> tuple[int, str]:
    """Attach a file, or `size` bytes of it from `offset` on, to a free loop device that goes when its last user does,
    however that ends. Returns (descriptor, path)."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unsupported("the kernel has no loop devices") from error
    except OSError as error:
        raise error_of("cannot use /dev/loop-control", error) from error
    last: OSError | None = None
    try:
        for _ in range(_LOOP_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            for direct in (LO_FLAGS_DIRECT_IO, 0):  # tmpfs and some disks have no direct I/O
                zeros = (0,) * 8
                flags = direct | LO_FLAGS_AUTOCLEAR | (0 if writable else LO_FLAGS_READ_ONLY)
                config = _LOOP_CONFIG.pack(fd, sector, 0, 0, 0, offset, size, 0, 0, 0, flags, b"", b"", b"", 0, 0,
                                           *zeros)
                try:
                    fcntl.ioctl(device, LOOP_CONFIGURE, config)
                except OSError as error:
                    last = error
                    if error.errno == errno.EBUSY:  # somebody was faster: next free one
                        break
                else:
                    return device, path
            os.close(device)
            if last is not None and last.errno != errno.EBUSY:
                break
    except OSError as error:
        last = error
    finally:
        os.close(control)
    assert last is not None
    raise error_of("cannot set up a loop device", last) from last


def composefs_mount(
    image_fd: int, objects_fd: int, name: str, *, require_verity: bool, upper_fd: int | None = None,
    work_fd: int | None = None, loop: bool = False, by_text: bool = False,
) -> int:
    """Mount a composefs image and return the detached mount's descriptor.

    `name` is shown as the source in mount tables. With `require_verity` the kernel refuses to open a file whose object
    does not have the fs-verity digest that the image names. With `upper_fd` and `work_fd` the mount is writable.
    `loop` and `by_text` insist on the ways for older kernels. Raises Unsupported, or BootcdError with the words of the
    kernel.
    """
    if (upper_fd is None) != (work_fd is None):
        raise BootcdError("an upper directory needs a work directory and the other way round")
    erofs_fd = mount_erofs(image_fd, loop=loop)
    try:
        if not by_text:
            try:
                return _overlay(erofs_fd, objects_fd, name, require_verity, upper_fd, work_fd, by_text=False)
            except BootcdError as error:
                if _errno(error) not in (errno.EINVAL, errno.EBADF):
                    raise
                by_descriptor = error
        else:
            by_descriptor = None
        try:
            # Before 6.15 a layer must be a path of a mount namespace.
            with tempfile.TemporaryDirectory(prefix=".composefs.") as directory:
                attach(erofs_fd, directory)
                try:
                    return _overlay(erofs_fd, objects_fd, name, require_verity, upper_fd, work_fd, by_text=True)
                finally:
                    umount(directory)
        except BootcdError as error:
            raise by_descriptor or error from error
    finally:
        os.close(erofs_fd)


def _overlay(
    erofs_fd: int, objects_fd: int, name: str, require_verity: bool, upper_fd: int | None, work_fd: int | None, *,
    by_text: bool,
) -> int:
    with FsContext("overlay") as context:
        context.string("source", f"composefs:{name}")
        context.string("metacopy", "on")
        context.string("redirect_dir", "on")
        if require_verity:
            try:
                context.string("verity", "require")
            except BootcdError as error:
                if _errno(error) == errno.EINVAL:
                    raise Unsupported("overlayfs of this kernel does not know verity=require (Linux 6.6)") from error
                raise
        if by_text:
            context.string("lowerdir", f"/proc/self/fd/{erofs_fd}::/proc/self/fd/{objects_fd}")
            if upper_fd is not None:
                context.string("upperdir", f"/proc/self/fd/{upper_fd}")
                context.string("workdir", f"/proc/self/fd/{work_fd}")
        else:
            context.descriptor("lowerdir+", erofs_fd)
            context.descriptor("datadir+", objects_fd)
            if upper_fd is not None and work_fd is not None:
                context.descriptor("upperdir", upper_fd)
                context.descriptor("workdir", work_fd)
        context.create()
        return context.mount(0 if upper_fd is not None else MOUNT_ATTR_RDONLY)


def mount_device(fstype: str, device: str, path: str | os.PathLike[str], **options: str) -> None:
    """Mount the file system on a block device at a directory. Raises Unsupported, or BootcdError with the words of the
    kernel."""
    with FsContext(fstype) as context:
        context.string("source", device)
        for name, value in options.items():
            context.string(name, value)
        context.create()
        mount_fd = context.mount()
    try:
        attach(mount_fd, path)
    finally:
        os.close(mount_fd)


@contextlib.contextmanager
def mounted(fstype: str, device: str, name: str, **options: str) -> Iterator[Path]:
    """A new directory where a block device is mounted, writable. It is flushed and unmounted afterwards.

    Only for a process with mounts of its own (process.private_mounts): however that ends, nothing stays mounted.
    """
    path = tempfile.mkdtemp(prefix=f"bootcd-{name}.")
    try:
        mount_device(fstype, device, path, **options)
        try:
            yield Path(path)
            umount(path, lazy=False)
        except BaseException:
            with contextlib.suppress(BootcdError):
                umount(path)
            raise
    finally:
        os.rmdir(path)


def attach(mount_fd: int, path: str | os.PathLike[str]) -> None:
    """Put a detached mount at a directory. Symlinks at the end of `path` are not followed."""
    try:
        _call("move_mount", SYS_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, os.fsencode(path), MOVE_MOUNT_F_EMPTY_PATH)
    except OSError as error:
        raise error_of(f"cannot mount at {os.fspath(path)}", error) from error


def umount(path: str | os.PathLike[str], *, lazy: bool = True) -> None:
    """Unmount; lazily unless told otherwise."""
    if _libc.umount2(ctypes.c_char_p(os.fsencode(path)), MNT_DETACH if lazy else 0) != 0:
        code = ctypes.get_errno()
        raise error_of(f"cannot unmount {os.fspath(path)}", OSError(code, os.strerror(code)))
