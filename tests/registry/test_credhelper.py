# SPDX-License-Identifier: Apache-2.0
"""Credential helpers: real programs on PATH that answer well, badly, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bootcd.errors import AuthenticationFailed, BootcdError, ConfigError, Unsupported
from bootcd.registry.credentials import Credentials, look
from kit.pulling import SECRET

KNOWS = f"""host=$(cat)
[ "$1" = get ] || exit 9
[ "$host" = quay.io ] || {{ echo "credentials not found in native keychain"; exit 1; }}
echo '{{"ServerURL": "'$host'", "Username": "me", "Secret": "{SECRET}"}}'"""


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


def helper(directory: Path, script: str, name: str = "test") -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def ask(tmp_path: Path, document: dict[str, Any], host: str = "quay.io") -> Credentials | None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps(document))
    return look(host, "team/os", file).found


@pytest.mark.parametrize("document", [{"credHelpers": {"quay.io": "test"}}, {"credsStore": "test"},
                                      {"credsStore": "test", "auths": {"quay.io": {}}}])
def test_a_helper_knows(programs: Path, tmp_path: Path, document: dict[str, Any]) -> None:
    helper(programs, KNOWS)
    found = ask(tmp_path, document)
    assert found is not None
    assert (found.username, found.password) == ("me", SECRET)
    assert found.origin == f"docker-credential-test, which {tmp_path / 'auth.json'} names"
    assert SECRET not in repr(found)


def test_a_helper_that_knows_nothing(programs: Path, tmp_path: Path) -> None:
    helper(programs, KNOWS)
    assert ask(tmp_path, {"credHelpers": {"ghcr.io": "test"}}, "ghcr.io") is None
    assert ask(tmp_path, {"credsStore": "test"}, "ghcr.io") is None


def test_an_entry_is_better_than_the_store_for_all(programs: Path, tmp_path: Path) -> None:
    helper(programs, KNOWS)
    found = ask(tmp_path, {"credsStore": "test", "auths": {"quay.io": {"auth": "eW91OnB3"}}})
    assert found is not None
    assert found.username == "you"


def test_docker_hub_is_known_by_its_address(programs: Path, tmp_path: Path) -> None:
    helper(programs, """read host; echo '{"ServerURL": "", "Username": "hub", "Secret": "'$host'"}'""")
    found = ask(tmp_path, {"credHelpers": {"docker.io": "test"}}, "docker.io")
    assert found is not None
    assert found.password == "https://index.docker.io/v1/"


def test_an_identity_token(programs: Path, tmp_path: Path) -> None:
    helper(programs, """echo '{"ServerURL": "", "Username": "<token>", "Secret": "abc"}'""")
    found = ask(tmp_path, {"credHelpers": {"quay.io": "test"}})
    assert found is not None
    assert (found.username, found.identity_token) == ("", "abc")


@pytest.mark.parametrize("script", [
    f"echo {SECRET}; echo {SECRET} >&2; exit 3", f"echo {SECRET}",
    f"echo '{{\"Username\": 1, \"Secret\": \"{SECRET}\"}}'",
    "echo '[]'", "true", "echo '{\"Username\": \"me\"}'", "kill -9 $$",
])
def test_what_a_bad_helper_says_is_not_passed_on(programs: Path, tmp_path: Path, script: str) -> None:
    helper(programs, script)
    with pytest.raises(AuthenticationFailed, match=r"docker-credential-test .* quay\.io") as caught:
        ask(tmp_path, {"credHelpers": {"quay.io": "test"}})
    assert SECRET not in str(caught.value) + caught.value.hint
    assert isinstance(caught.value, BootcdError)


def test_a_helper_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="docker-credential-nowhere"):
        ask(tmp_path, {"credHelpers": {"quay.io": "nowhere"}})
    assert ask(tmp_path, {"credsStore": "nowhere"}) is None, "what is for all hosts is also for those that need nothing"


@pytest.mark.parametrize("name", ["../../bin/sh", "", "a b", 1, None, "-x"])
def test_names_that_are_none(tmp_path: Path, name: object) -> None:
    with pytest.raises(ConfigError, match=r"auth\.json: the credential helper for quay\.io has no proper name"):
        ask(tmp_path, {"credHelpers": {"quay.io": name}})
