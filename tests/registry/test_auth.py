# SPDX-License-Identifier: Apache-2.0
"""Credentials files, challenges and the token flow."""

from __future__ import annotations

import base64
import contextlib
import json
import os
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
    ConfigError,
    SourceUnreachable,
    Unsupported,
)
from bootcd.model import ImageReference
from bootcd.registry.auth import auth_files, look, parse_challenges
from bootcd.registry.sources import open_source
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


class TestFiles:
    def environ(self, tmp_path: Path, **more: str) -> dict[str, str]:
        return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")} | more

    def write(self, path: Path, entries: dict[str, str]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return auth_file(path, entries)

    def test_places(self, tmp_path: Path) -> None:
        """The places of containers-auth.json(5), then our own."""
        assert auth_files({"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/1000"}) == [
            Path("/run/user/1000/containers/auth.json"),
            Path("/home/me/.config/containers/auth.json"),
            Path("/home/me/.docker/config.json"),
            Path("/etc/bootcd/auth.json"),
            Path("/run/ostree/auth.json"), Path("/etc/ostree/auth.json"), Path("/usr/lib/ostree/auth.json"),
        ]
        assert auth_files({})[0] == Path(f"/run/containers/{os.getuid()}/auth.json")
        assert auth_files({"REGISTRY_AUTH_FILE": "/x", "HOME": "/home/me"}) == [Path("/x")]
        changed = auth_files({"HOME": "/home/me", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"})
        assert changed[1:3] == [Path("/c/containers/auth.json"), Path("/d/config.json")]

    def test_the_first_file_with_an_entry_decides(self, tmp_path: Path) -> None:
        self.write(tmp_path / "run/containers/auth.json", {"other.example": "a:b"})
        self.write(tmp_path / "home/.docker/config.json", {"quay.io": "docker:pw"})
        found = look("quay.io", "team/os", environ=self.environ(tmp_path)).found
        assert found is not None
        assert (found.username, found.password) == ("docker", "pw")
        assert found.origin == str(tmp_path / "home/.docker/config.json")
        self.write(tmp_path / "home/.config/containers/auth.json", {"quay.io/team": "podman:pw:with:colons"})
        found = look("quay.io", "team/os", environ=self.environ(tmp_path)).found
        assert found is not None
        assert (found.username, found.password) == ("podman", "pw:with:colons")

    @pytest.mark.parametrize(("host", "repository", "expected"), [
        ("quay.io", "team/os/base", "base"),
        ("quay.io", "team/os", "os"),
        ("quay.io", "team/other", "team"),
        ("quay.io", "teams/os", "host"),
        ("quay.io:443", "team/os", None),
        ("docker.io", "library/busybox", "hub"),
        ("old.example:5000", "x", "old"),
    ])
    def test_keys(self, tmp_path: Path, host: str, repository: str, expected: str | None) -> None:
        file = auth_file(tmp_path / "auth.json", {
            "quay.io": "host:x", "quay.io/team/os": "os:x", "quay.io/team": "team:x", "quay.io/team/os/base": "base:x",
            "https://index.docker.io/v1/": "hub:x", "http://old.example:5000": "old:x"})
        found = look(host, repository, file).found
        assert (found.username if found else None) == expected

    def test_an_empty_entry_is_none(self, tmp_path: Path) -> None:
        file = tmp_path / "auth.json"
        for text in ("", "{}", '{"auths": null}', '{"auths": {"quay.io": {}}, "credsStore": "pass"}'):
            file.write_text(text)
            assert look("quay.io", "os", file).found is None

    def test_missing_files(self, tmp_path: Path) -> None:
        assert look("quay.io", "os", environ=self.environ(tmp_path)).found is None
        with pytest.raises(ConfigError, match=f"{tmp_path}/none: No such file"):
            look("quay.io", "os", tmp_path / "none")
        with pytest.raises(ConfigError, match=f"{tmp_path}/none: No such file"):
            look("quay.io", "os", environ={"REGISTRY_AUTH_FILE": f"{tmp_path}/none"})

    @pytest.mark.parametrize("text", [
        "{", "[]", '"x"', '{"auths": []}', '{"auths": {"quay.io": "x"}}', '{"auths": {"quay.io": {"auth": 5}}}',
        to_json({"auths": {"quay.io": {"auth": SECRET}}}).decode(), '{"auths": {"quay.io": {"auth": "AAAA"}}}',
        '{"auths": {"quay.io": {"auth": "/////w=="}}}',
        to_json({"auths": {"quay.io": {"identitytoken": [SECRET]}}}).decode(),
        "[" * 100_000, " " * (1 << 21), "\x00",
    ])
    def test_malformed_files(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "auth.json").write_text(text)
        with pytest.raises(ConfigError, match=f"credentials file {tmp_path}/auth.json") as caught:
            look("quay.io", "os", tmp_path / "auth.json")
        assert SECRET not in str(caught.value)

    def test_secrets_have_no_repr(self, tmp_path: Path) -> None:
        file = auth_file(tmp_path / "auth.json", {"quay.io": f"me:{SECRET}"})
        assert SECRET not in repr(look("quay.io", "os", file).found)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200) | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["auths", "quay.io", "auth", "identitytoken", "https://quay.io/v1/"]), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()))
    def test_any_content_raises_only_our_error(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        file = tmp_path_factory.getbasetemp() / "any-auth.json"
        file.write_bytes(data)
        with contextlib.suppress(ConfigError):
            look("quay.io", "os", file)


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
        start = time.monotonic()
        for text in ('"' * 65_000, "a" * 65_000, "a=" * 32_000, "\\" * 65_000, 'a="' + "\\" * 65_000, ", " * 32_000,
                     " " * 65_000, "a " * 32_000, "a ," * 20_000):
            parse_challenges(text)
        assert time.monotonic() - start < 2


class TestLook:
    """What is told of the search, which is the search itself."""

    def environ(self, tmp_path: Path) -> dict[str, str]:
        return {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def test_of_each_file_what_came_out(self, tmp_path: Path) -> None:
        for name in ("run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"):
            (tmp_path / name).parent.mkdir(parents=True)
        auth_file(tmp_path / "run/containers/auth.json", {"ghcr.io": f"me:{SECRET}"})
        (tmp_path / ".config/containers/auth.json").mkdir()
        auth_file(tmp_path / ".docker/config.json", {"https://quay.io/v2/": f"robot:{SECRET}"})
        found = look("quay.io", "team/os", None, self.environ(tmp_path))
        assert [(path.relative_to(tmp_path).as_posix(), outcome) for path, outcome in found.files] == [
            ("run/containers/auth.json", "has no entry for quay.io"),
            (".config/containers/auth.json", "cannot be read: Is a directory"),
            (".docker/config.json", "has the entry 'quay.io'")]
        assert found.found is not None
        assert (found.found.username, found.found.entry) == ("robot", "quay.io")
        assert SECRET not in repr(found)

    def test_nothing_anywhere(self, tmp_path: Path) -> None:
        found = look("no.example", "os", None, self.environ(tmp_path))
        assert found.found is None
        assert len(found.files) == len(auth_files(self.environ(tmp_path)))

    def test_a_helper_is_not_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "docker-credential-test"
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        file = tmp_path / "auth.json"
        for document in ({"credHelpers": {"quay.io": "test"}}, {"credsStore": "test"}):
            file.write_text(json.dumps(document))
            program.chmod(0o755)
            monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
            found = look("quay.io", "os", file, ask=False)
            assert (found.found, found.helper) == (None, "docker-credential-test")
            assert not (tmp_path / "started").exists()
            program.chmod(0o644)
            if "credsStore" in document:  # which is for those as well that ask nobody
                assert "is not installed" in look("quay.io", "os", file, ask=False).files[0][1]
            else:
                with pytest.raises(Unsupported, match="docker-credential-test is not installed"):
                    look("quay.io", "os", file, ask=False)
