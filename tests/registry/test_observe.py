# SPDX-License-Identifier: Apache-2.0
"""Who watches a pull sees what happens, and no secret."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.errors import BootcdError, ImageNotFound
from bootcd.model import ImageReference
from bootcd.registry.credentials import Credentials, Lookup
from bootcd.registry.http import proxy_for
from bootcd.registry.observe import Exchange
from bootcd.registry.opening import open_source
from bootcd.registry.peer import Peer
from bootcd.registry.proxies import Proxy
from bootcd.registry.registries import Registries, parse
from bootcd.registry.sources import SourceOptions
from bootcd.registry.told import Sender, deliver
from kit.images import IndexBuilder
from kit.pulling import AMD64, FAST, IMAGE, SECRET, auth_file, serve_image
from kit.scripted_server import Reply, ScriptedServer


class Seen:
    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.lookups: list[tuple[str, Lookup]] = []
        self.over: list[tuple[str, type[BootcdError]]] = []

    def exchanged(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def looked(self, name: str, lookup: Lookup) -> None:
        self.lookups.append((name, lookup))

    def passed_over(self, place: ImageReference, error: BootcdError) -> None:
        self.over.append((str(place), type(error)))


def test_everything_is_seen_and_no_secret(tmp_path: Path) -> None:
    seen = Seen()
    index = IndexBuilder([IMAGE])
    with ScriptedServer() as server, ScriptedServer() as mirror:
        serve_image(server, index)
        manifest = Reply(body=index.manifest_bytes, headers={"Content-Type": index.media_type})
        server.serve("/v2/os/manifests/1", Reply(401, headers={"WWW-Authenticate": "Basic realm=x"}),
                     Reply(307, headers={"Location": f"/{SECRET}?signature={SECRET}"}))
        server.serve(f"/{SECRET}", manifest)
        file = auth_file(tmp_path / "auth.json", {server.host: f"me:{SECRET}"})
        tables = f'[[registry]]\nprefix = "quay.io"\nlocation = "{server.host}"\n[[registry.mirror]]\n' \
                 f'location = "{mirror.host}"\n'
        source = open_source(ImageReference.parse("quay.io/os:1"), replace(FAST, observer=seen, auth_file=file),
                             Registries(parse(tables.encode(), "here")))
        fetched = source.manifest(AMD64)
        source.close()
    assert seen.over == [(f"{mirror.host}/os:1", ImageNotFound)]
    assert [(name, lookup.found is not None) for name, lookup in seen.lookups] == [(f"{server.host}/os", True)]
    plain = [(one.host, one.path, one.authorization, one.status) for one in seen.exchanges if one.scheme == "http"]
    path = "/v2/os/manifests/"
    assert plain == [
        (mirror.host, f"{path}1", "", 404), (server.host, f"{path}1", "", 401), (server.host, f"{path}1", "Basic", 307),
        (server.host, "", "Basic", 200), (server.host, f"{path}{IMAGE.manifest_digest}", "Basic", 200)]
    assert all(one.problem.startswith("TLS failed") for one in seen.exchanges if one.scheme == "https")
    assert SECRET not in repr((seen.exchanges, seen.lookups))
    assert [item.digest for item in fetched.indexes[0].manifests] == [IMAGE.manifest_digest]


def test_a_proxy_shows_where_it_is_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = proxy_for("https://quay.io/v2/", SourceOptions(proxy=f"http://me:{SECRET}@[::1]:3128/{SECRET}"))
    assert proxy.place == "[::1]:3128"
    assert SECRET in proxy.settings()["https"]
    assert SECRET not in repr(proxy)
    assert proxy_for("https://quay.io/", SourceOptions()).place == ""
    assert proxy_for("https://127.0.0.1:5000/", SourceOptions(proxy="http://proxy.example")).settings() == {}
    assert proxy_for("https://a.corp.example/", SourceOptions(
        proxy="http://proxy.example", no_proxy=("corp.example",))).settings() == {}


@given(scheme=st.sampled_from(["", "http://", "socks5://"]), password=st.text())
def test_no_password_makes_an_address_tell_it(scheme: str, password: str) -> None:
    for address in (f"{scheme}me:{password}@proxy.example:3128", f"{scheme}me:{password}@proxy.example:3128/{scheme}"):
        assert Proxy("", address).place == "proxy.example:3128"
    assert Proxy("", f"{scheme}proxy.example:3128/").place == "proxy.example:3128"


class TestCrossingOver:
    """From the process that fetches."""

    PEER = Peer("server", "authority", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC), False)
    EXCHANGE = Exchange("GET", "https", "quay.io", "/v2/", Proxy("why", f"http://me:{SECRET}@proxy.example:1", "v"),
                        "Basic", 200, "", PEER, trusted=True)
    LOOKUP = Lookup(Credentials("file", "me", SECRET, SECRET, "quay.io"), ((Path("/a"), "is not there"),), "", "v")

    def test_all_but_the_secrets_arrives(self) -> None:
        seen, sent = Seen(), list[bytes]()
        sender = Sender(sent.append)
        sender.exchanged(self.EXCHANGE)
        sender.looked("quay.io/os", self.LOOKUP)
        sender.looked("quay.io/os", Lookup(None, (), "docker-credential-x"))
        assert not any(SECRET.encode() in one for one in sent)
        for one in sent:
            deliver(one, seen)
        assert seen.exchanges == [replace(self.EXCHANGE, proxy=Proxy("why", "proxy.example:1", "v"))]
        assert seen.lookups == [
            ("quay.io/os", replace(self.LOOKUP, found=Credentials("file", "me", "", entry="quay.io"))),
            ("quay.io/os", Lookup(None, (), "docker-credential-x"))]

    @given(data=st.data())
    def test_nonsense_is_refused(self, data: st.DataObject) -> None:
        sent: list[bytes] = []
        Sender(sent.append).exchanged(self.EXCHANGE)
        Sender(sent.append).looked("quay.io/os", self.LOOKUP)
        document = json.loads(data.draw(st.sampled_from(sent)))
        place = document
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()))
        with contextlib.suppress(ValueError):
            deliver(json.dumps(document).encode(), Seen())

    @pytest.mark.parametrize("content", [b"", b"{", b"7", b"[]", b"{}", b"[" * 100_000, b'{"exchange": 7}',
                                         b'{"name": "a", "lookup": {}}'])
    def test_what_is_none_of_it(self, content: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, it becomes one sentence
            deliver(content, Seen())
