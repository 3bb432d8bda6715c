# SPDX-License-Identifier: Apache-2.0
"""The network part as a process without rights: it fetches the same, and whatever it says does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import (
    AuthenticationFailed,
    BlobMismatch,
    BlobNotFound,
    BootcdError,
    ConfigError,
    ImageNotFound,
    SourceUnreachable,
)
from bootcd.formats.oci import Descriptor
from bootcd.model import ImageReference
from bootcd.ops.doctor_places import Watch
from bootcd.registry import separate
from bootcd.registry.blob import read_blob
from bootcd.registry.opening import open_source
from bootcd.registry.registries import Registries, parse
from bootcd.registry.sources import Ranged, Source, SourceOptions, TransientFailure
from kit.pulling import AMD64, FAST, IMAGE, LAYERS, SECRET, auth_file, described, fetch, pull, serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen

OPTIONS = replace(FAST, separate=True)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        serve_image(running)
        yield running


def reference(server: ScriptedServer) -> ImageReference:
    return ImageReference.parse(f"{server.host}/os:1")


@pytest.fixture
def source(server: ScriptedServer) -> Iterator[Source]:
    opened = open_source(reference(server), OPTIONS)
    yield opened
    opened.close()


def children() -> list[int]:
    """Our processes that fetch; a bus of other tests may be a child as well."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"bootcd.registry.fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class TestTheSame:
    def test_a_whole_image(self, server: ScriptedServer) -> None:
        assert pull(str(reference(server)), OPTIONS) == [layer.tar for layer in LAYERS]

    def test_who_asks(self, server: ScriptedServer, source: Source) -> None:
        """All connections are those of a process that is not root any more."""
        asked: list[str] = []

        def answer(seen: Seen) -> Reply:
            pid, = children()
            asked.append(Path(f"/proc/{pid}/status").read_text())
            return Reply(body=IMAGE.manifest_bytes, headers={"Content-Type": IMAGE.media_type})

        server.serve("/v2/os/manifests/1", answer)
        assert source.manifest(AMD64).digest == IMAGE.manifest_digest
        assert "CapEff:\t0000000000000000\n" in asked[0]
        assert "Uid:\t0\t" not in asked[0]

    def test_from_the_middle(self, server: ScriptedServer, source: Source) -> None:
        layer = LAYERS[0]
        with_offset = source.blob(described(layer), 100)
        assert b"".join(with_offset) == layer.blob[100:]
        assert server.seen[-1].headers["range"] == "bytes=100-"
        assert isinstance(source, Ranged)
        layer = LAYERS[2]
        assert b"".join(source.part(described(layer), 100, 50)) == layer.blob[100:150]
        assert server.seen[-1].headers["range"] == "bytes=100-149"
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, ranges=False))
        with pytest.raises(SourceUnreachable, match="all of it when asked for a part"):
            source.part(described(layer), 100, 50)

    def test_a_cut_download_goes_on(self, server: ScriptedServer) -> None:
        layer = LAYERS[0]
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, cut_after=50), Reply(body=layer.blob))
        assert pull(str(reference(server)), OPTIONS)[0] == layer.tar

    @pytest.mark.parametrize(("status", "error"), [(404, ImageNotFound), (401, AuthenticationFailed),
                                                   (500, SourceUnreachable), (418, SourceUnreachable)])
    def test_errors(self, server: ScriptedServer, status: int, error: type[BootcdError]) -> None:
        server.serve("/v2/os/manifests/1", Reply(status, b"", {"WWW-Authenticate": "Basic"}))
        found = []
        for options in (FAST, OPTIONS):
            with pytest.raises(error) as raised:
                fetch(str(reference(server)), options)
            found.append((str(raised.value), raised.value.hint))
        assert found[0] == found[1]

    def test_no_such_blob(self, source: Source) -> None:
        with pytest.raises(BlobNotFound, match="the registry does not have it"):
            source.blob(Descriptor("", "sha256:" + "0" * 64, 5))

    def test_a_pause_that_the_server_asks_for(self, server: ScriptedServer, source: Source) -> None:
        server.serve("/v2/os/blobs/sha256:" + "1" * 64, Reply(429, b"", {"Retry-After": "7"}))
        with pytest.raises(TransientFailure) as raised:
            source.blob(Descriptor("", "sha256:" + "1" * 64, 5))
        assert raised.value.retry_after == 7

    def test_mirrors(self, server: ScriptedServer) -> None:
        with ScriptedServer() as empty:
            table = (f'[[registry]]\nlocation = "{server.host}"\n'
                     f'[[registry.mirror]]\nlocation = "{empty.host}"\n')
            registries = Registries(parse(table.encode(), "registries.conf"))
            assert pull(str(reference(server)), OPTIONS, registries) == [layer.tar for layer in LAYERS]
            assert "/v2/os/manifests/1" in empty.paths()
            assert len(children()) == 0


