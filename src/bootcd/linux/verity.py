# SPDX-License-Identifier: Apache-2.0
"""fs-verity through the kernel: enable it on a file, ask for its digest, find out whether it is there at all.

Source: linux/fsverity.h and Documentation/filesystems/fsverity.rst. Blocks are always 4096 bytes, without salt and
signature, since that is what composefs defines a digest to be. This module holds no policy: who retries and who
tolerates what is decided in `store.objects`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Protocol

from ..errors import Busy, IntegrityError, Unsupported
from . import files

FS_IOC_ENABLE_VERITY = 0x40806685
FS_IOC_MEASURE_VERITY = 0xC0046686
BLOCK_SIZE = 4096

_ENABLE = struct.Struct("<IIIIQIIQ88x")
_MEASURE = struct.Struct("<HH")
_MAX_DIGEST = 64
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOTTY}


class HashAlgorithm(Protocol):
    """What this module needs to know of `formats.fsverity.Algorithm`."""

    @property
    def label(self) -> str: ...

    @property
    def kernel_id(self) -> int: ...

    @property
    def digest_size(self) -> int: ...


class FileBusy(Busy):
    """Somebody, perhaps a child that forked elsewhere, has the file open for writing (ETXTBSY)."""


def enable(fd: int, algorithm: HashAlgorithm) -> None:
    """Make the file of `fd` (open for reading only) immutable and measured. Enabled already is success.

    Raises Unsupported when the kernel or file system has no fs-verity, FileBusy when somebody can still write.
    """
    argument = _ENABLE.pack(1, algorithm.kernel_id, BLOCK_SIZE, 0, 0, 0, 0, 0)
    try:
        fcntl.ioctl(fd, FS_IOC_ENABLE_VERITY, argument)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return
        if error.errno in _UNSUPPORTED:
            raise Unsupported("the file system does not support fs-verity",
                              advice="ext4 and f2fs need the feature 'verity', btrfs has it.") from error
        if error.errno in (errno.EINVAL, errno.ENOPKG):  # nothing else of what is asked for varies
            raise Unsupported(
                f"no fs-verity with {algorithm.label} and blocks of {BLOCK_SIZE} bytes here",
                advice=f"The kernel needs the hash, the file system blocks of {BLOCK_SIZE} bytes (mkfs.ext4 -b)."
            ) from error
        if error.errno == errno.ETXTBSY:
            raise FileBusy("cannot enable fs-verity: the file is open for writing") from error
        if error.errno == errno.EKEYREJECTED:
            raise Unsupported("cannot enable fs-verity: the kernel demands signatures (fs.verity.require_signatures)"
                              ) from error
        raise files.error_of("cannot enable fs-verity", error) from error


def measure(fd: int, algorithm: HashAlgorithm) -> bytes | None:
    """The digest that the kernel enforces for the file, or None when the file has no fs-verity.

    Raises IntegrityError when the file was measured with another algorithm.
    """
    argument = bytearray(_MEASURE.pack(algorithm.kernel_id, _MAX_DIGEST) + bytes(_MAX_DIGEST))
    try:
        fcntl.ioctl(fd, FS_IOC_MEASURE_VERITY, argument, True)
    except OSError as error:
        if error.errno == errno.ENODATA or error.errno in _UNSUPPORTED:
            return None
        raise files.error_of("cannot read the fs-verity digest", error) from error
    kernel_id, size = _MEASURE.unpack_from(argument)
    if kernel_id != algorithm.kernel_id or size != algorithm.digest_size:
        raise IntegrityError(f"the file has an fs-verity digest of another algorithm (id {kernel_id}, {size} bytes)")
    return bytes(argument[_MEASURE.size : _MEASURE.size + size])


def supported(dirfd: int, algorithm: HashAlgorithm) -> bool:
    """Whether files in this directory can have fs-verity; tried out with a file that never gets a name."""
    with files.tmpfile(dirfd) as temporary:
        os.write(temporary.fd, b"fs-verity?")
        temporary.reopen_read_only()
        try:
            enable(temporary.fd, algorithm)
        except (Unsupported, FileBusy):
            return False
        return measure(temporary.fd, algorithm) is not None
