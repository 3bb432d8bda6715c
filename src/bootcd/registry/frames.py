# SPDX-License-Identifier: Apache-2.0
"""What the process that fetches (module `fetcher`) and the one that asked it (`separate`) say to each other.

Over one socket come the requests, each a packet of JSON with the descriptor of another socket, on which the answer
goes back in frames:

    kind      one byte
    length    four bytes, big endian, at most `MAX_FRAME`
    content   as many bytes

    told    b"t"   JSON for who watches (module `told`), any number of them
    begin   b"b"   JSON about what follows
    data    b"d"   a piece of it
    end     b"z"   all of it was sent
    error   b"e"   JSON: class, message and advice of an error; whether trying again may help, after which pause,
                   and whether hardly anything came
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

TOLD, BEGIN, DATA, END, ERROR = b"t", b"b", b"d", b"z", b"e"
MAX_FRAME = 1 << 20
MAX_TOLD = 100
"""In one answer."""
MAX_REQUEST = 64 << 10
"""Bytes of a request, configuration of all places of an image included."""

_HEAD = struct.Struct(">cI")


class FramesError(Exception):
    """The other side ended in mid-answer, or does not keep to the rules."""


def send(connection: socket.socket, kind: bytes, content: bytes = b"") -> None:
    """Raises OSError when the other side is not interested any more."""
    connection.sendall(_HEAD.pack(kind, len(content)))
    if content:
        connection.sendall(content)


class Frames:
    """The frames that come from a socket."""

    def __init__(self, connection: socket.socket, told: Callable[[bytes], None]) -> None:
        """`told` gets what is there for who watches; it raises ValueError for what makes no sense."""
        self._connection = connection
        self._told = told
        self._left = MAX_TOLD
        self._file = connection.makefile("rb", buffering=256 << 10)

    def next(self) -> tuple[bytes, bytes]:
        """Kind and content of the next frame. Raises FramesError, TimeoutError."""
        try:
            while True:
                kind, length = _HEAD.unpack(self._exactly(_HEAD.size))
                if kind not in (TOLD, BEGIN, DATA, END, ERROR) or length > MAX_FRAME:
                    raise FramesError("what it sends makes no sense")
                content = self._exactly(length)
                if kind != TOLD:
                    return kind, content
                if not self._left:
                    raise FramesError("it tells more than it should")
                self._left -= 1
                self._told(content)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # the last one when closed by another thread meanwhile
            raise FramesError(str(error)) from None

    def interrupt(self) -> None:
        """Wake up a `next` in another thread."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def _exactly(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        if len(data) < size:
            raise FramesError("it ended in the middle of an answer")
        return data
