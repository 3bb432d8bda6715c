# SPDX-License-Identifier: Apache-2.0
"""Entries in the journal that have an id and fields of their own; everything else goes through `logging`.

Where no journal listens, or systemd's module is not installed, they are logged as well.
"""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR

_SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {INFO: "6", WARNING: "4", ERROR: "3"}
"""As in sd-daemon(3)."""


def send(message_id: str, level: int, message: str, **fields: str) -> None:
    """Write an entry. `fields` become BOOTCD_ fields; empty ones are left out."""
    # The library is silent when nobody listens (sd_journal_send(3)): then the entry would be lost.
    if not os.path.exists(_SOCKET):
        log.log(level, "%s", message)
        return
    named = {f"BOOTCD_{name.upper()}": value for name, value in fields.items() if value}
    try:
        from systemd import journal  # slow to load, and only needed where something is to be said

        journal.send(message, MESSAGE_ID=message_id, PRIORITY=_PRIORITIES[level], SYSLOG_IDENTIFIER="bootcd", **named)
    except (ImportError, OSError, ValueError) as error:
        log.log(level, "%s", message)
        log.debug("cannot write to the journal: %s", error)