class TestFilesOfRoot:
    """What only root may read is read before the rights go."""

    def test_credentials(self, server: ScriptedServer, tmp_path: Path) -> None:
        def answer(seen: Seen) -> Reply:
            if "authorization" not in seen.headers:
                return Reply(401, b"", {"WWW-Authenticate": "Basic"})
            return Reply(body=IMAGE.manifest_bytes, headers={"Content-Type": IMAGE.media_type})

        server.serve("/v2/os/manifests/1", answer)
        file = auth_file(tmp_path / "auth.json", {server.host: f"robot:{SECRET}"})
        file.chmod(0o600)
        tmp_path.chmod(0o700)
        assert fetch(str(reference(server)), replace(OPTIONS, auth_file=file)).digest == IMAGE.manifest_digest

    def test_a_broken_file_counts_when_it_is_needed(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "auth.json").write_text("{")
        options = replace(OPTIONS, auth_file=tmp_path / "auth.json")
        assert fetch(str(reference(server)), options).digest == IMAGE.manifest_digest
        server.serve("/v2/os/manifests/1", Reply(401, b"", {"WWW-Authenticate": "Basic"}))
        with pytest.raises(ConfigError, match=r"auth\.json: not JSON"):
            fetch(str(reference(server)), options)

    def test_authorities(self, tmp_path: Path) -> None:
        if not available():
            pytest.skip("docker-registry is not installed")
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1",
                        "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        certificate.chmod(0o600)
        with RegistryServer(tmp_path / "registry") as filling:
            push(IMAGE, f"{filling.address}/os:1")
        with RegistryServer(tmp_path / "registry", tls=(certificate, key)) as running:
            with pytest.raises(SourceUnreachable, match="is not trusted"):
                fetch(f"{running.address}/os:1", OPTIONS)
            options = replace(OPTIONS, ca_file=certificate)
            assert pull(f"{running.address}/os:1", options) == [layer.tar for layer in LAYERS]

    def test_authorities_that_are_none(self, server: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        with pytest.raises(ConfigError, match=r"ca\.pem holds no certificates"):
            open_source(reference(server), replace(OPTIONS, ca_file=tmp_path / "ca.pem"))


class TestItsEnd:
    def test_close(self, server: ScriptedServer) -> None:
        source = open_source(reference(server), OPTIONS)
        assert len(children()) == 1
        source.close()
        assert children() == []

    def test_killed_in_the_middle(self, server: ScriptedServer, source: Source) -> None:
        layer = LAYERS[2]
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, cut_after=80_000, stall=30))
        stream = source.blob(described(layer))
        assert next(stream)
        os.kill(children()[0], signal.SIGKILL)
        with pytest.raises(TransientFailure, match="ended in the middle"):
            list(stream)
        with pytest.raises(SourceUnreachable, match=r"the process that fetches has ended \(signal 9\)"):
            read_blob(source, described(layer), 1 << 20)

    def test_a_reader_that_waits_is_woken(self, server: ScriptedServer, source: Source) -> None:
        layer = LAYERS[2]
        server.serve(f"/v2/os/blobs/{layer.digest}", Reply(body=layer.blob, cut_after=80_000, stall=30))
        stream = source.blob(described(layer))
        assert next(stream)
        timer = threading.Timer(0.2, stream.interrupt)
        timer.start()
        start = time.monotonic()
        with pytest.raises(TransientFailure):
            list(stream)
        assert time.monotonic() - start < 15
        timer.join()

    def test_with_its_parent(self, server: ScriptedServer) -> None:
        """However that one ends."""
        program = (f"import os, signal\nfrom bootcd.model import ImageReference\n"
                   f"from bootcd.registry.opening import open_source\n"
                   f"from bootcd.registry.sources import SourceOptions\n"
                   f"source = open_source(ImageReference.parse('{reference(server)}'), SourceOptions(separate=True))\n"
                   f"print(open(f'/proc/self/task/{{os.getpid()}}/children').read(), flush=True)\n"
                   f"os.kill(os.getpid(), signal.SIGKILL)\n")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while Path("/proc", done.stdout.strip()).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path("/proc", done.stdout.strip()).exists()


