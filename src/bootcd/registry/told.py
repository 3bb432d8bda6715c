# SPDX-License-Identifier: Apache-2.0
"""What an observer (module `observe`) is told, as it crosses over from the process that fetches. There is no secret in
it: of credentials the origin and the user name, of a proxy where it is.

    {"exchange": {method, scheme, host, path, proxy, authorization, status, problem, peer, trusted}}
    {"name": HOST/REPOSITORY, "lookup": {found, files, helper, variable}}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import BootcdError
from ..model import ImageReference
from .credentials import Credentials, Lookup
from .observe import Exchange, Observer
from .peer import Peer
from .proxies import Proxy

_MAX_TEXT = 1000
_EXCHANGE = ("method", "scheme", "host", "path", "authorization", "problem")


class Sender:
    """An observer that hands everything on, as bytes."""

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send

    def exchanged(self, exchange: Exchange) -> None:
        peer = exchange.peer
        proxy = {"why": exchange.proxy.why, "place": exchange.proxy.place, "variable": exchange.proxy.variable}
        self._say({"exchange": {
            **{name: getattr(exchange, name) for name in _EXCHANGE}, "status": exchange.status,
            "trusted": exchange.trusted, "proxy": proxy, "peer": None if peer is None else {
                "subject": peer.subject, "issuer": peer.issuer, "begins": peer.begins.isoformat(),
                "ends": peer.ends.isoformat(), "itself": peer.itself}}})

    def looked(self, name: str, lookup: Lookup) -> None:
        found = lookup.found
        self._say({"name": name, "lookup": {
            "files": [[str(path), outcome] for path, outcome in lookup.files], "helper": lookup.helper,
            "variable": lookup.variable, "found": None if found is None else {
                "origin": found.origin, "username": found.username, "entry": found.entry}}})

    def passed_over(self, place: ImageReference, error: BootcdError) -> None:
        """The other process asks one place, whoever asked it chooses which."""

    def _say(self, document: dict[str, Any]) -> None:
        self._send(json.dumps(document).encode())


def deliver(content: bytes, observer: Observer) -> None:
    """Tell an observer what crossed over. Raises ValueError for what makes no sense."""
    try:
        document = json.loads(content)
        if "exchange" in document:
            observer.exchanged(_exchange(document["exchange"]))
        else:
            observer.looked(_text(document["name"]), _lookup(document["lookup"]))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("what it tells makes no sense") from error


def _exchange(document: dict[str, Any]) -> Exchange:
    proxy, peer = document["proxy"], document["peer"]
    return Exchange(
        **{name: _text(document[name]) for name in _EXCHANGE}, status=int(document["status"]),
        trusted=document["trusted"] is True,
        proxy=Proxy(_text(proxy["why"]), _text(proxy["place"]), _text(proxy["variable"])),
        peer=None if peer is None else Peer(
            _text(peer["subject"]), _text(peer["issuer"]), _time(peer["begins"]), _time(peer["ends"]),
            peer["itself"] is True))


def _lookup(document: dict[str, Any]) -> Lookup:
    found = document["found"]
    return Lookup(
        None if found is None else Credentials(_text(found["origin"]), _text(found["username"]), "",
                                               entry=_text(found["entry"])),
        tuple((Path(_text(path)), _text(outcome)) for path, outcome in document["files"]), _text(document["helper"]),
        _text(document["variable"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:_MAX_TEXT]


def _time(value: object) -> datetime:
    read = datetime.fromisoformat(_text(value))
    if read.tzinfo is None:
        raise TypeError
    return read
