# SPDX-License-Identifier: Apache-2.0
"""`bootcd`: the program. Puts the parts together, and ends with the bus, with a signal, or with a lost name."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__, config
from ..config import Config
from ..errors import BootcdError, ConfigError
from ..linux.files import leave_fail_points
from ..ops.news import Notice
from ..ops.results import Status
from . import chronicle, events, notify
from .activation import activated
from .bus import Bus
from .exports import BusError, Call
from .interfaces import NAME
from .jobs import Job, Jobs, Settings
from .logcontrol import PATH as LOG_CONTROL
from .logcontrol import TARGETS, LogControl
from .manager import Manager
from .news import News
from .notices import Notices
from .polkit import Authority
from .sysupdate.freshness import Freshness
from .sysupdate.service import Service as Sysupdate
from .varlink.server import Server as Varlink
from .varlink.sysupdate import SysUpdate
from .worker import Outcome

log = logging.getLogger(__name__)

START_PATIENCE = 5.0
"""Seconds that the first reading of the status has before the daemon offers its services without."""
VARLINK = "varlink"
"""What bootcd-varlink.socket calls its socket."""
STOP_TIMEOUT = 60.0
"""Seconds that jobs have to end when the daemon is stopped; the unit's TimeoutStopSec= is longer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; the exit status."""
    options = _parser().parse_args(arguments)
    _start_logging(options.debug)
    leave_fail_points()
    try:
        return asyncio.run(Daemon(options.sysroot, options.esp, options.config).run())
    except BootcdError as error:
        log.error("%s%s", error, f" {error.hint}" if error.hint else "")
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bootcd", allow_abbrev=False, epilog="All details: man bootcd.", description=(
        "Offer updates of this machine on the system bus. Started by systemd; bootcctl and others are its clients."))
    parser.add_argument("--version", action="version", version=f"bootcd {__version__}")
    parser.add_argument("--sysroot", metavar="DIR", default="/sysroot",
                        help="physical root of the installation (default: %(default)s)")
    parser.add_argument("--esp", metavar="DIR", help="where its EFI system partition is mounted (default: looked for)")
    parser.add_argument("--config", metavar="FILE", help="read this file and no other bootcd.toml")
    parser.add_argument("--debug", action="store_true", help="log what is done")
    return parser


def _start_logging(debug: bool) -> None:
    handler = TARGETS["journal" if "JOURNAL_STREAM" in os.environ else "console"]()
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], format="%(message)s")


class Daemon:
    """The parts, and how long they live."""

    def __init__(self, sysroot: str, esp: str | None, config_file: str | None) -> None:
        self._sysroot = sysroot
        self._esp = esp
        self._config_file = config_file
        self._config = self._load()
        self._notices = Notices()

    async def run(self) -> int:
        """Serve until the end; the exit status."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopped = loop.create_task(stop.wait())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_or_complain)
        listening = activated(VARLINK)  # before any child process could inherit it
        bus = await Bus.connect(None, self._authorize)
        self._authority = Authority(bus, self._owner)
        self._news = News(self._sysroot, self._tell)
        self._manager = Manager(bus, self._jobs_of(bus), self.settings, self.reload, self._noticed)
        freshness = Freshness(self._manager.jobs, self._status)
        self._sysupdate = Sysupdate(self._manager.jobs, self._status, lambda: self._config, freshness)
        varlink = Varlink([SysUpdate(self._status, freshness).interface] if self._config.sysupdate_enabled else [])
        bus.export(LOG_CONTROL, LogControl().exported)
        try:
            # A disk that does not answer shall not keep the daemon from saying so, nor from ending when told to.
            await asyncio.wait((self._manager.state.refresh(), stopped), timeout=START_PATIENCE,
                               return_when=asyncio.FIRST_COMPLETED)
            await bus.own(NAME)
            if self._config.sysupdate_enabled:
                await self._sysupdate.start()
            if listening is not None:
                await varlink.start(listening)
            notify.ready("Idle")
            events.daemon_started(__version__, self._sysroot)
            return await self._until_the_end(bus, stopped)
        finally:
            self._manager.unattended.close()
            self._manager.state.close()
            self._news.close()
            varlink.close()
            self._sysupdate.close()
            bus.close()

    def settings(self) -> Settings:
        return Settings(self._sysroot, self._esp, self._config)

    def reload(self) -> None:
        """Read the configuration again. Raises ConfigError, and keeps the old one then."""
        self._config = self._load()
        log.info("The configuration was read again.")

    def _load(self) -> Config:
        return config.load_named(self._config_file, log.warning)

    def _reload_or_complain(self) -> None:
        try:
            self.reload()
        except ConfigError as error:
            log.error("The configuration stays as it was: %s", error)

    async def _until_the_end(self, bus: Bus, stopped: asyncio.Task[Any]) -> int:
        loop = asyncio.get_running_loop()
        lost, alive = loop.create_task(bus.lost()), loop.create_task(_stay_alive(bus))
        try:
            await asyncio.wait((lost, stopped, alive), return_when=asyncio.FIRST_COMPLETED)
            if not stopped.done():
                log.error("%s", lost.result() if lost.done() else "the bus does not answer any more")
            notify.stopping("Waiting for the running jobs")
            notify.extend_timeout(STOP_TIMEOUT + 10)
            await asyncio.wait((loop.create_task(self._manager.jobs.stop()),), timeout=STOP_TIMEOUT)
            return 0 if stopped.done() else BootcdError.exit_status
        finally:
            for task in (lost, stopped, alive):
                task.cancel()

    # --- what the parts ask of each other -------------------------------------------------------------------------

    async def _authorize(self, call: Call, action: str) -> None:
        await self._authority.authorize(call, action)

    def _owner(self, path: str) -> int | None:
        """The user who started the job at an object path."""
        job = self._manager.jobs.get(path)
        return job.starter.uid if job is not None else None

    def _status(self) -> Status:
        return self._manager.state.status

    def _noticed(self, status: Status) -> None:
        self._notices.show(status)
        self._news.show(status)
        self._sysupdate.noticed(status)

    def _tell(self, notice: Notice, status: Status) -> None:
        chronicle.news(notice, status)
        self._manager.tell(notice)

    def _jobs_of(self, bus: Bus) -> Callable[[Manager], Jobs]:
        def make(manager: Manager) -> Jobs:
            def started(job: Job) -> None:
                notify.status(f"Running {job.verb.kind}")
                chronicle.started(job)
                manager.job_started(job)

            async def ended(job: Job, outcome: Outcome) -> None:
                chronicle.ended(job)
                await manager.job_ended(job, outcome)
                notify.status("Idle" if manager.jobs.active is None else f"Running {manager.jobs.active.verb.kind}")

            return Jobs(bus, self.settings, manager.jobs_changed, started, ended)

        return make


async def _stay_alive(bus: Bus) -> None:
    """Feed the watchdog for as long as the bus answers, which takes the whole way through this program. Returns when it
    does not."""
    interval = notify.watchdog_interval()
    if interval is None:
        await asyncio.Event().wait()
    assert interval is not None
    while True:
        try:
            # Not Peer.Ping: the policy of the system bus does not let anybody send that to the bus itself.
            await bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId",
                           timeout=interval / 2)
        except BusError as error:
            if error.silent:
                return
        notify.watchdog()
        await asyncio.sleep(interval / 2)


if __name__ == "__main__":
    sys.exit(main())
