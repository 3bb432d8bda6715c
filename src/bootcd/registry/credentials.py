# SPDX-License-Identifier: Apache-2.0
"""Where credentials for registries are kept.

`auth.json` and Docker's `config.json` have the same form: `{"auths": {KEY: {"auth": base64 of USER:PASSWORD}}}`. A key
is a host or a host with the beginning of a repository's path; the most specific one wins. The first file that has a
matching entry decides. `credHelpers` in the same file names a program for a host, and `credsStore` one for all others
(module `credhelper`).

A secret never appears in an error, a log line or a `repr`.

Source: containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Unsupported
from . import credhelper

log = logging.getLogger(__name__)

_MAX_FILE = 1 << 20
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are for one registry; `origin` names the file for messages, `entry` what in it is about the registry."""

    origin: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    entry: str = ""

    def basic(self) -> str:
        """The value of an `Authorization` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where credentials were looked for: of each file what came out. `helper` is a program that decides and was not
    asked; `variable` the one of the environment that names the only file, if one does."""

    found: Credentials | None
    files: tuple[tuple[Path, str], ...]
    helper: str = ""
    variable: str = ""


def auth_files(environ: Mapping[str, str] | None = None) -> list[Path]:
    """Where credentials may be kept, in the order in which the files are asked."""
    environ = os.environ if environ is None else environ
    if explicit := environ.get("REGISTRY_AUTH_FILE"):
        return [Path(explicit)]
    runtime = environ.get("XDG_RUNTIME_DIR")
    home = Path(environ.get("HOME") or "/root")
    return [
        Path(runtime) / "containers/auth.json" if runtime else Path(f"/run/containers/{os.getuid()}/auth.json"),
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json",
        Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
        Path("/etc/bootcd/auth.json"),
        *(Path(place, "ostree/auth.json") for place in ("/run", "/etc", "/usr/lib")),  # those of bootc
    ]


def look(
    host: str, repository: str, auth_file: Path | None = None, environ: Mapping[str, str] | None = None, *,
    ask: bool = True,
) -> Lookup:
    """Look for the credentials for a repository, in `auth_file` or else in the usual files. Without `ask`, no
    credential helper is started, and the search ends at the first that would be.

    Raises ConfigError when a file is malformed, or one that was asked for by name cannot be read; Unsupported and
    AuthenticationFailed when a helper does not work.
    """
    environ = os.environ if environ is None else environ
    variable = "REGISTRY_AUTH_FILE" if auth_file is None and environ.get("REGISTRY_AUTH_FILE") else ""
    looked: list[tuple[Path, str]] = []
    for path in [auth_file] if auth_file is not None else auth_files(environ):
        try:
            data = _read(path, must_exist=auth_file is not None or bool(variable))
            found, outcome = _in_file(path, _document(path, data), host, repository, ask=ask)
        except _CannotRead as error:
            found, outcome = None, str(error)
        except _Undecided as error:
            helper = str(error)
            return Lookup(None, (*looked, (path, f"names {helper}")), helper, variable)
        looked.append((path, outcome))
        if found is not None:
            return Lookup(found, tuple(looked), variable=variable)
    return Lookup(None, tuple(looked), variable=variable)


class _CannotRead(Exception):
    """A file is not there, or not for us; another may be."""


class _Undecided(Exception):
    """A credential helper knows, whom nobody shall ask."""


def _in_file(
    path: Path, document: dict[str, Any], host: str, repository: str, *, ask: bool,
) -> tuple[Credentials | None, str]:
    """What a file has, and that in words."""
    nothing = f"has no entry for {host}"
    helpers = _object(path, document, "credHelpers")
    for name in _names(host):
        if name in helpers:
            found = _helped(path, helpers[name], name, ask=ask)
            return found, _names_helper(helpers[name], name, found)
    auths = _auths(path, document)
    for key in _keys(host, repository):
        if key in auths and (found := _entry(path, key, auths[key])) is not None:
            return found, f"has the entry '{key}'"
    if not document.get("credsStore"):
        return None, nothing
    try:
        found = _helped(path, document["credsStore"], host, ask=ask)
    except Unsupported as error:
        # It is for every host there is, also for those that ask nobody who they are.
        log.warning("%s, which %s names for all hosts", error, path)
        return None, f"{nothing}, and {error}"
    return found, _names_helper(document["credsStore"], "all hosts", found)


def _names_helper(helper: str, hosts: str, found: Credentials | None) -> str:
    return f"names {credhelper.program(helper)} for {hosts}" + ("" if found is not None else ", which has none")


def _helped(path: Path, helper: object, host: str, *, ask: bool) -> Credentials | None:
    """What a helper knows. Raises ConfigError for a name that is none."""
    if not isinstance(helper, str) or not credhelper.is_name(helper):
        raise ConfigError(f"credentials file {path}: the credential helper for {host} has no proper name")
    if not ask:
        credhelper.require(helper)
        raise _Undecided(credhelper.program(helper))
    # Docker Hub is known to Docker's helpers by an address.
    found = credhelper.get(helper, "https://index.docker.io/v1/" if host in _DOCKER_HUB else host)
    if found is None:
        return None
    username, secret = found
    origin = f"{credhelper.program(helper)}, which {path} names"
    return Credentials(origin, "", "", secret) if username == "<token>" else Credentials(origin, username, secret)


def _read(path: Path, *, must_exist: bool) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        if must_exist:
            raise ConfigError(f"credentials file {path}: {error.strerror}") from None
        raise _CannotRead("is not there" if isinstance(error, FileNotFoundError | NotADirectoryError)
                          else f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError(f"credentials file {path}: larger than {_MAX_FILE} bytes")
    return data


def _document(path: Path, data: bytes) -> dict[str, Any]:
    # Errors of the parser may quote what they read, so they are not passed on.
    try:
        document = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise ConfigError(f"credentials file {path}: not JSON") from None
    if not isinstance(document, dict):
        raise ConfigError(f"credentials file {path}: not a JSON object")
    return document


def _object(path: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict | None):
        raise ConfigError(f"credentials file {path}: '{key}' must be an object")
    return value or {}


def _auths(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    exact: dict[str, Any] = {}
    for key, value in _object(path, document, "auths").items():
        # Docker wrote whole addresses, such as https://index.docker.io/v1/.
        plain = re.sub(r"^https?://", "", key)
        plain = re.sub(r"/v[12]/?$", "", plain).rstrip("/")
        exact.setdefault(plain, value)
        if plain == key:
            exact[key] = value
    return exact


def _names(host: str) -> list[str]:
    return [host, *(name for name in _DOCKER_HUB if name != host)] if host in _DOCKER_HUB else [host]


def _keys(host: str, repository: str) -> Iterator[str]:
    hosts = _names(host)
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        for name in hosts:
            yield "/".join([name, *parts[:count]])
    yield from hosts


def _entry(path: Path, key: str, value: Any) -> Credentials | None:
    where = f"credentials file {path}: entry '{key}'"
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object")
    auth, token = value.get("auth") or "", value.get("identitytoken") or ""
    if not isinstance(auth, str) or not isinstance(token, str):
        raise ConfigError(f"{where}: expected strings")
    username = password = ""
    if auth:
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise ConfigError(f"{where}: 'auth' is not the base64 form of USER:PASSWORD")
        password = password.rstrip("\0")
    if not username and not token:
        return None  # an empty entry says that a credential helper knows more
    return Credentials(str(path), username, password, token, key)
