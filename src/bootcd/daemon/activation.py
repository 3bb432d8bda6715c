# SPDX-License-Identifier: Apache-2.0
"""Sockets that systemd listens on for us (sd_listen_fds(3))."""

from __future__ import annotations

import logging
import socket

from systemd import daemon

log = logging.getLogger(__name__)


def activated(name: str) -> socket.socket | None:
    """The listening socket that was handed over under this name, if there is one; a stream socket of this machine. To
    be asked once: child processes do not hear of it, and others that were handed over are closed."""
    found: socket.socket | None = None
    for descriptor, named in daemon.listen_fds_with_names(True).items():
        try:
            given = socket.socket(fileno=descriptor)
        except OSError as error:  # something else than a socket
            log.warning("'%s' of systemd is of no use: %s", named, error)
            continue
        if named == name and found is None and (given.family, given.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
            found = given
        else:
            log.warning("the socket '%s' of systemd is of no use", named)
            given.close()
    return found
