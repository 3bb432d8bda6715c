# SPDX-License-Identifier: Apache-2.0
"""`bootcctl doctor` against real servers: it says what a pull does, and why it fails, and nobody's secret.

Every test looks at both outputs, and in all of them for the secrets that the test knows.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bootcd.cli.main import main
from bootcd.cli.text import printable
from bootcd.model import Platform
from bootcd.ops.pull import options_for
from kit.artifacts import ArtifactBuilder, serve_list
from kit.images import ImageBuilder, IndexBuilder
from kit.pulling import LAYERS, SECRET, auth_file, serve_image
from kit.push import push
from kit.registry_server import PASSWORD, USER, RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen
from kit.signing import BUNDLE, EMAIL, ISSUER, Fulcio, Signatures, key_signature, statement, write_key
from kit.timestamping import TimeAuthority
from kit.tls import DAY, Authority
from kit.transparency import TiledLog

IMAGE = ImageBuilder(LAYERS[:1])
OTHER = Platform("linux", "s390x")
TOKEN = "token-that-nobody-may-see"
KEY = ec.generate_private_key(ec.SECP256R1())
PROXIES = [name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind}_PROXY".upper())]

needs_registry = pytest.mark.skipif(not available(), reason="docker-registry is not installed")


@dataclass
class Doctor:
    """Calls `bootcctl doctor`. The machine has no files but those of `directory`, and its settings are `config`."""

    directory: Path
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture
    config: dict[str, dict[str, str]] = field(default_factory=dict)
    out: str = ""

    def file(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.write_text(content)
        return path

    def setting(self, table: str, key: str, value: object) -> None:
        self.config.setdefault(table, {})[key] = json.dumps(value if isinstance(value, list) else str(value))

    def policy(self, *requirements: dict[str, Any]) -> Path:
        path = self.file("policy.json", json.dumps({"default": list(requirements)}))
        self.setting("trust", "policy", path)
        return path

    def registries(self, text: str) -> None:
        self.setting("registry", "registries-file", self.file("registries.conf", text))

    def credentials(self, text: str = "", **entries: str) -> Path:
        path = self.directory / "auth.json"
        path.write_text(text) if text else auth_file(path, entries)
        self.setting("registry", "auth-file", path)
        return path

    def arguments(self, *words: str) -> list[str]:
        config = self.file("bootcd.toml", "".join(
            f"[{table}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            for table, keys in self.config.items()))
        return ["--config", str(config), "--sysroot", str(self.directory / "sysroot"), "doctor", *words]

    def __call__(self, reference: str, *options: str, status: int = 0) -> dict[str, Any]:
        """The steps by name; of several places those of the last. What is printed for people is in `out`."""
        with self.caplog.at_level(logging.DEBUG):
            statuses = [main(self.arguments(*options, *form, reference)) for form in ((), ("--json",))]
        text, err = self.capsys.readouterr()
        self.out, brace, document = text.partition("\n{")
        assert statuses == [status, status], text + err
        assert not err
        for secret in (SECRET, PASSWORD, TOKEN):
            assert secret not in text + self.caplog.text
        found: dict[str, Any] = json.loads(brace + document)
        assert found["exit-status"] == status
        assert found["works"] == (status == 0 if "--offline" not in options or status else None)
        # Whatever the program knows, people are told.
        flat = " ".join(self.out.split())
        assert found["summary"] in flat
        for step in found["steps"]:
            for line in step["says"]:
                assert " ".join(printable(line).split()) in flat
        assert not (self.directory / "sysroot").exists()
        return found | {step["step"]: step for step in found["steps"]}


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
           monkeypatch: pytest.MonkeyPatch) -> Doctor:
    for name in (*PROXIES, "REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
                 "DOCKER_CONFIG", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Doctor(tmp_path, capsys, caplog)
    made.registries("")
    made.policy({"type": "insecureAcceptAnything"})
    return made


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        serve_image(running, IMAGE)
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """With a password; it has os:1."""
    with RegistryServer(tmp_path_factory.mktemp("registry"), password=True) as running:
        push(IMAGE, f"{running.address}/os:1", auth=(USER, PASSWORD))
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls"), "server", "machine")


def says(step: dict[str, Any]) -> str:
    return "\n".join(step["says"])


# --- names and places -------------------------------------------------------------------------------------------------


def test_a_pull_that_works(doctor: Doctor, server: ScriptedServer) -> None:
    found = doctor(f"{server.host}/os:1")
    assert found["summary"] == "A pull would work."
    assert [step["step"] for step in found["steps"]] == [
        "name", "registries.conf", "proxy", "certificates", "credentials", "connection", "answer", "manifest",
        "policy", "config", "layers"]
    assert {step["state"] for step in found["steps"][:-1]} == {"ok"}
    assert found["layers"]["state"] == "left-out", "there is no repository"
    assert f"no repository at {doctor.directory}/sysroot/composefs" in says(found["layers"])
    assert found["name"]["facts"]["tag"] == "1"
    assert "loopback" in says(found["proxy"])
    assert "plain HTTP, which is permitted there" in says(found["connection"])
    assert f"GET {server.host}/v2/os/manifests/1: HTTP 200" in says(found["answer"])
    assert "the registry did not ask for them" in says(found["credentials"])
    assert found["manifest"]["facts"]["digest"] == IMAGE.manifest_digest
    assert "any image is taken" in says(found["policy"])
    assert f"for {IMAGE.platform}" in says(found["config"])


@pytest.mark.parametrize("reference", ["os", "quay.io/", "quay.io/os@sha256:1", "no registry"])
def test_a_name_that_is_none(doctor: Doctor, reference: str) -> None:
    found = doctor(reference, status=2)
    assert f"failed: image reference '{reference}'" in doctor.out
    assert len(found["steps"]) == 1


def test_an_alias_stands_for_a_name(doctor: Doctor) -> None:
    doctor.registries('[aliases]\nos = "quay.io/team/os"\n')
    found = doctor("os:1", "--offline")
    assert "os:1 stands for quay.io/team/os:1" in says(found["name"])
    assert found["name"]["facts"]["name"] == "quay.io/team/os"
    assert doctor("other:1", "--offline", status=2)["message"].endswith("names no registry")


def test_docker_hub(doctor: Doctor) -> None:
    found = doctor("docker.io/busybox", "--offline")
    assert "registry-1.docker.io serves it, as library/busybox" in says(found["name"])
    assert "the tag is latest" in says(found["name"])


def test_a_host_that_does_not_exist(doctor: Doctor) -> None:
    found = doctor("no-such-host.invalid/os:1", status=7)
    assert "failed: no-such-host.invalid/os:1: the name of the host cannot be resolved" in doctor.out
    assert (found["connection"]["state"], found["connection"]["error"]) == (
        "failed", "org.bootcd1.Error.SourceUnreachable")
    assert "getent hosts" in found["advice"]
    assert "insecureAcceptAnything" in says(found["policy"])  # which needs no network


def test_nobody_listens(doctor: Doctor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        found = doctor(f"{host}/os:1", status=7)
    assert "Connection refused" in says(found["connection"])
    assert found["connection"]["state"] == "failed"
    assert "answer" not in found


def test_a_blocked_name(doctor: Doctor, server: ScriptedServer) -> None:
    doctor.registries(f'[[registry]]\nprefix = "{server.host}/os"\nlocation = "{server.host}/os"\nblocked = true\n')
    found = doctor(f"{server.host}/os:1", status=11)
    assert "is blocked in" in says(found["registries.conf"])
    assert found["registries.conf"]["facts"]["prefix"] == f"{server.host}/os"
    assert server.seen == []


def test_registries_conf_that_makes_no_sense(doctor: Doctor) -> None:
    doctor.registries("[[registry]]\nlocation = 3\n")
    found = doctor("quay.io/os:1", status=2)
    assert "registries.conf: [[registry]] 1: location: expected a string" in says(found["registries.conf"])
    assert found["policy"]["state"] == "ok"


def test_mirrors_are_told_in_their_order(doctor: Doctor, server: ScriptedServer) -> None:
    with ScriptedServer() as empty:
        doctor.registries(f"""
