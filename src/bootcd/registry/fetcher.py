# SPDX-License-Identifier: Apache-2.0
"""The program that talks to the network for a privileged process: `python -m bootcd.registry.fetcher DESCRIPTOR`.

What servers say is read here, TLS and HTTP and all, by a process that can do nothing else: it has read credentials and
certificates, then given up its user, its capabilities and most of what the kernel offers (linux/privileges.py), and
only then opens a connection. What it hands on is as unverified as what it got; whoever asked checks size and digest.

The socket whose descriptor is named belongs to whoever asked (`separate`); with its end, this process ends.

    first packet   {"places": [{"reference": TEXT, "options": OPTIONS}, …]}, or {"store": HOST, "options": OPTIONS}
    answer         {"ready": [what could not be given up, …]}, or {"error": …} as in `frames`
    requests       {"document": NAME, "size": BYTES or null, "place": NUMBER}
                   {"referrers": DIGEST, "type": TEXT, "place": NUMBER}
                   {"blob": DIGEST, "size": BYTES, "offset": BYTES, "length": BYTES or null for all, "place": NUMBER}
                   {"file": URL, "limit": BYTES}                      in the store
                   {"post": URL, "headers": {NAME: TEXT, …}, "body": TEXT, "limit": BYTES}      to its host
"""

from __future__ import annotations

import contextlib
import encodings.idna
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import BootcdError, Unsupported
from ..formats.oci import Descriptor
from ..linux import privileges
from ..model import ImageReference
from . import frames
from .client import RegistrySource
from .http import Http
from .sources import SourceOptions, TransientFailure

PRELOADED = (encodings.idna,)
"""Loaded when a name is resolved for the first time, from a directory that this user need not be able to read."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; whoever asked closes the socket then
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        request = json.loads(control.recv(frames.MAX_REQUEST))
        server = _Server(request)
        kept = privileges.drop()
    except BootcdError as error:
        control.send(json.dumps({"error": error_document(error)}).encode())
        return
    except OSError as error:
        control.send(json.dumps({"error": error_document(
            Unsupported(f"the process that fetches cannot give up its rights: {error}"))}).encode())
        return
    control.send(json.dumps({"ready": kept}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, frames.MAX_REQUEST, 1)
        if not message:
            os._exit(0)  # threads that still wait for a server need not be waited for
        connection = socket.socket(fileno=descriptors[0])
        threading.Thread(target=server.answer, args=(json.loads(message), connection), daemon=True).start()


class _Server:
    """Answers requests. Made while everything may be read, it needs no file afterwards."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._places = []
        self._store: Http | None = None
        self._answering = threading.local()
        if "store" in request:
            self._store = Http(request["store"], self._options(request["options"]))
        for place in request.get("places", ()):
            source = RegistrySource(ImageReference.parse(place["reference"]), self._options(place["options"]))
            source.prepare()
            self._places.append(source)

    def answer(self, request: dict[str, Any], connection: socket.socket) -> None:
        """Ends when the other side closes its end."""
        self._answering.connection = connection
        with connection, contextlib.suppress(OSError):
            try:
                self._handler(request)(request, connection)
            except TransientFailure as failure:
                frames.send(connection, frames.ERROR, json.dumps(
                    {**error_document(failure.error), "transient": True, "after": failure.retry_after,
                     "stalled": failure.stalled}).encode())
            except BootcdError as error:
                frames.send(connection, frames.ERROR, json.dumps(error_document(error)).encode())

    def _options(self, document: dict[str, Any]) -> SourceOptions:
        if not document.pop("observed"):
            return _options(document)
        from .told import Sender

        return replace(_options(document), observer=Sender(self._tell))

    def _tell(self, content: bytes) -> None:
        """To whoever waits for the answer on which this thread works."""
        frames.send(self._answering.connection, frames.TOLD, content)

    def _handler(self, request: dict[str, Any]) -> Callable[[dict[str, Any], socket.socket], None]:
        kinds = {"document": self._document, "blob": self._blob, "referrers": self._referrers,
                 "post": self._post}
        return next((handler for kind, handler in kinds.items() if kind in request), self._file)

    def _document(self, request: dict[str, Any], connection: socket.socket) -> None:
        data, declared = self._places[request["place"]].document(request["document"], request["size"])
        _send(connection, {"type": declared}, data)

    def _referrers(self, request: dict[str, Any], connection: socket.socket) -> None:
        pages = self._places[request["place"]].listing(request["referrers"], request["type"])
        _send(connection, {"sizes": [len(page) for page in pages]}, b"".join(pages))

    def _blob(self, request: dict[str, Any], connection: socket.socket) -> None:
        descriptor = Descriptor("", request["blob"], request["size"])
        place, offset, length = self._places[request["place"]], request["offset"], request["length"]
        stream = place.blob(descriptor, offset) if length is None else place.part(descriptor, offset, length)
        try:
            frames.send(connection, frames.BEGIN, b"{}")
            for piece in stream:
                frames.send(connection, frames.DATA, piece)
            frames.send(connection, frames.END)
        finally:
            stream.close()

    def _file(self, request: dict[str, Any], connection: socket.socket) -> None:
        assert self._store is not None
        status, data = self._store.file(request["file"], request["limit"])
        _send(connection, {"status": status}, data)

    def _post(self, request: dict[str, Any], connection: socket.socket) -> None:
        assert self._store is not None
        url = request["post"]
        status, data = self._store.post(url, url, request["headers"], request["body"].encode(), request["limit"])
        _send(connection, {"status": status}, data)


def error_document(error: BootcdError) -> dict[str, Any]:
    """What crosses over of an error."""
    return {"class": type(error).__name__, "message": str(error), "advice": error.hint}


def _send(connection: socket.socket, about: dict[str, Any], data: bytes) -> None:
    frames.send(connection, frames.BEGIN, json.dumps(about).encode())
    for start in range(0, len(data), frames.MAX_FRAME):
        frames.send(connection, frames.DATA, data[start : start + frames.MAX_FRAME])
    frames.send(connection, frames.END)


def _options(document: dict[str, Any]) -> SourceOptions:
    """The options, with the authorities where they can be read for ever: a copy in memory."""
    paths = {"ca_file", "auth_file"}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key in paths and value is not None:
            values[key] = Path(value)
        elif isinstance(value, list):
            values[key] = tuple(Path(one) if key == "certs" else one for one in value)
        else:
            values[key] = value
    options = SourceOptions(**values)
    if options.ca_file is None:
        return options
    Http("localhost", options).close()  # raises, with its name, when it is of no use
    copy = os.memfd_create("authorities")
    with open(copy, "wb", closefd=False) as file:
        file.write(options.ca_file.read_bytes())
    return replace(options, ca_file=Path(f"/proc/self/fd/{copy}"))


if __name__ == "__main__":
    main()
