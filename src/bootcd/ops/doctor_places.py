# SPDX-License-Identifier: Apache-2.0
"""The places that may have an image at a registry, for `ops.doctor`: how each is reached, and how it answered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import BootcdError
from ..model import ImageReference
from ..registry import certificates
from ..registry.client import RegistrySource, served_by
from ..registry.credentials import Lookup, look
from ..registry.http import proxy_for, trusted
from ..registry.observe import Exchange
from ..registry.registries import Endpoint
from ..registry.sources import SourceOptions
from .diagnosis import DiagnosisStep

_MEANS = {401: "it asks who we are", 403: "it refuses access", 404: "it has no such thing",
          429: "it was asked too often"}


@dataclass
class Telling:
    """A step that is being told."""

    about: str
    step: str
    state: str = "ok"
    says: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    problem: BootcdError | None = None

    def fail(self, error: BootcdError, state: str = "failed") -> None:
        self.state, self.problem = state, error
        self.says.append(str(error))

    def told(self) -> DiagnosisStep:
        error = self.problem
        return DiagnosisStep(self.about, self.step, self.state, tuple(self.says), self.facts,
                             error.bus_name() if error else "", error.hint if error else "")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a place answered, and why it did not deliver; `error` is None when it did."""

    exchanges: tuple[Exchange, ...]
    error: BootcdError | None


