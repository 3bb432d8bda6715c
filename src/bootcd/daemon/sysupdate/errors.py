# SPDX-License-Identifier: Apache-2.0
"""What clients of sysupdate understand when something goes wrong: a few D-Bus errors while a method is called, and a
number when a job is over."""

from __future__ import annotations

import errno
from functools import cache

from ... import errors
from ...errors import BootcdError
from ..dispatch import ERROR
from ..exports import BusError

NO_CANDIDATE = "org.freedesktop.sysupdate1.NoCandidate"

_ERRNOS: tuple[tuple[type[BootcdError], int], ...] = (
    (errors.Interrupted, errno.ECANCELED),
    (errors.Busy, errno.EBUSY),
    (errors.NoSpace, errno.ENOSPC),
    (errors.AuthenticationFailed, errno.EACCES),
    (errors.SourceUnreachable, errno.EHOSTUNREACH),
    (errors.Untrusted, errno.EKEYREJECTED),
    (errors.IntegrityError, errno.EBADMSG),
    (errors.NotFound, errno.ENOENT),
    (errors.BlobNotFound, errno.ENOENT),
    (errors.NotProven, errno.EAGAIN),
    (errors.ReadOnly, errno.EROFS),
    (errors.Refused, errno.EPERM),
    (errors.PermissionDenied, errno.EPERM),
)
"""The first class that fits decides. updatectl prints the text of the C library for the number."""


def no_candidate(message: str) -> BusError:
    """There is nothing newer; updatectl says that all is up to date."""
    return BusError(NO_CANDIDATE, message)


def invalid(message: str) -> BusError:
    return BusError(ERROR + "InvalidArgs", message)


def failed(message: str, advice: str = "") -> BusError:
    """Anything else; the text is shown to people, and the error that D-Bus defines carries just one."""
    message = message[:1].upper() + message[1:]
    return BusError(ERROR + "Failed", f"{message.rstrip('.')}. {advice}".rstrip())


def translated(error: BootcdError) -> BusError:
    """An error of ours, or of the bus, as clients expect it."""
    if isinstance(error, BusError):
        return error
    if isinstance(error, errors.Busy):
        return BusError(ERROR + "ObjectPathInUse", str(error))
    return failed(str(error), error.hint)


def status(name: str) -> int:
    """What JobRemoved says of a job that failed with the D-Bus error `name`: minus an errno where one fits, else the
    exit status that bootcctl has for it."""
    found = _by_name().get(name, BootcdError)
    return next((-number for kind, number in _ERRNOS if issubclass(found, kind)), found.exit_status)


@cache
def _by_name() -> dict[str, type[BootcdError]]:
    return {found.bus_name(): found for found in errors.all_errors()}
