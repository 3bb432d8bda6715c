# SPDX-License-Identifier: Apache-2.0
"""A client of FleetLock, the protocol by which the machines of a fleet reboot one after the other.

Source: Zincati's documentation of the protocol, version 1. One POST to `<base>/v1/pre-reboot` asks for the lock, one
to `<base>/v1/steady-state` gives it back; both may be repeated. Status 200 is consent, and everything else is none,
however friendly it sounds; what a refusal says is shown to people and never acted on.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ..errors import BootcdError, UsageError
from .http import Http, host_of
from .separate import SeparateHost
from .sources import SourceOptions, TransientFailure

STEPS = ("pre-reboot", "steady-state")
_HEADERS = {"fleet-lock-protocol": "true", "Content-Type": "application/json", "Accept": "application/json"}
_LIMIT = 16 << 10
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """Whether the server consents, and what it says if not."""

    granted: bool
    why: str = ""


def ask(base: str, step: str, machine: str, group: str, options: SourceOptions) -> Reply:
    """Ask the server at `base`. A server that cannot be reached does not consent. Raises UsageError, ConfigError."""
    if step not in STEPS:
        raise UsageError(f"'{step}' is no step of FleetLock")
    url = f"{base.rstrip('/')}/v1/{step}"
    # An address that begins with http: was written down by the administrator; nothing leads there from elsewhere.
    options = replace(options, insecure=urlsplit(url).scheme == "http", connect_timeout=10.0, read_timeout=20.0)
    body = json.dumps({"client_params": {"id": machine, "group": group}}).encode()
    host = host_of(url)
    server: Http | SeparateHost = SeparateHost(host, options) if options.separate else Http(host, options)
    try:
        status, data = server.post(host, url, _HEADERS, body, _LIMIT)
    except TransientFailure as failure:
        return Reply(False, str(failure.error))
    except BootcdError as error:
        return Reply(False, str(error))
    finally:
        server.close()
    return Reply(True) if status == 200 else Reply(False, _reason(status, data))


def _reason(status: int, data: bytes) -> str:
    """What the server says, as far as it is {"kind": WORD, "value": TEXT}."""
    words = [f"HTTP {status}"]
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, dict):
            words += [word for key in ("kind", "value") if isinstance(word := document.get(key), str) and word]
    text = ", ".join(words)
    return "".join(char if char.isprintable() else "?" for char in text[:_SHOWN])
