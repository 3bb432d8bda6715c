# SPDX-License-Identifier: Apache-2.0
"""Why a request got no answer, in words that hold neither an address with a query nor text of the server."""

from __future__ import annotations

import socket
import ssl

import requests
import urllib3


def cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first exception of a kind that led to `error`: requests wraps urllib3, which wraps the socket's."""
    todo: list[object] = [error]
    seen = 0
    while todo and seen < 32:
        current = todo.pop(0)
        seen += 1
        if isinstance(current, kind):
            return current
        if isinstance(current, BaseException):
            todo += [getattr(current, "reason", None), current.__cause__, current.__context__, *current.args]
    return None


def why(error: BaseException) -> str:
    """What went wrong."""
    if cause(error, socket.gaierror):
        return "the name of the host cannot be resolved"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not work"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "connecting took too long"
    if isinstance(error, requests.exceptions.ReadTimeout | urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return "no data for too long"
    tls = cause(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLError):
        return f"TLS failed: {tls.reason or 'broken off'}"
    # A plain OSError of the system, not one of requests' own, which are OSErrors as well but say no errno.
    system = cause(error, ConnectionError)
    if isinstance(system, OSError) and system.strerror:
        return system.strerror
    return "the connection broke off"


def advice(error: BaseException) -> str | None:
    """What to do about it; None for what is said of all that does not answer."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "Check the address of the proxy, and what it lets through; bootcd-registries(5)."
    if cause(error, socket.gaierror):
        return "Check the name of the host, and that this machine can ask a name server: 'getent hosts NAME'."
    return None
