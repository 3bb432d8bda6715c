# SPDX-License-Identifier: Apache-2.0
"""The registry client against servers that do what no good registry does."""

from __future__ import annotations

import email.utils
import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootcd.errors import (
    BlobMismatch,
    OciError,
    SourceUnreachable,
)
from bootcd.formats.oci import MAX_DOCUMENT
from bootcd.model import ImageReference
from bootcd.registry.blob import read_blob
from bootcd.registry.http import is_loopback
from bootcd.registry.opening import open_source
from bootcd.registry.sources import SourceOptions
from kit.images import IndexBuilder, sha256, to_json
from kit.pulling import AMD64, FAST, IMAGE, LAYERS, SECRET, auth_file, fetch, serve_document, serve_image
from kit.scripted_server import Reply, ScriptedServer, Seen


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


class TestRedirects:
    def protected(self, server: ScriptedServer, target: str, tmp_path: Path) -> SourceOptions:
        def answer(seen: Seen) -> Reply:
            if "authorization" not in seen.headers:
                return Reply(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return Reply(307, b"", {"Location": target})

        serve_image(server)
        server.serve(f"/v2/os/blobs/{IMAGE.config_digest}", answer)
        return replace(FAST, auth_file=auth_file(tmp_path / "auth.json", {server.host: f"me:{SECRET}"}))

    def read_config(self, server: ScriptedServer, options: SourceOptions) -> bytes:
        source = open_source(ImageReference.parse(f"{server.host}/os:1"), options)
        try:
            return read_blob(source, source.manifest(AMD64).manifest.config, MAX_DOCUMENT)
        finally:
            source.close()

    def test_credentials_stay_at_home(self, server: ScriptedServer, tmp_path: Path) -> None:
        with ScriptedServer("127.0.0.2") as storage:
            options = self.protected(server, f"http://{storage.host}/bucket/1?X-Signature=abc", tmp_path)
            storage.serve("/bucket/1", Reply(body=IMAGE.config_bytes))
            assert self.read_config(server, options) == IMAGE.config_bytes
            (request,) = storage.seen
            assert request.query == {"X-Signature": ["abc"]}
            assert "authorization" not in request.headers

    def test_another_port_is_another_place(self, server: ScriptedServer, tmp_path: Path) -> None:
        with ScriptedServer() as storage:
            options = self.protected(server, f"http://{storage.host}/bucket/1", tmp_path)
            storage.serve("/bucket/1", Reply(body=IMAGE.config_bytes))
            self.read_config(server, options)
            assert "authorization" not in storage.seen[0].headers

    def test_the_same_place_gets_them(self, server: ScriptedServer, tmp_path: Path) -> None:
        options = self.protected(server, "/elsewhere", tmp_path)
        server.serve("/elsewhere", Reply(body=IMAGE.config_bytes))
        assert self.read_config(server, options) == IMAGE.config_bytes
        assert server.seen[-1].headers["authorization"].startswith("Basic ")

    def test_a_resumed_download_asks_the_registry_again(self, server: ScriptedServer, tmp_path: Path) -> None:
        """Signed addresses expire."""
        with ScriptedServer("127.0.0.2") as storage:
            options = self.protected(server, f"http://{storage.host}/bucket/1", tmp_path)
            storage.serve("/bucket/1", Reply(body=IMAGE.config_bytes, cut_after=10), Reply(403), Reply(
                body=IMAGE.config_bytes))
            assert self.read_config(server, options) == IMAGE.config_bytes
            assert [seen.headers.get("range") for seen in storage.seen] == [None, "bytes=10-", "bytes=10-"]

    @pytest.mark.parametrize("target", ["", "http://registry.example/x", "file:///etc/passwd", "http://[", "//",
                                        "http://u:p@127.0.0.1/x", "http://127.0.0.1:99999/", "gopher://x/"])
    def test_bad_targets(self, server: ScriptedServer, tmp_path: Path, target: str) -> None:
        options = self.protected(server, target, tmp_path)
        with pytest.raises(SourceUnreachable):
            self.read_config(server, options)

    def test_a_signature_is_not_shown(self, server: ScriptedServer, tmp_path: Path) -> None:
        options = self.protected(server, f"http://127.0.0.1:1/x?signature={SECRET}", tmp_path)
        with pytest.raises(SourceUnreachable, match="Connection refused") as caught:
            self.read_config(server, options)
        assert SECRET not in str(caught.value)
        assert caught.value.__suppress_context__

    def test_the_body_of_a_redirect_is_not_read(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(302, b"x" * 100_000, {"Location": "/there"}, length=1 << 50))
        server.serve("/there", Reply(body=IMAGE.manifest_bytes))
        assert fetch(f"{server.host}/os:1").digest == IMAGE.manifest_digest

    def test_loop(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(302, b"", {"Location": "/v2/os/manifests/1"}))
        with pytest.raises(SourceUnreachable, match="more than 8 redirects"):
            fetch(f"{server.host}/os:1")


class TestTryAgain:
    def retried(self, server: ScriptedServer, *replies: Reply, most: float = 2.0) -> float:
        good = Reply(body=IMAGE.manifest_bytes, headers={"Content-Type": IMAGE.media_type})
        server.serve("/v2/os/manifests/1", *replies, good)
        start = time.monotonic()
        assert fetch(f"{server.host}/os:1", replace(FAST, max_backoff=most, attempts=5)).digest == IMAGE.manifest_digest
        return time.monotonic() - start

    def test_too_many_requests(self, server: ScriptedServer) -> None:
        assert self.retried(server, Reply(429, b"", {"Retry-After": "1"})) >= 1

    def test_a_date(self, server: ScriptedServer) -> None:
        date = email.utils.formatdate(time.time() + 2, usegmt=True)
        assert self.retried(server, Reply(503, b"", {"Retry-After": date})) >= 0.5

    @pytest.mark.parametrize("value", ["", "soon", "-1", "1e9", "Thu, 99 Foo 2026", "Mon, 01 Jan 0001 00:00:00 GMT"])
    def test_nonsense(self, server: ScriptedServer, value: str) -> None:
        assert self.retried(server, Reply(429, b"", {"Retry-After": value}), most=60) < 30

    def test_bounded(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(429, b"", {"Retry-After": "86400"}))
        start = time.monotonic()
        with pytest.raises(SourceUnreachable, match=r"HTTP 429 \(gave up after 3 attempts\)"):
            fetch(f"{server.host}/os:1")
        assert time.monotonic() - start < 20
        assert len(server.paths()) == 3

    def test_cut_manifest(self, server: ScriptedServer) -> None:
        data = IMAGE.manifest_bytes
        self.retried(server, Reply(body=data, cut_after=20), Reply(body=data, cut_after=0, reset=True), Reply(502))

    def test_other_failures_are_final(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(400, b"<script>"))
        with pytest.raises(SourceUnreachable, match="HTTP 400"):
            fetch(f"{server.host}/os:1")
        assert len(server.paths()) == 1


class TestManifests:
    def test_what_is_asked(self, server: ScriptedServer) -> None:
        serve_image(server)
        fetch(f"{server.host}/os:1")
        headers = server.seen[-1].headers
        assert "application/vnd.oci.image.index.v1+json" in headers["accept"]
        assert "application/vnd.docker.distribution.manifest.v2+json" in headers["accept"]

    def test_the_header_of_the_registry_is_not_believed(self, server: ScriptedServer) -> None:
        headers = {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": sha256(b"a lie")}
        server.serve("/v2/os/manifests/1", Reply(body=IMAGE.manifest_bytes, headers=headers))
        assert fetch(f"{server.host}/os:1").digest == IMAGE.manifest_digest

    def test_another_document_than_the_digest_says(self, server: ScriptedServer) -> None:
        server.serve(f"/v2/os/manifests/{sha256(b'x')}", Reply(body=IMAGE.manifest_bytes))
        with pytest.raises(BlobMismatch, match=sha256(b"x")):
            fetch(f"{server.host}/os@{sha256(b'x')}")

    def test_sha512(self, server: ScriptedServer) -> None:
        digest = "sha512:" + hashlib.sha512(IMAGE.manifest_bytes).hexdigest()
        server.serve(f"/v2/os/manifests/{digest}", Reply(body=IMAGE.manifest_bytes))
        assert fetch(f"{server.host}/os@{digest}").digest == digest

    @pytest.mark.parametrize("chunked", [False, True])
    def test_too_large(self, server: ScriptedServer, chunked: bool) -> None:
        serve_document(server, b"{" + b" " * MAX_DOCUMENT)
        server.serve("/v2/os/manifests/1", Reply(body=b" " * (MAX_DOCUMENT + 1), chunked=chunked))
        with pytest.raises(OciError, match="larger than 4194304 bytes"):
            fetch(f"{server.host}/os:1")

    def test_endless(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(body=b"", length=1 << 50, cut_after=0))
        with pytest.raises(OciError, match="larger than 4194304 bytes"):
            fetch(f"{server.host}/os:1")

    def test_encoded(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(body=b"bomb", headers={"Content-Encoding": "gzip"}))
        with pytest.raises(SourceUnreachable, match="encodes"):
            fetch(f"{server.host}/os:1")

    def test_without_a_media_type_anywhere(self, server: ScriptedServer) -> None:
        document = {key: value for key, value in IMAGE.manifest.items() if key != "mediaType"}
        serve_document(server, document)
        assert fetch(f"{server.host}/os:1").digest == sha256(to_json(document))

    @pytest.mark.parametrize(("change", "message"), [
        ({"schemaVersion": 1}, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "schema 1"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "delivered as"),
        ({"mediaType": "text/html"}, "delivered as"),
        ({"mediaType": None, "manifests": []}, "delivered|manifests"),
        ({"manifests": []}, "manifests"),
        ({"layers": "x"}, "manifest.layers"),
        ({"config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2}},
         "no image but an artifact"),
        ({"config": IMAGE.manifest["config"] | {"size": 1 << 40}}, "manifest.config.size"),
        ({"layers": [LAYERS[0].descriptor() | {"mediaType": "application/zip"}]}, r"layers\[0\].mediaType"),
        ({"layers": [LAYERS[0].descriptor() | {"urls": ["https://a.example/"]}]}, "foreign layer"),
        ({"layers": [LAYERS[0].descriptor() | {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}]}, "foreign layer"),
        ({"layers": [LAYERS[0].descriptor() | {"digest": "md5:00"}]}, r"layers\[0\].digest"),
    ])
    def test_refused(self, server: ScriptedServer, change: dict[str, Any], message: str) -> None:
        document = {key: value for key, value in (IMAGE.manifest | change).items() if value is not None}
        serve_document(server, document, IMAGE.media_type)
        with pytest.raises(OciError, match=message) as caught:
            fetch(f"{server.host}/os:1")
        assert str(caught.value).startswith(f"{server.host}/os:1: ")

    def test_schema_1_by_its_header(self, server: ScriptedServer) -> None:
        serve_document(server, b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws; charset=utf-8")
        with pytest.raises(OciError, match="schema 1"):
            fetch(f"{server.host}/os:1")

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":1}', b"<html>"])
    def test_no_manifest_at_all(self, server: ScriptedServer, data: bytes) -> None:
        for media_type in (None, "text/html", IMAGE.media_type):
            serve_document(server, data, media_type)
            with pytest.raises(OciError):
                fetch(f"{server.host}/os:1")

    def test_wrong_size_or_digest_in_an_index(self, server: ScriptedServer) -> None:
        index = IndexBuilder([IMAGE])
        for change in ({"size": 5}, {"size": len(IMAGE.manifest_bytes) + 1}, {"size": 1 << 40}):
            serve_image(server, IMAGE)
            index.index["manifests"] = [IMAGE.descriptor() | change]
            serve_document(server, index.index, index.media_type)
            with pytest.raises((BlobMismatch, OciError), match=IMAGE.manifest_digest):
                fetch(f"{server.host}/os:1")

    def test_nested_indexes(self, server: ScriptedServer) -> None:
        inner = IndexBuilder([IMAGE])
        outer = IndexBuilder([])
        outer.index["manifests"] = [inner.descriptor()]
        serve_image(server, IMAGE)
        server.serve(f"/v2/os/manifests/{inner.manifest_digest}", Reply(body=inner.manifest_bytes))
        serve_document(server, outer.index, outer.media_type)
        fetched = fetch(f"{server.host}/os:1")
        assert (fetched.digest, fetched.reference_digest) == (IMAGE.manifest_digest, sha256(outer.manifest_bytes))

    def test_nested_too_deeply(self, server: ScriptedServer) -> None:
        document = IndexBuilder([IMAGE])
        for _ in range(4):
            outer = IndexBuilder([])
            outer.index["manifests"] = [document.descriptor()]
            server.serve(f"/v2/os/manifests/{document.manifest_digest}", Reply(body=document.manifest_bytes))
            document = outer
        serve_document(server, document.index, document.media_type)
        with pytest.raises(OciError, match="nested more than"):
            fetch(f"{server.host}/os:1")


class TestWhere:
    @pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
    def test_loopback(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["127.evil.example", "localhost.example", "0.0.0.0", "10.0.0.1", "1.127.0.0"])
    def test_elsewhere(self, host: str) -> None:
        assert not is_loopback(host)

    def test_no_plain_http_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server on this machine under a name that is not loopback by definition speaks plain HTTP in vain."""
        with ScriptedServer() as server:
            port = server.host.partition(":")[2]
            serve_image(server)
            reference = f"127.1:{port}/os:1"  # the resolver knows this short form, the definition does not
            with pytest.raises(SourceUnreachable, match=r"TLS failed|resolved"):
                fetch(reference)
            assert server.seen == []

    def test_insecure_permits_it(self) -> None:
        with ScriptedServer() as server:
            port = server.host.partition(":")[2]
            serve_image(server)
            assert fetch(f"127.1:{port}/os:1", replace(FAST, insecure=True)).digest == IMAGE.manifest_digest

    def test_unknown_host(self) -> None:
        with pytest.raises(SourceUnreachable, match=r"^no-such-host\.invalid/os:1: the name of the host"):
            fetch("no-such-host.invalid/os:1")

    def test_a_proxy_is_not_used_for_loopback(self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:1")
        serve_image(server)
        assert fetch(f"{server.host}/os:1").digest == IMAGE.manifest_digest

    def test_a_broken_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:1")
        with pytest.raises(SourceUnreachable) as caught:
            fetch("registry.example/os:1")
        assert SECRET not in str(caught.value)

    def test_netrc_and_cookies_are_not_used(self, server: ScriptedServer, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        index = IndexBuilder([IMAGE])
        serve_image(server, index)
        server.serve("/v2/os/manifests/1", Reply(body=index.manifest_bytes, headers={
            "Content-Type": index.media_type, "Set-Cookie": "tracked=yes; Path=/"}))
        fetch(f"{server.host}/os:1")
        assert len(server.seen) == 2
        assert all("authorization" not in seen.headers and "cookie" not in seen.headers for seen in server.seen)
