# SPDX-License-Identifier: Apache-2.0
"""How a registry's challenge becomes an `Authorization` header.

A secret goes to the registry itself and to the token service that the registry names, and only over a verified
connection or where plain HTTP is permitted. It never appears in an error, a log line or a `repr`.

Source: OCI distribution specification 1.1; Docker Registry v2 token authentication (token.md, oauth.md); RFC 9110
section 11 (challenges), RFC 7617 (basic), RFC 6750 (bearer).
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import AuthenticationFailed, BootcdError, SourceUnreachable
from .credentials import Credentials, Lookup, auth_files, look
from .http import Http, host_of

_MAX_TOKEN_ANSWER = 1 << 20


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
