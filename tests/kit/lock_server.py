# SPDX-License-Identifier: Apache-2.0
"""A FleetLock server on loopback that says what it is told to say.

    with LockServer() as server:
        server.answer = refuse(409, "busy", "another machine reboots")
        server.asked        # [("pre-reboot", {"id": …, "group": …}, headers), …]
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass
class Answer:
    """`delay` is in seconds; `cut` closes the connection without a word."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    cut: bool = False


def refuse(status: int, kind: str, value: str) -> Answer:
    """As a server of that protocol refuses."""
    return Answer(status, json.dumps({"kind": kind, "value": value}).encode())


class LockServer:
    """A context manager; `answers` by step come before `answer`."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self._vanishing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                step = self.path.removeprefix("/base/v1/")
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((step, body["client_params"], {key.lower(): one for key, one in
                                                                  self.headers.items()}))
                answer = outer.answers.get(step, outer.answer)
                outer._vanishing.wait(answer.delay)
                if answer.cut:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing the server waits for those who still answer
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/base"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def steps(self) -> list[str]:
        """What it was asked for, in order."""
        return [step for step, _, _ in self.asked]

    def __enter__(self) -> LockServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Listen no more, and answer at once what was asked."""
        self._vanishing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