[[registry]]
prefix = "quay.io/team"
location = "quay.io/moved"
[[registry.mirror]]
location = "{empty.host}"
[[registry.mirror]]
location = "far.example/os"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "{server.host}"
""")
        found = doctor("quay.io/team/os:1")
    assert "mirror far.example/os is digest-only, and therefore not asked" in says(found["registries.conf"])
    assert says(found["registries.conf"]).splitlines()[-3:] == [
        f"mirror: {empty.host}/os:1", f"mirror: {server.host}/os:1", "registry: quay.io/moved/os:1"]
    answers = {step["about"]: step for step in found["steps"] if step["step"] == "answer"}
    assert {about: step["state"] for about, step in answers.items()} == {
        f"mirror {empty.host}/os:1": "warning", f"mirror {server.host}/os:1": "ok",
        "registry quay.io/moved/os:1": "left-out"}
    assert "the registry has no such image" in says(answers[f"mirror {empty.host}/os:1"])
    assert "one before it delivers" in says(answers["registry quay.io/moved/os:1"])


def test_all_mirrors_fail(doctor: Doctor) -> None:
    with ScriptedServer() as empty, ScriptedServer() as other:
        doctor.registries(f'[[registry]]\nprefix = "quay.io"\nlocation = "{other.host}"\n'
                          f'[[registry.mirror]]\nlocation = "{empty.host}"\n')
        found = doctor("quay.io/os:1", status=3)
    assert [step["state"] for step in found["steps"] if step["step"] == "answer"] == ["failed", "failed"]
    assert "and elsewhere: " in found["message"]


# --- proxies ----------------------------------------------------------------------------------------------------------


def test_which_proxy_and_why(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy() -> str:
        return says(doctor("quay.io/os:1", "--offline")["proxy"])

    assert proxy() == "none (neither bootcd.toml nor the environment names one)"
    monkeypatch.setenv("ALL_PROXY", f"http://user:{SECRET}@all.example:1")
    assert proxy() == "all.example:1 (ALL_PROXY of the environment)"
    monkeypatch.setenv("https_proxy", f"user:{SECRET}@proxy.example:3128")
    assert proxy() == "proxy.example:3128 (https_proxy of the environment)"
    assert "environment, of which https_proxy counts here" in doctor.out
    monkeypatch.setenv("NO_PROXY", "quay.io")
    assert proxy() == "none (NO_PROXY of the environment excepts this host)"
    monkeypatch.delenv("NO_PROXY")
    doctor.setting("registry", "proxy", f"http://user:{SECRET}@gate.example:80")
    assert proxy() == "gate.example:80 (proxy in bootcd.toml)"
    assert "Note: The daemon does not have" not in doctor.out
    doctor.setting("registry", "no-proxy", [".io"])
    assert proxy() == "none (no-proxy in bootcd.toml excepts this host)"


def test_a_proxy_that_does_not_work(doctor: Doctor) -> None:
    doctor.setting("registry", "proxy", f"http://user:{SECRET}@127.0.0.1:1")
    found = doctor("quay.io/os:1", status=7)
    assert "the proxy does not work" in says(found["connection"])
    assert "127.0.0.1:1" in says(found["proxy"])
    assert "proxy" in found["advice"]


# --- credentials ------------------------------------------------------------------------------------------------------


@needs_registry
def test_a_registry_with_a_password(doctor: Doctor, registry: RegistryServer) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as closed:  # to the daemon
        file = auth_file(Path(closed, "auth.json"), {registry.address: f"{USER}:{PASSWORD}"})
        doctor.setting("registry", "auth-file", file)
        found = doctor(f"{registry.address}/os:1")
    assert f"they are those of user {USER}" in says(found["credentials"])
    assert any(note.startswith("The daemon cannot see ") and str(file) in note for note in found["notes"])
    assert found["credentials"]["facts"] == {"file": str(file), "entry": registry.address, "user": USER}
    assert "HTTP 401, it asks who we are" in says(found["answer"])
    assert ", with credentials: HTTP 200" in says(found["answer"])


@needs_registry
def test_credentials_that_are_wrong_or_missing(doctor: Doctor, registry: RegistryServer) -> None:
    file = doctor.credentials(**{registry.address: f"{USER}:{SECRET}", "quay.io": f"me:{SECRET}"})
    found = doctor(f"{registry.address}/os:1", status=7)
    assert f"refuses access (HTTP 401) with the credentials from {file}" in says(found["answer"])
    assert "it does not accept who we are" in says(found["answer"])
    doctor.credentials(**{"quay.io": f"me:{SECRET}"})
    found = doctor(f"{registry.address}/os:1", status=7)
    assert f"there are no credentials for {registry.address} in {file}" in says(found["answer"])
    assert f"{file} has no entry for {registry.address}" in says(found["credentials"])
    assert "podman login" in found["advice"]


@needs_registry
@pytest.mark.parametrize(("text", "status", "says_"), [
    ("{", 2, "not JSON"), (f'{{"auths": {{"HOST": {{"auth": "{SECRET}"}}}}}}', 2, "not the base64 form"),
    ('{"credHelpers": {"HOST": "nowhere"}}', 13, "docker-credential-nowhere is not installed"),
])
def test_a_credentials_file_that_cannot_be_used(
    doctor: Doctor, registry: RegistryServer, server: ScriptedServer, text: str, status: int, says_: str,
) -> None:
    doctor.credentials(text.replace("HOST", registry.address))
    found = doctor(f"{registry.address}/os:1", status=status)
    assert (found["credentials"]["state"], found["answer"]["state"]) == ("warning", "failed")
    assert says_ in says(found["credentials"])
    assert says_ in says(found["answer"])
    # Who asks nobody is not kept from anything by it.
    doctor.credentials(text.replace("HOST", server.host))
    assert doctor(f"{server.host}/os:1")["credentials"]["state"] == "warning"
    assert f"warning: {found['credentials']['says'][-1]}".replace(registry.address, server.host) in doctor.out


@needs_registry
def test_a_helper_is_asked_as_by_a_pull(
    doctor: Doctor, registry: RegistryServer, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = doctor.directory / "bin"
    programs.mkdir()
    program = programs / "docker-credential-test"
    program.write_text(f"#!/bin/sh\necho asked >> {doctor.directory}/log\n"
                       f"echo '{{\"Username\": \"{USER}\", \"Secret\": \"{PASSWORD}\"}}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    doctor.credentials('{"credsStore": "test"}')
    log = doctor.directory / "log"
    doctor(f"{registry.address}/os:1", "--offline")
    assert not log.exists()
    found = doctor(f"{server.host}/os:1")
    if os.geteuid() == 0:  # the process without rights cannot start anything any more
        assert "docker-credential-test is asked before the registry is" in says(found["credentials"])
        log.unlink()
    assert not log.exists()
    found = doctor(f"{registry.address}/os:1")
    assert f"they are those of user {USER}" in says(found["credentials"])
    assert log.read_text() == "asked\n" * 2  # once for each of the two outputs


def test_places_where_credentials_may_be(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = doctor.directory / ".docker"
    docker.mkdir()
    auth_file(docker / "config.json", {"quay.io/team": f"robot:{SECRET}"})
    found = doctor("quay.io/team/os:1", "--offline")
    assert f"{docker}/config.json has the entry 'quay.io/team'" in says(found["credentials"])
    assert "user robot" in says(found["credentials"])
    found = doctor("quay.io/other/os:1", "--offline")
    assert "there are none for quay.io" in says(found["credentials"])
    assert f"there is no /run/containers/{os.getuid()}/auth.json, {doctor.directory}/.config/containers/auth.json" in (
        says(found["credentials"]))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(docker / "nothing.json"))
    found = doctor("quay.io/team/os:1", "--offline")
    assert found["credentials"]["state"] == "warning"
    assert "nothing.json: No such file" in says(found["credentials"])


def test_a_token(doctor: Doctor, server: ScriptedServer) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.headers.get("authorization") == f"Bearer {TOKEN}":
            return Reply(body=IMAGE.manifest_bytes, headers={"Content-Type": IMAGE.media_type})
        realm = f"http://{server.host}/token?secret={SECRET}"
        return Reply(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="svc"'})

    server.serve("/v2/os/manifests/1", answer)
    server.serve("/token", Reply(body=json.dumps({"token": TOKEN}).encode()))
    doctor.credentials(**{server.host: f"me:{SECRET}"})
    found = doctor(f"{server.host}/os:1")
    assert f"GET {server.host}, with credentials: HTTP 200" in says(found["answer"])
    assert ", with a token: HTTP 200" in says(found["answer"])
    server.serve("/token", Reply(403))
    found = doctor(f"{server.host}/os:1", status=7)
    assert "gives no token (HTTP 403)" in says(found["answer"])


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    directory = tmp_path_factory.mktemp("secure")
    with RegistryServer(directory) as filling:
        push(IMAGE, f"{filling.address}/os:1")
    with RegistryServer(directory, tls=authority.pair("server")) as running:
        yield running


@needs_registry
def test_an_authority_that_is_trusted(doctor: Doctor, secure: RegistryServer, authority: Authority) -> None:
    doctor.setting("registry", "ca-file", authority.certificate)
    found = doctor(f"{secure.address}/os:1")
    assert f"the authorities of {authority.certificate}" in says(found["certificates"])
    assert f"{secure.address}: TLS, certificate for server, issued by authority, valid until " in says(
        found["connection"])
    assert found["connection"]["facts"]["issuer"] == "authority"


@needs_registry
def test_an_authority_that_nobody_knows(doctor: Doctor, secure: RegistryServer) -> None:
    found = doctor(f"{secure.address}/os:1", status=7)
    assert f"the certificate of {secure.address} is not trusted: unable to get local" in says(found["connection"])
    assert "the certificate is for server, issued by authority, valid until" in says(found["connection"])
    assert f"/etc/bootcd/certs.d/{secure.address}/ca.crt" in found["advice"]


@needs_registry
def test_a_certificate_that_nobody_verifies(doctor: Doctor, secure: RegistryServer) -> None:
    doctor.setting("registry", "insecure", [secure.address])
    found = doctor(f"{secure.address}/os:1")
    assert "configured as insecure" in says(found["certificates"])
    assert "which nobody verified" in says(found["connection"])


@needs_registry
@pytest.mark.parametrize(("valid", "address", "reason", "advice"), [
    (-DAY, "127.0.0.1", "certificate has expired", "must renew it"),
    (DAY, "127.0.0.2", "IP address mismatch", "asked by a name"),
])
def test_a_certificate_that_does_not_hold(
    doctor: Doctor, authority: Authority, tmp_path: Path, valid: timedelta, address: str, reason: str, advice: str,
) -> None:
    doctor.setting("registry", "ca-file", authority.certificate)
    pair = authority.issue("bad", valid, address)
    with RegistryServer(tmp_path / "registry", tls=pair) as running:
        found = doctor(f"{running.address}/os:1", status=7)
    assert reason in says(found["connection"])
    assert ("expired since" in says(found["connection"])) == (valid < timedelta())
    assert advice in found["advice"]


@needs_registry
def test_a_registry_that_wants_to_know_us(
    doctor: Doctor, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryServer(tmp_path / "registry") as filling:
        push(IMAGE, f"{filling.address}/os:1")
    with RegistryServer(tmp_path / "registry", tls=authority.pair("server"), clients=authority.certificate) as running:
        here = tmp_path / "certs.d" / running.address
        here.mkdir(parents=True)
        # The directories of /etc are no place for tests.
        monkeypatch.setattr("bootcd.ops.doctor.options_for", lambda reference, config: replace(
            options_for(reference, config), certs=(here.parent,)))
        shutil.copy(authority.certificate, here / "company.crt")
        found = doctor(f"{running.address}/os:1", status=7)
        assert "wants a certificate of ours that it trusts" in says(found["connection"])
        for source, name in zip(authority.pair("machine"), ("machine.cert", "machine.key"), strict=True):
            shutil.copy(source, here / name)
        found = doctor(f"{running.address}/os:1")
        assert f"so are those of {here}/company.crt" in says(found["certificates"])
        assert f"it is shown our certificate {here}/machine.cert" in says(found["certificates"])
        assert found["certificates"]["facts"]["directory"] == str(here)
        (here / "machine.key").unlink()
        found = doctor(f"{running.address}/os:1", status=2)
        assert "its key machine.key is missing" in says(found["certificates"])
        assert found["answer"]["state"] == "left-out"
        assert found["policy"]["state"] == "ok"


# --- the image --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reply", "status", "says_"), [
    (Reply(404, b"{}"), 3, "the registry has no such image"), (Reply(403, b"{}"), 7, "refuses access (HTTP 403)"),
    (Reply(503), 7, "HTTP 503 (gave up after 2 attempts)"), (Reply(body=b"{}"), 5, "manifest"),
    (Reply(429, headers={"Retry-After": "0"}), 7, "it was asked too often"),
    (Reply(body=b"x" * 1000, cut_after=10), 7, "the connection broke off"),
    (Reply(302, headers={"Location": "http://[bad"}), 7, "the address that was given makes no sense"),
    (Reply(302, headers={"Location": "/v2/os/manifests/1"}), 7, "more than 8 redirects"),
    (Reply(302, headers={"Location": "/v2/\x1b[31m"}), 3, "it refers to another address"),
    (Reply(302, headers={"Location": "http://images.example/"}), 7, "over plain HTTP, which is not permitted"),
    (Reply(401, headers={"WWW-Authenticate": 'Bearer realm="https://a:b@c/"'}), 7, "makes no sense"),
    (Reply(401, headers={"WWW-Authenticate": "Bearer realm=,="}), 7, "token service of"),
])
def test_what_a_registry_answers(doctor: Doctor, server: ScriptedServer, reply: Reply, status: int, says_: str) -> None:
    server.serve("/v2/os/manifests/1", reply)
    found = doctor(f"{server.host}/os:1", status=status)
    assert found["answer"]["state"] == "failed"
    assert says_ in says(found["answer"])
    assert f"failed: {found['message']}" in doctor.out
    assert "\x1b" not in doctor.out


def test_the_platform_is_chosen(doctor: Doctor, server: ScriptedServer) -> None:
    foreign = ImageBuilder(LAYERS[1:2], platform=OTHER)
    serve_image(server, IndexBuilder([foreign, IMAGE]))
    found = doctor(f"{server.host}/os:1")
    assert found["manifest"]["says"][-2:] == [f"linux/s390x, {foreign.manifest_digest}",
                                             f"{IMAGE.platform}, {IMAGE.manifest_digest} (taken)"]
    serve_image(server, IndexBuilder([foreign]))
    found = doctor(f"{server.host}/os:1", status=9)
    assert f"the index has no manifest for {Platform.current()}, only for: linux/s390x" in says(found["answer"])


def test_an_image_for_another_machine(doctor: Doctor, server: ScriptedServer) -> None:
    serve_image(server, ImageBuilder(LAYERS[1:2], platform=OTHER))
    found = doctor(f"{server.host}/os:1", status=9)
    assert "the image is for linux/s390x" in says(found["config"])


def test_a_redirect_keeps_its_signature_to_itself(doctor: Doctor, server: ScriptedServer) -> None:
    path = f"/v2/os/blobs/{IMAGE.manifest['config']['digest']}"
    with ScriptedServer() as store:
        store.serve(f"/{SECRET}", Reply(body=IMAGE.config_bytes))
        server.serve(path, Reply(307, headers={"Location": f"http://{store.host}/{SECRET}?signature={SECRET}"}))
        found = doctor(f"{server.host}/os:1")
        assert found["config"]["says"][:2] == [f"GET {server.host}{path}: HTTP 307, it refers to another address",
                                              f"GET {store.host}: HTTP 200"]
        store.serve(f"/{SECRET}", Reply(403))
        assert "after a redirect" in says(doctor(f"{server.host}/os:1", status=7)["config"])


# --- trust ------------------------------------------------------------------------------------------------------------


def test_a_policy_that_rejects(doctor: Doctor, server: ScriptedServer) -> None:
    file = doctor.policy({"type": "reject"})
    for options in ((), ("--offline",)):
        found = doctor(f"{server.host}/os:1", *options, status=16)
        assert f"refused by {file}, default: it rejects every image there" in says(found["policy"])
    assert found["error"] == "org.bootcd1.Error.PolicyRejected"


def test_without_a_policy(doctor: Doctor, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    del doctor.config["trust"]
    for module in ("registry.judgement", "ops.doctor"):  # this machine may well have one
        monkeypatch.setattr(f"bootcd.{module}.POLICIES", (doctor.directory / "a.json", doctor.directory / "b.json"))
    found = doctor(f"{server.host}/os:1")
    assert f"there is neither {doctor.directory}/a.json nor {doctor.directory}/b.json" in says(found["policy"])
    assert "any image is taken, and no signature is asked for" in says(found["policy"])


def test_signatures(doctor: Doctor, server: ScriptedServer) -> None:
    key = write_key(KEY, doctor.directory / "vendor.pub")
    doctor.policy({"type": "sigstoreSigned", "keyPath": key})
    reference = f"{server.host}/os:1"
    found = doctor(reference, status=16)
    assert f"a sigstore signature by the key of {key}, for this name" in says(found["policy"])
    tag = Signatures.tag(IMAGE.manifest_digest)
    assert f"GET {server.host}/v2/os/manifests/{tag}: HTTP 404" in says(found["policy"])
    assert "a signature is needed (sigstoreSigned), and there is none" in found["message"]
    for name, status, says_ in (("other.example/os:1", 16, "does not count: it calls the image"),
                                (reference, 0, "counts, by sigstore key")):
        signed = Signatures([key_signature(KEY, IMAGE.manifest_digest, name)])
        server.serve(f"/v2/os/manifests/{tag}", Reply(body=signed.manifest_bytes,
                                                      headers={"Content-Type": signed.media_type}))
        for digest, data in signed.blobs().items():
            server.serve(f"/v2/os/blobs/{digest}", Reply(body=data))
        found = doctor(reference, status=status)
        assert f"{tag}, signature 1: {says_}" in says(found["policy"])
    assert found["policy"]["facts"]["accepted"] == "yes"
    Path(key).unlink()
    assert "cannot be read" in says(doctor(reference, "--offline", status=5)["policy"])


def test_a_log_that_proves_and_a_time_stamp(doctor: Doctor, server: ScriptedServer) -> None:
    log, clock, fulcio = TiledLog(), TimeAuthority(), Fulcio()
    authority = doctor.file("ca.pem", (fulcio.pem() + fulcio.middle.public_bytes(Encoding.PEM)).decode())
    times = doctor.file("times.pem", clock.pem().decode())
    key = write_key(log.key, doctor.directory / "log.pub")
    doctor.policy({"type": "sigstoreSigned", "rekorPublicKeyPath": key, "fulcio": {
        "caPath": str(authority), "oidcIssuer": ISSUER, "subjectEmail": EMAIL}})
    doctor.setting("trust", "bundles", [server.host])
    made = fulcio.bundle(statement(IMAGE.manifest_digest), log, stamps=[clock.stamp])
    serve_list(server, IMAGE, ArtifactBuilder(IMAGE, BUNDLE, [(BUNDLE, json.dumps(made).encode(), {})]))
    said = says(doctor(f"{server.host}/os:1", status=16)["policy"])
    assert "its time stamp does not count: [trust] timestamp-ca-file in bootcd.toml names nobody" in said
    doctor.setting("trust", "timestamp-ca-file", times)
    found = doctor(f"{server.host}/os:1", status=0)
    assert f"time stamps count whose authority is in {times}" in says(found["policy"])
    assert found["policy"]["facts"]["signed-by"] == (
        f"{EMAIL} by {ISSUER}, logged as entry 5 of log.example, with the key of {key}, time stamped "
        "2023-11-14T22:13:20+00:00 by clock.example")
    times.unlink()
    found = doctor(f"{server.host}/os:1", status=5)
    assert "times.pem: what signatures are verified with cannot be read" in says(found["policy"])


def test_signatures_behind_a_mirror_that_nobody_listens_at(doctor: Doctor, server: ScriptedServer) -> None:
    doctor.registries(f'[[registry]]\nprefix = "quay.io"\nlocation = "{server.host}"\n'
                      '[[registry.mirror]]\nlocation = "127.0.0.1:1"\n')
    doctor.policy({"type": "sigstoreSigned", "keyPath": write_key(KEY, doctor.directory / "vendor.pub")})
    found = doctor("quay.io/os:1", status=16)
    assert found["error"] == "org.bootcd1.Error.SignatureMissing"
    tag = Signatures.tag(IMAGE.manifest_digest)
    assert f"GET {server.host}/v2/os/manifests/{tag}: HTTP 404" in says(found["policy"])


@pytest.mark.parametrize(("stores", "where"), [
    ("", "file:///var/lib/containers/sigstore (the usual store)"),
    ("default-docker: {lookaside: 'https://sigs.example/store'}", "https://sigs.example/store (HERE/site.yaml)")])
def test_where_openpgp_signatures_are(doctor: Doctor, stores: str, where: str) -> None:
    (doctor.directory / "stores").mkdir()
    (doctor.directory / "stores" / "site.yaml").write_text(stores)
    doctor.setting("trust", "registries-d", doctor.directory / "stores")
    ring = doctor.directory / "ring.gpg"
    ring.write_bytes(b"\x99\x01")
    doctor.policy({"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(ring)})
    found = doctor("quay.io/os:1", "--offline")
    assert f"OpenPGP signatures are looked for in {where.replace('HERE', f'{doctor.directory}/stores')}" in says(
        found["policy"])
    assert f"an OpenPGP signature by a key of {ring}" in says(found["policy"])


@pytest.mark.parametrize(("text", "says_"), [("{", "not JSON"), ('{"default": [{"type": "trustMe"}]}', "trustMe")])
def test_a_policy_that_makes_no_sense(doctor: Doctor, server: ScriptedServer, text: str, says_: str) -> None:
    doctor.policy().write_text(text)
    found = doctor(f"{server.host}/os:1", status=5)
    assert found["policy"]["state"] == "failed"
    assert says_ in says(found["policy"])
    assert found["config"]["state"] == "ok"


# --- offline, local, and who asks -------------------------------------------------------------------------------------


def test_offline_means_it(doctor: Doctor, server: ScriptedServer) -> None:
    found = doctor(f"{server.host}/os:1", "--offline")
    assert server.seen == []
    assert found["summary"].startswith("Nothing that can be seen without a connection")
    assert says(found["answer"]) == "left out by --offline"
    assert "connection" not in found


@pytest.mark.parametrize("options", [(), ("--offline",)])
def test_an_image_in_a_directory(doctor: Doctor, options: tuple[str, ...]) -> None:
    layout = doctor.directory / "layout"
    IMAGE.write_layout(layout, "1")
    found = doctor(f"oci:{layout}:1", status=0)
    assert [step["step"] for step in found["steps"]] == ["name", "source", "manifest", "policy", "config", "layers"]
    assert found["manifest"]["facts"]["digest"] == IMAGE.manifest_digest
    found = doctor(f"oci:{layout}:2", status=3)
    assert "has no image named '2'" in says(found["source"])
    found = doctor(f"oci-archive:{doctor.directory}/nothing.tar", status=7)
    assert "there is no file" in says(found["source"])
    assert found["policy"]["state"] == "ok"


def test_what_is_closed_to_the_daemon_is_so_by_its_unit() -> None:
    unit = (Path(__file__).parents[2] / "systemd" / "bootcd.service.in").read_text().splitlines()
    # /home, /root and /run/user; /tmp and /var/tmp (systemd.exec(5))
    assert {"ProtectHome=yes", "PrivateTmp=yes"} <= set(unit)


AS = """
import contextlib, io, os, sys
from bootcd.cli.main import main
from bootcd.cli.text import printable
with contextlib.redirect_stdout(io.StringIO()):
    main(sys.argv[2:])  # imports everything, from where only root may read
os.seteuid(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_who_may_not_read_everything(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:  # those of pytest are closed to others
        doctor.directory = Path(directory)
        doctor.directory.chmod(0o755)
        monkeypatch.setenv("HOME", directory)
        doctor.registries("")
        doctor.policy({"type": "insecureAcceptAnything"})
        private = doctor.directory / ".config" / "containers"
        private.mkdir(parents=True)
        auth_file(private / "auth.json", {"quay.io": f"me:{SECRET}"}).chmod(0o600)
        said = {}
        for user in (0, 65534):
            done = subprocess.run([sys.executable, "-c", AS, str(user), *doctor.arguments("--offline", "quay.io/os:1")],
                                  capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert SECRET not in done.stdout
            said[user] = done.stdout
    assert "Note: This is what uid" not in said[0]
    assert "they are those of user me" in said[0]
    assert "Note: This is what uid 65534 can read" in said[65534]
    assert f"{private}/auth.json cannot be read: Permission denied" in said[65534]
