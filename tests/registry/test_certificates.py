# SPDX-License-Identifier: Apache-2.0
"""certs.d: a registry whose authority only we know, and which wants to know us, with real TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.errors import AuthenticationFailed, ConfigError, SourceUnreachable
from bootcd.registry.certificates import Certificates, advice, find
from bootcd.registry.sources import SourceOptions
from kit.images import IndexBuilder
from kit.pulling import FAST, IMAGE, LAYERS, fetch, pull, serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import ScriptedServer
from kit.tls import Authority


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls"), "server", "machine")


@pytest.fixture(scope="module")
def registry(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """It lets in whoever has a certificate by the authority."""
    if not available():
        pytest.skip("docker-registry is not installed")
    directory = tmp_path_factory.mktemp("registry")
    with RegistryServer(directory) as filling:
        push(IMAGE, f"{filling.address}/os:1")
    with RegistryServer(directory, tls=authority.pair("server"), clients=authority.certificate) as running:
        yield running


def certs(directory: Path, host: str, authority: Authority, *names: str) -> SourceOptions:
    """Options with a certs.d that has the authority's certificate and the pairs `names`."""
    here = directory / host
    here.mkdir(parents=True)
    shutil.copy(authority.certificate, here / "company.crt")
    for name in names:
        for source, ending in zip(authority.pair(name), (".cert", ".key"), strict=True):
            shutil.copy(source, here / f"{name}{ending}")
    return replace(FAST, certs=(directory,))


def test_it_knows_us_and_we_know_it(registry: RegistryServer, authority: Authority, tmp_path: Path) -> None:
    options = certs(tmp_path, registry.address, authority, "machine")
    assert pull(f"{registry.address}/os:1", options) == [layer.tar for layer in LAYERS]


def test_without_our_certificate(registry: RegistryServer, authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationFailed, match=rf"{registry.address} wants a certificate of ours that it trusts"):
        fetch(f"{registry.address}/os:1", certs(tmp_path, registry.address, authority))


def test_without_its_authority(registry: RegistryServer, authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="is not trusted: unable to get local issuer"):
        fetch(f"{registry.address}/os:1", replace(FAST, certs=(tmp_path,)))


def test_an_authority_of_another_host_is_none_for_this_one(
    registry: RegistryServer, authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnreachable, match="is not trusted"):
        fetch(f"{registry.address}/os:1", certs(tmp_path, "127.0.0.1:1", authority, "machine"))


def test_plain_http_needs_none(authority: Authority, tmp_path: Path) -> None:
    with ScriptedServer() as server:
        serve_image(server, IndexBuilder([IMAGE]))
        assert fetch(f"{server.host}/os:1", certs(tmp_path, server.host, authority)).digest == IMAGE.manifest_digest


def test_the_first_directory_that_knows_a_host_counts(tmp_path: Path) -> None:
    for name, file in (("first", "a.crt"), ("second", "b.crt")):
        (tmp_path / name / "r.example:5000").mkdir(parents=True)
        (tmp_path / name / "r.example:5000" / file).touch()
    (tmp_path / "second/other.example").mkdir()
    places = (tmp_path / "none", tmp_path / "first", tmp_path / "second")
    assert find("r.example:5000", places).authorities == (tmp_path / "first/r.example:5000/a.crt",)
    assert find("other.example", places).directory == tmp_path / "second/other.example"
    assert find("r.example", places) == Certificates()


@pytest.mark.parametrize(("names", "message"), [
    (["a.cert"], r"a\.cert: its key a\.key is missing"),
    (["a.key"], r"a\.key: its certificate a\.cert is missing"),
    (["a.crt"], r"a\.crt: no certificates can be read"),
    (["a.cert", "a.key"], r"a\.cert and a\.key are no certificate and its key"),
])
def test_files_that_cannot_be_used(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "127.0.0.1:1").mkdir()
    for name in names:
        (tmp_path / "127.0.0.1:1" / name).write_text("nonsense")
    with pytest.raises(ConfigError, match=message):
        fetch("127.0.0.1:1/os:1", replace(FAST, certs=(tmp_path,)))


def test_a_key_with_a_pass_phrase_does_not_ask_for_it(authority: Authority, tmp_path: Path) -> None:
    options = certs(tmp_path, "127.0.0.1:1", authority, "machine")
    _openssl("pkey", "-in", authority.pair("machine")[1], "-aes256", "-passout", "pass:x", "-out",
             tmp_path / "127.0.0.1:1/machine.key")
    with pytest.raises(ConfigError, match="are no certificate and its key"):
        fetch("127.0.0.1:1/os:1", options)


def test_ca_file_stands_in_place_of_the_systems_authorities(authority: Authority) -> None:
    context = Certificates().context(verify=True, ours=False, ca_file=authority.certificate)
    assert [dict(name[0] for name in one["subject"])["commonName"] for one in context.get_ca_certs()] == ["authority"]


@pytest.mark.parametrize(("code", "says"), [(9, "clock"), (10, "renew"), (62, "name"), (64, "address"),
                                            (18, "/certs.d/quay.io/ca.crt"), (20, "/certs.d/quay.io/ca.crt")])
def test_what_to_do_about_a_certificate(code: int, says: str) -> None:
    assert says in advice(code, "quay.io")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_key_that_only_root_may_read(authority: Authority) -> None:
    certificate, key = authority.pair("machine")
    key.chmod(0o600)
    found = Certificates(certificate.parent, (), ((certificate, key),))
    found.context(verify=True, ours=True)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"machine.key cannot be read: Permission denied"):
            found.context(verify=True, ours=True)
    finally:
        os.seteuid(0)
