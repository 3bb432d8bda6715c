# SPDX-License-Identifier: Apache-2.0
"""Whatever comes out of the socket, only errors of ours come out of the client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import BootcdError
from bootcd.formats.oci import Descriptor
from bootcd.model import ImageReference
from bootcd.registry.blob import LayerReader, read_blob
from bootcd.registry.chunked import examine
from bootcd.registry.opening import open_source
from bootcd.registry.sources import Ranged
from kit.images import sha256
from kit.pulling import AMD64, FAST, IMAGE, LAYERS
from kit.scripted_server import Reply, ScriptedServer

ONCE = replace(FAST, attempts=1, read_timeout=2.0)


CHUNKED = Descriptor("application/vnd.oci.image.layer.v1.tar+zstd", sha256(b"hello"), 100, {
    "io.github.containers.zstd-chunked.manifest-position": "50:5:5:1",
    "io.github.containers.zstd-chunked.manifest-checksum": sha256(b"hello"),
})


class Nothing:
    """No content is here."""

    def find(self, wanted: Mapping[bytes, int], ended: Callable[[], bool]) -> tuple[()]:
        return ()

    def read(self, digest: bytes) -> Iterator[bytes]:
        raise AssertionError("nothing was found")


class RawServer:
    """Answers every request with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if connection.recv(65536) == b"stop":
                    return
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.02)  # a client may keep its side open for the next request
                while connection.recv(65536):
                    pass

    def stop(self) -> None:
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"stop")
            self._thread.join()
        self._listener.close()


@pytest.fixture(scope="module")
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.stop()


HEADERS = st.lists(st.sampled_from([
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 5, 6", b"Content-Length: 99999999999999999999999",
    b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Content-Type: text/html", b"Content-Type: \xff",
    b"Location: http://127.0.0.1:0/", b"Location: \xc3\x28://", b"WWW-Authenticate: Bearer realm=x",
    b"WWW-Authenticate: Basic", b"Retry-After: 99999999999999999999", b"Content-Range: bytes 5-1/0", b": ", b"x", b" y",
    b"Set-Cookie: a=b; Max-Age=x", b"Connection: keep-alive",
]), max_size=5)
STATUS = st.sampled_from([b"200 OK", b"206 P", b"301 M", b"401 U", b"404 N", b"416 R", b"429 T", b"503 S", b"999 X",
                          b"20 x", b"", b"-1 x", b"204 N", b"304 N", b"100 C"])
ANSWERS = st.binary(max_size=200) | st.builds(
    lambda status, headers, body: b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", body]), STATUS, HEADERS,
    st.binary(max_size=100) | st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-5\r\nx",
                                               b"zz\r\n", b"5;" + b"x" * 70_000]),
)


# urllib3 leaves the socket of an answer with two different lengths to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@settings(max_examples=80, deadline=None)
@given(ANSWERS)
def test_any_answer_raises_only_our_errors(raw: RawServer, answer: bytes) -> None:
    raw.answer = answer
    source = open_source(ImageReference.parse(f"{raw.host}/os:1"), ONCE)
    assert isinstance(source, Ranged)
    try:
        with contextlib.suppress(BootcdError):
            source.manifest(AMD64)
        with contextlib.suppress(BootcdError):
            read_blob(source, Descriptor("a/b", sha256(b"hello"), 5), 100)
        layer = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", sha256(b"hello"), 5)
        with (
            contextlib.suppress(BootcdError),
            LayerReader(source, layer, sha256(b"hello"), max_size=1000) as reader,
        ):
            reader.read(100)
        with contextlib.suppress(BootcdError):
            examine(source, CHUNKED, Nothing())
    finally:
        source.close()


def test_ctrl_c_while_waiting_for_data() -> None:
    """The reader waits in the main thread; a signal gets through, and closing ends the download."""
    layer = LAYERS[0]
    with ScriptedServer() as server:
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, cut_after=10, stall=30))
        source = open_source(ImageReference.parse(f"{server.host}/os:1"), FAST)
        described = IMAGE.manifest["layers"][0]
        descriptor = Descriptor(described["mediaType"], described["digest"], described["size"])
        reader = LayerReader(source, descriptor, layer.diff_id, max_size=1 << 20)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt), reader:
            reader.read(1)
        timer.join()
        source.close()
        assert not any(thread.name.startswith("layer ") for thread in threading.enumerate())
