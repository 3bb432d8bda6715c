# SPDX-License-Identifier: Apache-2.0
"""Who does what is asked: the daemon, or this process itself.

This process does where an option says which installation is meant, and where there is no daemon: in a rescue shell, in
the build of an image, while the machine shuts down.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import Unsupported, UsageError
from ..model import Progress
from ..ops.direct import DirectHost
from ..ops.host import Host
from .progress import watching
from .text import printable

if TYPE_CHECKING:
    from .bushost import BusHost
    from .client import Connection

SYSROOT = "/sysroot"
MOUNTING = ("image_commands:mount",)
"""What others shall see, and therefore must not happen in a mount namespace of this process."""
_BUS = "unix:path=/run/dbus/system_bus_socket"


@contextmanager
def host(options: Namespace, *, direct: bool = False) -> Iterator[Host]:
    """The machine that the options are about; with `direct`, the daemon is not asked."""
    with watching(options.quiet) as progress:
        def this_process() -> DirectHost:
            return _this_process(options, progress)

        daemon = None if direct or _is_told(options) else _daemon(options, progress, this_process)
        if daemon is not None:
            with daemon:
                yield daemon
            return
        if getattr(options, "background", False):
            from ..linux.process import lower_priority

            lower_priority(os.getpid())
        yield this_process()


def the_daemon(machine: Host, why: str, advice: str) -> BusHost:
    """The machine, when the daemon serves it. Raises Unsupported, which says `why` it has to."""
    from .bushost import BusHost  # is there by now, if it is wanted

    if not isinstance(machine, BusHost):
        raise Unsupported(f"there is no daemon, and {why}", advice=advice)
    return machine


@contextmanager
def connection(options: Namespace) -> Iterator[Connection]:
    """The bus, for a verb that is about the daemon itself. Raises UsageError, Unsupported."""
    if _is_told(options):
        raise UsageError("this verb is about the daemon, which works on /sysroot",
                         advice="Leave --sysroot, --esp and --config out.")
    address = _address()
    if address is not None:
        from .client import Connection, Unreachable

        try:
            with Connection(address) as bus:
                yield bus
        except Unreachable as error:
            raise Unsupported(f"there is no daemon to ask: {error.message}") from error
        return
    raise Unsupported("there is no daemon to ask: no system bus runs")


def _is_told(options: Namespace) -> bool:
    return any(value is not None for value in (options.sysroot, options.esp, options.config))


def _this_process(options: Namespace, progress: Progress) -> DirectHost:
    settings = config.load_named(
        options.config, lambda warning: print(f"bootcctl: {printable(warning)}", file=sys.stderr))
    esp = Path(options.esp) if options.esp else None
    sysroot = SYSROOT if options.sysroot is None else options.sysroot
    if sysroot == SYSROOT and options.command not in MOUNTING:
        _make_writable(sysroot, *settings.boot_mirrors)
    return DirectHost(Path(sysroot), esp, settings, progress, unattended=getattr(options, "background", False))


def _make_writable(*paths: str) -> None:
    """For this process alone, where everybody else has them read-only: as bootcd-setup-root mounts the sysroot, and the
    sandbox of a unit what it does not know."""
    for path in paths:
        with contextlib.suppress(OSError):
            if os.statvfs(path).f_flag & os.ST_RDONLY:
                from ..linux import process

                if process.private_mounts():
                    process.make_all_writable(paths)
                return


def _daemon(options: Namespace, progress: Progress, here: Callable[[], Host]) -> BusHost | None:
    address = _address()
    if address is None:
        return None
    from .bushost import BusHost
    from .client import Unreachable

    try:
        machine = BusHost(address, progress, here, interactive=sys.stdin.isatty() and sys.stderr.isatty(),
                          background=getattr(options, "background", False))
    except Unreachable:
        return None
    if machine.present():
        return machine
    machine.close()
    return None


def _address() -> str | None:
    """Where the system bus is; None when it certainly is not there."""
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _BUS
    if address != _BUS:
        return address
    try:  # sooner than importing what is needed to find out
        return address if stat.S_ISSOCK(os.stat(_BUS.partition("=")[2]).st_mode) else None
    except OSError:
        return None
