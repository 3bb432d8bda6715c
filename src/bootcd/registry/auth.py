# SPDX-License-Identifier: Apache-2.0
"""Credentials: where they are kept, and how a registry's challenge becomes an `Authorization` header.

`auth.json` and Docker's `config.json` have the same form: `{"auths": {KEY: {"auth": base64 of USER:PASSWORD}}}`. A key
is a host or a host with the beginning of a repository's path; the most specific one wins. The first file that has a
matching entry decides. `credHelpers` in the same file names a program for a host, and `credsStore` one for all others
(module `credhelper`).

A secret never appears in an error, a log line or a `repr`. It goes to the registry itself and to the token service that
the registry names, and only over a verified connection or where plain HTTP is permitted.

Source: containers-auth.json(5); OCI distribution specification 1.1; Docker Registry v2 token authentication (token.md,
oauth.md); RFC 9110 section 11 (challenges), RFC 7617 (basic), RFC 6750 (bearer).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AuthenticationFailed, BootcdError, ConfigError, SourceUnreachable, Unsupported
from . import credhelper
from .http import Http, host_of

log = logging.getLogger(__name__)

_MAX_FILE = 1 << 20
_MAX_TOKEN_ANSWER = 1 << 20
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


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar of a token, not one
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|$|(?=,))")


def parse_challenges(header: str) -> list[Challenge]:
    """Read a `WWW-Authenticate` header; what cannot be understood ends the list."""
    challenges: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(header, position):
            quoted = found[2]
            parameters[found[1].lower()] = found[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = found.end()
        challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


class Authenticator:
    """Answers the challenges of one registry for pulling from one repository. Safe to use from several threads."""

    def __init__(self, http: Http, host: str, repository: str, auth_file: Path | None) -> None:
        self._http = http
        self._host = host
        self._repository = repository
        self._auth_file = auth_file
        self._lookup: Lookup | BootcdError | None = None
        self._looked_in: list[Path] = []
        self._told = False
        self._lock = threading.Lock()
        self._header: str | None = None
        self._expires = float("inf")
        self._challenge: Challenge | None = None

    def prepare(self) -> None:
        """Look for credentials now; an error counts only when the registry asks for any."""
        with self._lock, contextlib.suppress(BootcdError):
            self._look()

    def header(self) -> str | None:
        """The `Authorization` to send, None while the registry has not asked for any."""
        with self._lock:
            if self._challenge is not None and time.monotonic() >= self._expires:
                self._answer(self._challenge)
            return self._header

    def challenged(self, header: str, sent: str | None) -> bool:
        """Whether to try again after the registry answered 401 to a request with the `Authorization` `sent`.

        Raises AuthenticationFailed, SourceUnreachable.
        """
        with self._lock:
            if sent != self._header:
                return True  # another thread has answered meanwhile
            challenges = {item.scheme: item for item in reversed(parse_challenges(header))}
            challenge = challenges.get("bearer") or challenges.get("basic")
            if challenge is None:
                return False
            if challenge.scheme == "basic" and (sent is not None or not self._known()):
                return False
            self._answer(challenge)
            return True

    def failure(self, what: str, status: int) -> AuthenticationFailed:
        """What to raise when the registry still refuses."""
        with self._lock:
            return self._failure(f"{what}: {self._host} refuses access (HTTP {status})")

    def _failure(self, text: str) -> AuthenticationFailed:
        credentials = self._known()
        if credentials is not None:
            return AuthenticationFailed(f"{text} with the credentials from {credentials.origin}")
        looked = ", ".join(str(path) for path in self._looked_in)
        return AuthenticationFailed(f"{text}, and there are no credentials for {self._host} in {looked}")

    def _look(self) -> Lookup:
        """What was found when it was looked for first."""
        if self._lookup is None:
            self._looked_in = [self._auth_file] if self._auth_file is not None else auth_files()
            try:
                self._lookup = look(self._host, self._repository, self._auth_file)
            except BootcdError as error:
                self._lookup = error
        if isinstance(self._lookup, BootcdError):
            raise self._lookup
        return self._lookup

    def _known(self) -> Credentials | None:
        """Who we are, for a registry that has asked."""
        lookup = self._look()
        if self._http.observer is not None and not self._told:
            self._told = True
            self._http.observer.looked(f"{self._host}/{self._repository}", lookup)
        return lookup.found

    def _answer(self, challenge: Challenge) -> None:
        credentials = self._known()
        if challenge.scheme == "basic":
            assert credentials is not None
            self._header = credentials.basic()
        else:
            token, lifetime = self._fetch_token(challenge, credentials)
            self._header = "Bearer " + token
            # Half of it, so that a token does not end between here and there.
            self._expires = time.monotonic() + lifetime / 2
        self._challenge = challenge

    def _fetch_token(self, challenge: Challenge, credentials: Credentials | None) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        what = f"token service of {self._host}/{self._repository} at {host_of(realm) or 'no address'}"
        parameters = {
            "service": challenge.parameters.get("service", ""),
            "scope": challenge.parameters.get("scope") or f"repository:{self._repository}:pull",
        }
        parameters = {key: value for key, value in parameters.items() if value}
        if credentials is not None and credentials.identity_token:
            form = {**parameters, "grant_type": "refresh_token", "client_id": "bootcd",
                    "refresh_token": credentials.identity_token}
            status, data = self._http.small(what, realm, _MAX_TOKEN_ANSWER, form=form)
        else:
            basic = credentials.basic() if credentials is not None else None
            status, data = self._http.small(what, realm, _MAX_TOKEN_ANSWER, query=parameters, authorization=basic)
        if status in (400, 401, 403):
            raise self._failure(f"{what} gives no token (HTTP {status})")
        if status != 200:
            raise SourceUnreachable(f"{what}: answered HTTP {status}")
        return _token(what, data)


def _token(what: str, data: bytes) -> tuple[str, float]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise SourceUnreachable(f"{what}: the answer is not JSON") from None
    if not isinstance(document, dict):
        raise SourceUnreachable(f"{what}: the answer is no JSON object")
    token = document.get("token") or document.get("access_token")
    # What goes into a header must not end it.
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise SourceUnreachable(f"{what}: the answer holds no token")
    lifetime = document.get("expires_in")
    if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or not 1 <= lifetime <= 10**9:
        lifetime = 60
    return token, float(lifetime)
