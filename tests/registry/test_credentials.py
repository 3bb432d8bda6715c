# SPDX-License-Identifier: Apache-2.0
"""Credentials files: where they are looked for, and what they say."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.errors import (
    ConfigError,
    Unsupported,
)
from bootcd.registry.credentials import auth_files, look
from kit.images import to_json
from kit.pulling import SECRET, auth_file


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
