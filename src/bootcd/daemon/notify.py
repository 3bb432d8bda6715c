# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told (sd_notify(3)). Without a service manager that listens, nothing happens."""

from __future__ import annotations

import logging
import os

from systemd import daemon

from .wire import line

log = logging.getLogger(__name__)

_MICROSECONDS = 1_000_000


def ready(status_text: str = "") -> None:
    """The names are owned and the first request can come."""
    _send("READY=1", *_status(status_text))


def stopping(status_text: str = "") -> None:
    """No new work is taken; the program is about to end."""
    _send("STOPPING=1", *_status(status_text))


def status(text: str) -> None:
    """One line for `systemctl status`; empty takes it away."""
    _send(f"STATUS={line(text)}")


def watchdog() -> None:
    """The daemon is alive; due in every `watchdog_interval`."""
    _send("WATCHDOG=1")


def extend_timeout(seconds: float) -> None:
    """Start or stop takes longer: the manager waits that much from now."""
    _send(f"EXTEND_TIMEOUT_USEC={round(seconds * _MICROSECONDS)}")


def watchdog_interval() -> float | None:
    """Seconds between two calls of `watchdog`, half of what the unit's WatchdogSec= grants; None where nobody waits for
    them."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        pid = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    # The variables are inherited: for another process they are not meant.
    return microseconds / _MICROSECONDS / 2 if microseconds > 0 and pid == os.getpid() else None


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={line(text)}",) if text else ()


def _send(*assignments: str) -> None:
    try:
        daemon.notify("\n".join(assignments))
    except OSError as error:  # the manager has gone or been replaced; it is not what we live from
        log.debug("cannot notify the service manager: %s", error)
