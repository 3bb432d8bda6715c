# SPDX-License-Identifier: Apache-2.0
"""Credential helpers: programs `docker-credential-NAME` that know user names and passwords.

They get a host on standard input and answer `{"ServerURL": …, "Username": …, "Secret": …}`. Neither the answer nor what
they say when they fail goes into a message, since both may hold a secret.

Source: docker-credential-helpers (README, "Development"), containers-auth.json(5).
"""

from __future__ import annotations

import json
import re

from ..errors import AuthenticationFailed, Unsupported
from ..linux.run import find, run

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NOT_FOUND = b"credentials not found"
_MAX_ANSWER = 1 << 20


def is_name(text: str) -> bool:
    """Whether `text` can name a helper: a path could name any program."""
    return _NAME.fullmatch(text) is not None


def program(name: str) -> str:
    """The program that a helper is."""
    return f"docker-credential-{name}"


def require(name: str) -> None:
    """Raises Unsupported when the program does not exist."""
    if find(program(name)) is None:
        raise Unsupported(f"the credential helper {program(name)} is not installed",
                          advice=f"Install {program(name)}, or take its name out of the credentials file.")


def get(name: str, host: str) -> tuple[str, str] | None:
    """User name and secret for a host, None when the helper knows none; the name `<token>` marks an identity token.

    Raises Unsupported when the program does not exist, AuthenticationFailed when it fails or answers nonsense.
    """
    require(name)
    done = run([program(name), "get"], input=host.encode(), check=False)
    if done.returncode:
        if _NOT_FOUND in done.stdout.lower() or _NOT_FOUND in done.stderr.lower():
            return None
        raise AuthenticationFailed(f"{program(name)} failed for {host} (exit status {done.returncode})",
                                   advice=f"'echo {host} | {program(name)} get' shows what it says.")
    try:
        answer = json.loads(done.stdout[:_MAX_ANSWER])
        username, secret = answer["Username"], answer["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError
    except (ValueError, RecursionError, LookupError, TypeError):
        raise AuthenticationFailed(f"{program(name)} answers nonsense for {host}") from None
    return username, secret