class Watch:
    """Watches a pull (registry/observe.py)."""

    def __init__(self) -> None:
        self.lookups: dict[str, Lookup] = {}
        """By host and repository, what was found for those that asked who we are."""
        self._asked: list[Asked] = []
        self._exchanges: list[Exchange] = []
        self._found = False
        """Whether it is known who has the image."""

    def exchanged(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    def looked(self, name: str, lookup: Lookup) -> None:
        self.lookups[name] = lookup

    def passed_over(self, place: ImageReference, error: BootcdError) -> None:
        if not self._found:
            self._asked.append(Asked(self.fresh(), error))

    def asked(self, count: int, error: BootcdError | None) -> list[Asked]:
        """What each place answered, of `count` at most; `error` is what came out."""
        self._found = True
        if len(self._asked) < count:
            self._asked.append(Asked(self.fresh(), error))
        return self._asked

    def fresh(self) -> tuple[Exchange, ...]:
        """What was exchanged since the last call."""
        exchanges, self._exchanges = tuple(self._exchanges), []
        return exchanges


class Place:
    """One place, and all that is known of it before it is asked."""

    def __init__(self, endpoint: Endpoint, options: SourceOptions) -> None:
        self.error: BootcdError | None = None
        """Why it cannot be asked."""
        self.variables: list[str] = []
        """Those of the environment that decided something."""
        self.files: list[str] = []
        """Those that would have to be readable."""
        self._reference = endpoint.reference
        self._options = options
        self._host, self._repository = served_by(endpoint.reference)
        self._about = f"{'mirror' if endpoint.is_mirror else 'registry'} {endpoint.reference}"
        self._steps = [self._proxy(), self._certificates()]

    def steps(self, result: Asked | str, watch: Watch, *, fatal: bool) -> Iterator[DiagnosisStep]:
        """What it takes to ask it, and the answer: `result` is why there is none, or what it was."""
        lookup = watch.lookups.get(f"{self._reference.host}/{self._repository}")
        answered = isinstance(result, Asked) and any(exchange.status for exchange in result.exchanges)
        yield from self._steps
        yield self._credentials(lookup, answered=answered)
        if isinstance(result, str):
            yield DiagnosisStep(self._about, "answer", "left-out", (result,))
        else:
            yield from self._answered(result, "failed" if fatal else "warning")

    def _proxy(self) -> DiagnosisStep:
        told = Telling(self._about, "proxy")
        proxy = proxy_for(f"https://{self._host}/", self._options)
        self.variables += [proxy.variable] if proxy.variable else []
        told.says.append(f"{proxy.place or 'none'} ({proxy.why})")
        told.facts |= {"address": proxy.place, "why": proxy.why}
        return told.told()

    def _certificates(self) -> DiagnosisStep:
        told = Telling(self._about, "certificates")
        options = self._options
        try:
            found = certificates.find(self._host, options.certs)
            authorities = trusted(options.ca_file)
            RegistrySource(self._reference, options).close()  # reads every file
        except BootcdError as error:
            self.error = error
            told.fail(error)
            return told.told()
        if options.insecure:
            told.says.append("nothing is verified, and plain HTTP is permitted: it is configured as insecure")
        elif options.ca_file is not None:
            self.files.append(str(options.ca_file))
            told.says.append(f"the authorities of {options.ca_file} (ca-file in bootcd.toml) are trusted")
        else:
            variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") == authorities else ""
            self.variables += [variable] if variable else []
            where = authorities if isinstance(authorities, str) else "requests' own file"
            told.says.append(f"the system's authorities are trusted ({where}{', by ' if variable else ''}{variable})")
        if found.directory is None:
            told.says.append(f"there is no {self._host} in {', '.join(map(str, options.certs))}")
        else:
            told.facts["directory"] = str(found.directory)
            told.says += [f"so are those of {path}" for path in found.authorities]
            told.says += [f"it is shown our certificate {ours}" for ours, _ in found.ours]
            if not found.authorities and not found.ours:
                told.says.append(f"{found.directory} has neither authorities nor a certificate of ours")
        return told.told()

    def _credentials(self, lookup: Lookup | None, *, answered: bool) -> DiagnosisStep:
        told = Telling(self._about, "credentials")
        try:
            # A helper is started by nobody but what a pull is tried with.
            found = lookup or look(self._reference.host, self._repository, self._options.auth_file, ask=False)
        except BootcdError as error:
            told.fail(error, "warning")  # who asks nobody needs none
            return told.told()
        self.variables += [found.variable] if found.variable else []
        if self._options.auth_file is not None:
            told.says.append("only this file counts (auth-file in bootcd.toml)")
        elif found.variable:
            told.says.append(f"only this file counts ({found.variable} of the environment)")
        absent = [path for path, outcome in found.files if outcome == "is not there"]
        told.says += [f"{path} {outcome}" for path, outcome in found.files if path not in absent]
        if found.found is not None:
            file = str(found.files[-1][0])
            self.files.append(file)
            who = f"user {found.found.username}" if found.found.username else "an identity token"
            told.says.append(f"they are those of {who}")
            told.facts |= {"file": file, "entry": found.found.entry, "user": found.found.username}
        elif found.helper:
            when = "before the registry is" if self._options.separate else "when the registry wants to know"
            told.says.append(f"{found.helper} is asked {when}")
            self.files.append(str(found.files[-1][0]))
            told.facts |= {"file": self.files[-1], "helper": found.helper}
        else:
            told.says.append(f"there are none for {self._reference.host}")
            told.says += [f"there is no {', '.join(map(str, absent))}"] if absent else []
        if answered and lookup is None:
            told.says.append("the registry did not ask for them")
        return told.told()

    def _answered(self, result: Asked, bad: str) -> Iterator[DiagnosisStep]:
        answered = any(exchange.status for exchange in result.exchanges)
        connection = Telling(self._about, "connection")
        first = {(exchange.scheme, exchange.host): exchange for exchange in reversed(result.exchanges)}
        for exchange in reversed(first.values()):
            if exchange.status or exchange.problem not in str(result.error):  # which is told anyway
                connection.says.append(_connected(exchange))
            if (peer := exchange.peer) is not None:
                connection.facts |= {"certificate": peer.subject, "issuer": peer.issuer,
                                     "valid-until": peer.ends.isoformat(timespec="seconds")}
                connection.says += [] if exchange.status else [f"the certificate is {peer.text()}"]
        if result.error is not None and not answered:
            connection.fail(result.error, bad)
        yield connection.told()
        if answered:
            answer = Telling(self._about, "answer")
            answer.says += [text(exchange) for exchange in result.exchanges if exchange.status]
            if result.error is not None:
                answer.fail(result.error, bad)
            yield answer.told()


def text(exchange: Exchange) -> str:
    """A request and its answer in words."""
    means = _MEANS.get(exchange.status, "")
    if exchange.status == 401 and exchange.authorization:
        means = "it does not accept who we are"
    if 300 <= exchange.status < 400:
        means = "it refers to another address"
    sent = {"": "", "Bearer": ", with a token"}.get(exchange.authorization, ", with credentials")
    return (f"{exchange.method} {exchange.host}{exchange.path}{sent}: "
            + (f"HTTP {exchange.status}" if exchange.status else exchange.problem) + (f", {means}" if means else ""))


def _connected(exchange: Exchange) -> str:
    by = f" by the proxy {exchange.proxy.place}" if exchange.proxy.address else ""
    if exchange.status and exchange.scheme == "http":
        return f"{exchange.host}{by}: plain HTTP, which is permitted there"
    if exchange.status:
        certificate = f", certificate {exchange.peer.text()}" if exchange.peer is not None else ""
        return f"{exchange.host}{by}: TLS{certificate}" + ("" if exchange.trusted else ", which nobody verified")
    return f"{exchange.host}{by}: {exchange.problem}"
