# SPDX-License-Identifier: Apache-2.0
"""Challenges and the token flow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    AuthenticationFailed,
    BootcdError,
    SourceUnreachable,
)
from bootcd.model import ImageReference
from bootcd.registry.auth import parse_challenges
from bootcd.registry.opening import open_source
from kit.images import to_json
from kit.pulling import AMD64, FAST, IMAGE, LAYERS, SECRET, auth_file, fetch, pull
from kit.scripted_server import Reply, ScriptedServer, Seen


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


class TestBearerTokens:
    """The token flow of Docker's registry, with a token service on the same server."""

    TOKEN = "token-that-nobody-may-see"

    def protect(self, server: ScriptedServer, path: str, reply: Reply, challenge: str) -> None:
        def answer(seen: Seen) -> Reply:
            if seen.headers.get("authorization") == f"Bearer {self.TOKEN}":
                return reply
            return Reply(401, b"{}", {"WWW-Authenticate": challenge})

        server.serve(path, answer)

    def start(self, server: ScriptedServer, realm: str | None = None, rest: str = ',service="svc"') -> None:
        challenge = f'Bearer realm="{realm or f"http://{server.host}/token"}"{rest}'
        self.protect(server, "/v2/os/manifests/1", Reply(body=IMAGE.manifest_bytes,
                                                         headers={"Content-Type": IMAGE.media_type}), challenge)
        for digest, data in IMAGE.blobs().items():
            self.protect(server, f"/v2/os/blobs/{digest}", Reply(body=data), challenge)

    def asked(self, server: ScriptedServer) -> list[Seen]:
        return [seen for seen in server.seen if seen.path == "/token"]

    def test_anonymous(self, server: ScriptedServer, tmp_path: Path) -> None:
        self.start(server)
        server.serve("/token", Reply(body=to_json({"token": self.TOKEN, "expires_in": 300})))
        options = replace(FAST, auth_file=auth_file(tmp_path / "auth.json", {}))
        assert pull(f"{server.host}/os:1", options) == [layer.tar for layer in LAYERS]
        (request,) = self.asked(server)  # one token is enough for all of it
        assert request.query == {"service": ["svc"], "scope": ["repository:os:pull"]}
        assert "authorization" not in request.headers

    def test_with_a_password(self, server: ScriptedServer, tmp_path: Path) -> None:
        self.start(server, rest=',service="svc",scope="repository:os:pull,push"')
        server.serve("/token", Reply(body=to_json({"access_token": self.TOKEN})))
        file = auth_file(tmp_path / "auth.json", {server.host: f"me:{SECRET}"})
        fetch(f"{server.host}/os:1", replace(FAST, auth_file=file))
        (request,) = self.asked(server)
        assert request.query["scope"] == ["repository:os:pull,push"]
        assert request.headers["authorization"] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()

    def test_with_an_identity_token(self, server: ScriptedServer, tmp_path: Path) -> None:
        self.start(server)
        server.serve("/token", Reply(body=to_json({"access_token": self.TOKEN})))
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {server.host: {"identitytoken": SECRET}}}))
        fetch(f"{server.host}/os:1", replace(FAST, auth_file=file))
        (request,) = self.asked(server)
        assert request.method == "POST"
        assert request.form["refresh_token"] == [SECRET]
        assert request.form["grant_type"] == ["refresh_token"]

    def test_an_expired_token_is_replaced(self, server: ScriptedServer) -> None:
        self.start(server)
        server.serve("/token", Reply(body=to_json({"token": "stale", "expires_in": 300})),
                     Reply(body=to_json({"token": self.TOKEN, "expires_in": 300})))
        assert fetch(f"{server.host}/os:1").digest == IMAGE.manifest_digest
        assert len(self.asked(server)) == 2

    def test_a_token_is_renewed_before_it_ends(self, server: ScriptedServer) -> None:
        self.start(server)
        server.serve("/token", Reply(body=to_json({"token": self.TOKEN, "expires_in": 1})))
        source = open_source(ImageReference.parse(f"{server.host}/os:1"), FAST)
        source.manifest(AMD64)
        time.sleep(0.6)
        source.manifest(AMD64)
        assert len(self.asked(server)) == 2
        source.close()

    @pytest.mark.parametrize(("reply", "error", "message"), [
        (Reply(401, b"{}"), AuthenticationFailed, "gives no token"),
        (Reply(403, b"{}"), AuthenticationFailed, "gives no token"),
        (Reply(404, b"{}"), SourceUnreachable, "HTTP 404"),
        (Reply(500, b"{}"), SourceUnreachable, "HTTP 500"),
        (Reply(200, b"<html>"), SourceUnreachable, "not JSON"),
        (Reply(200, b"[" * 100_000), SourceUnreachable, "not JSON"),
        (Reply(200, b"[]"), SourceUnreachable, "no JSON object"),
        (Reply(200, b"{}"), SourceUnreachable, "no token"),
        (Reply(200, b'{"token": 5}'), SourceUnreachable, "no token"),
        (Reply(200, b'{"token": "a\\r\\nHost: b"}'), SourceUnreachable, "no token"),
        (Reply(200, b"{}" + b" " * (1 << 20)), SourceUnreachable, "longer than 1048576"),
        (Reply(200, b"{}" + b" " * (1 << 20), chunked=True), SourceUnreachable, "longer than 1048576"),
        (Reply(302, b"", {"Location": "/token2"}), SourceUnreachable, "HTTP 302"),
        (Reply(200, b'{"token": "%s"}' % SECRET.encode()), AuthenticationFailed, "refuses access"),
    ])
    def test_bad_answers(self, server: ScriptedServer, tmp_path: Path, reply: Reply, error: type[BootcdError],
                         message: str) -> None:
        self.start(server)
        server.serve("/token", reply)
        file = auth_file(tmp_path / "auth.json", {server.host: f"me:{SECRET}"})
        with pytest.raises(error, match=message) as caught:
            fetch(f"{server.host}/os:1", replace(FAST, auth_file=file))
        assert server.host in str(caught.value)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("realm", ["", "ftp://host/token", "http://registry.example/token", "//x", "http://[::1/",
                                       "http://u:p@127.0.0.1/token", "nonsense", "http://\u00e4\u00f6:99999/"])
    def test_bad_realms(self, server: ScriptedServer, realm: str) -> None:
        self.start(server, realm=realm.encode().decode("latin-1") or " ")
        with pytest.raises(SourceUnreachable):
            fetch(f"{server.host}/os:1")

    @pytest.mark.parametrize("challenge", ["", "Negotiate", 'Digest realm="x"', "Basic", ",,,", '"', "Bearer =", "é"])
    def test_challenges_that_nobody_can_answer(self, server: ScriptedServer, tmp_path: Path, challenge: str) -> None:
        server.serve("/v2/os/manifests/1", Reply(401, b"", {"WWW-Authenticate": challenge}))
        options = replace(FAST, auth_file=auth_file(tmp_path / "auth.json", {}))
        with pytest.raises((AuthenticationFailed, SourceUnreachable)):
            fetch(f"{server.host}/os:1", options)

    def test_forbidden(self, server: ScriptedServer) -> None:
        server.serve("/v2/os/manifests/1", Reply(403, b"{}"))
        with pytest.raises(AuthenticationFailed, match="HTTP 403"):
            fetch(f"{server.host}/os:1")
        assert server.paths() == ["/v2/os/manifests/1"]


class TestChallenges:
    """RFC 9110 section 11.6.1."""

    def test_one(self) -> None:
        (found,) = parse_challenges('Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"')
        assert found.scheme == "bearer"
        assert found.parameters == {"realm": "https://auth.example/token", "service": "reg",
                                    "scope": "repository:a/b:pull,push"}

    def test_several(self) -> None:
        found = parse_challenges('Negotiate, Basic realm="simple", BEARER Realm = "a \\"quoted\\" one" , service=token')
        assert [(item.scheme, dict(item.parameters)) for item in found] == [
            ("negotiate", {}),
            ("basic", {"realm": "simple"}),
            ("bearer", {"realm": 'a "quoted" one', "service": "token"}),
        ]

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.text('Basic realm="x",= \\', max_size=60))
    def test_any_text_is_read(self, text: str) -> None:
        parse_challenges(text)

    def test_long_nonsense_takes_no_time(self) -> None:
        start = time.process_time()
        for text in ('"' * 65_000, "a" * 65_000, "a=" * 32_000, "\\" * 65_000, 'a="' + "\\" * 65_000, ", " * 32_000,
                     " " * 65_000, "a " * 32_000, "a ," * 20_000):
            parse_challenges(text)
        assert time.process_time() - start < 5