class TestNotBelieved:
    """Somebody has taken over the other process."""

    @pytest.fixture
    def taken_over(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Its program, to be written: `control` is its socket, `answer` the one of the first request."""
        program = tmp_path / "fetcher.py"
        monkeypatch.setattr(separate, "PROGRAM", (sys.executable, str(program)))
        return program

    def begin(self, program: Path, *lines: str, observer: Watch | None = None) -> Source:
        program.write_text(textwrap.dedent("""
            import json, socket, struct, sys
            control = socket.socket(fileno=int(sys.argv[1]))
            control.recv(1 << 16)
            control.send(b'{"ready": []}')
            _, (number,), _, _ = socket.recv_fds(control, 1 << 16, 1)
            answer = socket.socket(fileno=number)
            def frame(kind, content=b''):
                answer.sendall(kind + struct.pack('>I', len(content)) + content)
        """) + "\n".join(lines) + "\nanswer.close()\ncontrol.recv(1)\n")
        return open_source(ImageReference.parse("quay.io/os/os:1"), replace(OPTIONS, attempts=1, observer=observer))

    @pytest.mark.parametrize(("lines", "error", "message"), [
        (["answer.sendall(b'd' + b'\\xff' * 8)"], SourceUnreachable, "makes no sense"),
        (["answer.sendall(b'?' * 8)"], SourceUnreachable, "makes no sense"),
        (["frame(b'b', b'{}')", "frame(b'b', b'{}')"], SourceUnreachable, "does not keep to the rules"),
        (["frame(b'd', b'data')"], SourceUnreachable, "does not keep to the rules"),
        (["frame(b'b', b'[' * 100000)"], SourceUnreachable, "does not keep to the rules"),
        (["frame(b'e', b'7')"], SourceUnreachable, "does not keep to the rules"),
        (["frame(b'e', b'{\"class\": \"SystemExit\", \"message\": 5}')"], SourceUnreachable, "^5$"),
        (["frame(b'e', json.dumps({'class': 'ImageNotFound', 'message': '\\x1b]0;boo\\x07'}).encode())"],
         ImageNotFound, r"^\?\]0;boo\?$"),
        (["frame(b'b', b'{}')", "answer.sendall(b'd\\0\\0\\0\\x09short')"], SourceUnreachable, "middle of an answer"),
        (["pass"], SourceUnreachable, "middle of an answer"),
        (["frame(b'b', b'{\"type\": 7}')", "frame(b'd', b'{}')", "frame(b'z')"], BootcdError, "quay.io/os/os:1"),
    ])
    def test_nonsense(self, taken_over: Path, lines: list[str], error: type[BootcdError], message: str) -> None:
        source = self.begin(taken_over, *lines)
        try:
            with pytest.raises(error, match=message):
                source.manifest(AMD64)
        finally:
            source.close()

    @pytest.mark.parametrize(("lines", "message"), [
        (["frame(b't', b'7')"], "makes no sense"),
        (["try:", "    while True: frame(b't', b'{\"name\": \"a\", \"lookup\": {\"found\": null, \"files\": [], "
          "\"helper\": \"\", \"variable\": \"\"}}')", "except OSError: pass"], "more than it should"),
    ])
    def test_who_watches_is_told_nonsense(self, taken_over: Path, lines: list[str], message: str) -> None:
        source = self.begin(taken_over, *lines, observer=Watch())
        try:
            with pytest.raises(SourceUnreachable, match=message):
                source.manifest(AMD64)
        finally:
            source.close()

    def test_an_endless_document(self, taken_over: Path) -> None:
        source = self.begin(taken_over, "frame(b'b', b'{}')", "try:", "    while True: frame(b'd', bytes(1 << 20))",
                            "except OSError: pass")
        try:
            with pytest.raises(BootcdError, match="more than"):
                source.manifest(AMD64)
        finally:
            source.close()

    def test_another_blob(self, taken_over: Path) -> None:
        """Digest and size are checked on this side."""
        source = self.begin(taken_over, "frame(b'b', b'{}')", "frame(b'd', b'other')", "frame(b'z')")
        try:
            with pytest.raises(BlobMismatch, match="has digest"):
                read_blob(source, Descriptor("", "sha256:" + "0" * 64, 5), 100)
        finally:
            source.close()

    def test_it_does_not_start(self, taken_over: Path) -> None:
        taken_over.write_text("raise SystemExit(3)")
        with pytest.raises(SourceUnreachable, match=r"does not start \(exit status 3\)"):
            open_source(ImageReference.parse("quay.io/os/os:1"), OPTIONS)


def test_signatures_over_the_network(server: ScriptedServer) -> None:
    server.serve("/sigs/one", Reply(body=b"signature"))
    server.serve("/sigs/large", Reply(body=bytes(200)))
    store = separate.SeparateHost(server.host, SourceOptions(separate=True))
    try:
        assert store.file(f"http://{server.host}/sigs/one", 100) == (200, b"signature")
        assert store.file(f"http://{server.host}/sigs/two", 100)[0] == 404
        with pytest.raises(BlobMismatch, match="more than 100 bytes"):
            store.file(f"http://{server.host}/sigs/large", 100)
    finally:
        store.close()
