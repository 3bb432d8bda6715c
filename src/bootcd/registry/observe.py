# SPDX-License-Identifier: Apache-2.0
"""Who watches how an image is asked for, to explain it: what was sent where, what came back, who was passed over.

What is handed out holds no secret: no query, no header, and of an address the path only where it is that of a
registry's interface, since redirects carry signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import BootcdError
from ..model import ImageReference

if TYPE_CHECKING:
    from .credentials import Lookup
    from .peer import Peer
    from .proxies import Proxy


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. `status` is 0 when there was none, and `problem` says why. `authorization` is the
    scheme of what was sent, such as Basic. `peer` is the certificate of the server, which is there for untrusted ones
    as well when it could be had."""

    method: str
    scheme: str
    host: str
    path: str
    proxy: Proxy
    authorization: str = ""
    status: int = 0
    problem: str = ""
    peer: Peer | None = None
    trusted: bool = True
    """Whether the server's certificate was verified, and found good."""


class Observer(Protocol):
    """Calls come from the thread that asks."""

    def exchanged(self, exchange: Exchange) -> None:
        """A request was answered, or was not."""

    def looked(self, name: str, lookup: Lookup) -> None:
        """A registry asked who we are, and credentials were looked for; `name` is host and repository."""

    def passed_over(self, place: ImageReference, error: BootcdError) -> None:
        """One of several places did not deliver."""
