# SPDX-License-Identifier: Apache-2.0
"""Kernel arguments that the owner of a machine asks for in files: `/etc/bootcd/kargs.d/*.toml`.

They are written as those of an image (`boot.kargs`), and read from /etc of the deployment that is to have them, once
that is merged. So what an image has there reaches the machine, too, and follows the rules for /etc.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..boot.kargs import MAX_KARGS_FILE, parse_kargs_file, reserved
from ..errors import ConfigError, Unsupported
from ..linux import files

PLACE = ("bootcd", "kargs.d")
"""Directories below /etc."""
SHOWN = "/etc/bootcd/kargs.d"
ADVICE = "Correct or remove it; bootcctl(8) says how kernel arguments are written there."


def read_local_kargs(etc: Path) -> tuple[str, ...]:
    """The arguments in the order of the files' names; `etc` is /etc of a deployment. None where there is no directory.

    Raises ConfigError for what cannot be understood: leaving out what a machine needs to boot would be worse.
    """
    arguments: list[str] = []
    for name, data in _read_files(etc):
        where = _shown(name)
        try:
            found = parse_kargs_file(data, platform.machine(), where)
        except ConfigError as error:
            raise ConfigError(str(error), advice=ADVICE) from error
        for argument in found:
            why = reserved(argument)
            if why is not None:
                raise ConfigError(f"{where}: '{argument}' cannot be asked for there: {why}", advice=ADVICE)
        arguments += found
    return tuple(arguments)


def _read_files(etc: Path) -> list[tuple[str, bytes]]:
    """Names and contents. No symbolic link is followed: in another root it would lead somewhere else."""
    found = []
    with ExitStack() as stack:
        try:
            with _told(SHOWN, "directory"):
                directory = _open(stack, os.fspath(etc), None)
                for part in PLACE:
                    directory = _open(stack, part, directory)
        except FileNotFoundError:
            return []
        for name in sorted(name for name in os.listdir(directory) if name.endswith(".toml")):
            with (suppress(FileNotFoundError), _told(_shown(name), "regular file"),
                  open(files.open_regular(name, directory), "rb") as file):
                found.append((name, file.read(MAX_KARGS_FILE + 1)))
    return found


def _open(stack: ExitStack, name: str, directory: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _told(where: str, kind: str) -> Iterator[None]:
    """Raise ConfigError for what is not of that kind, and what else there is with its place; FileNotFoundError stays
    what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, Unsupported) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise files.error_of(f"cannot read {where}", error) from error
        raise ConfigError(f"{where} is no {kind}", advice=ADVICE) from error


def _shown(name: str) -> str:
    return f"{SHOWN}/{os.fsencode(name).decode(errors='backslashreplace')}"
