# SPDX-License-Identifier: Apache-2.0
"""An HTTP server on loopback that answers as it is told, for what no well-behaved registry does.

    with ScriptedServer() as server:
        server.serve("/v2/os/blobs/sha256:…", Reply(body=data, cut_after=1000), Reply(body=data))

Each path has a list of replies that are used up from the first to the last, which stays. A reply may also be a function
of the request. Sockets, framing and timing are real. `server.seen` holds the requests.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

_PIECE = 64 << 10


@dataclass(frozen=True)
class Seen:
    """A request. Header names are in lower case; `form` is what a POST carried."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    form: Mapping[str, list[str]]


@dataclass(frozen=True)
class Reply:
    """What to answer.

    `ranges`: honour a Range header. `length` replaces the Content-Length, None leaves it out. `cut_after` ends the
    connection after so many bytes of the body, with a reset if `reset`. `stall` waits so many seconds before that or
    before the end. `chunked` sends the body in chunks of 1000 bytes. `slow` sends so many bytes, then waits so many
    seconds, and so on.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: int | None = -1
    cut_after: int | None = None
    reset: bool = False
    stall: float = 0
    chunked: bool = False
    slow: tuple[int, float] | None = None


Answering = Reply | Callable[[Seen], Reply]


class ScriptedServer:
    """See the module. Paths that nobody scripted answer 404, `/v2/` answers 200."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.seen: list[Seen] = []
        self.sent: Counter[str] = Counter()
        """Bytes of bodies, by path; some of them may be on their way still, or lost."""
        self._replies: dict[str, list[Answering]] = {"/v2/": [Reply(body=b"{}")]}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server((address, 0), _handler(self))
        self.host = f"{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def serve(self, path: str, *replies: Answering) -> None:
        """What to answer for `path`, without its query."""
        with self._lock:
            self._replies[path] = list(replies)

    def paths(self) -> list[str]:
        """The paths of the requests so far, without the probe of `/v2/`."""
        return [seen.path for seen in self.seen if seen.path != "/v2/"]

    def reply(self, seen: Seen) -> Reply:
        with self._lock:
            self.seen.append(seen)
            replies = self._replies.get(seen.path) or [Reply(404, b"{}")]
            answering = replies.pop(0) if len(replies) > 1 else replies[0]
        return answering if isinstance(answering, Reply) else answering(seen)

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.sent[path] += size

    def sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests want."""


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            form = parse_qs(self.rfile.read(size).decode())
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.command, parts.path, parse_qs(parts.query), headers, form)
            self._answer(server.reply(seen), headers.get("range"))

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def _answer(self, reply: Reply, wanted: str | None) -> None:
            status, body, headers = reply.status, reply.body, dict(reply.headers)
            if wanted and reply.ranges and status == 200:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or len(body)), len(body) - 1)
                headers.setdefault("Content-Range", f"bytes {start}-{end}/{len(body)}")
                status, body = 206, body[start : end + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if reply.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in _pieces(body)) + b"0\r\n\r\n"
            elif reply.length is None:
                self.send_header("Connection", "close")
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(body) if reply.length < 0 else reply.length))
            self.end_headers()
            self._send(body if reply.cut_after is None else body[: reply.cut_after], reply.slow)
            if reply.stall:
                server.sleep(reply.stall)
            if reply.cut_after is not None:
                if reply.reset:
                    time.sleep(0.05)  # what was sent shall arrive first
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                self.close_connection = True

        def _send(self, body: bytes, slow: tuple[int, float] | None) -> None:
            size, pause = slow or (_PIECE, 0)
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                server.count(urlsplit(self.path).path, len(body[start : start + size]))
                if pause:
                    server.sleep(pause)

    return Handler


def _pieces(body: bytes) -> list[bytes]:
    return [body[start : start + 1000] for start in range(0, len(body), 1000)]
