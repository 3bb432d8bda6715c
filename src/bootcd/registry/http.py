# SPDX-License-Identifier: Apache-2.0
"""One door to the network: GET and the token service's POST over requests, with the rules that hold for all of them.

* TLS is verified unless `insecure`. Plain HTTP goes to loopback hosts, and elsewhere only when `insecure`; a remote
  registry cannot send us to plain HTTP anywhere.
* `Authorization` stays with the scheme, host and port for which it was made; a redirect to another place goes without.
* No cookies, no ~/.netrc. Proxies come from the configuration or the environment, never for loopback hosts.
* Authorities of certs.d are trusted for all that one registry leads to; our own certificate is shown to it alone.
* Messages name hosts and status, never a query, since redirects carry signatures there, and never text of the server.
* What trying again may cure is a `TransientFailure`, all else an error of ours.

Bodies are read raw, as they were sent: `Accept-Encoding: identity`, nothing is decoded. Header sizes are bounded by
http.client (64 KiB a line, 100 lines).
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import urllib3

from .. import __version__
from ..errors import AuthenticationFailed, BlobMismatch, BootcdError, ConfigError, SourceUnreachable
from . import proxies, reasons
from .certificates import advice, find
from .observe import Exchange
from .retry import Pace
from .sources import SourceOptions, TransientFailure

if TYPE_CHECKING:
    from .peer import Peer

# It logs whole addresses, and with them the signatures in redirects, and what servers write into their headers.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

USER_AGENT = f"bootcd/{__version__}"

_MAX_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_WANTS_CERTIFICATE = ("ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA",
                      "ALERT_CERTIFICATE_UNKNOWN")
"""What a server says that asked for a certificate and got none that it likes (RFC 8446 section 6.2)."""
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


def is_loopback(host: str) -> bool:
    """Whether `host`, without a port, is this machine by definition and not by the word of a name server."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Host and port of a URL for messages; empty when it has none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = parts.hostname or ""
    return f"{host}{port}" if host.isprintable() and len(host) <= 253 else ""


def proxy_for(url: str, options: SourceOptions) -> proxies.Proxy:
    """The proxy by which `url` is asked."""
    return proxies.choose(url, options.proxy, options.no_proxy, loopback=is_loopback(urlsplit(url).hostname or ""))


class NotTls(Exception):
    """The other side does not speak TLS or does not listen; never leaves this package."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(reasons.why(error))
        self.advice = reasons.advice(error)


class Answer:
    """A response whose body is still to be read. `redirected`: it comes from another place than the one asked."""

    def __init__(self, response: requests.Response, what: str, redirected: bool, pace: Pace) -> None:
        self._response = response
        self._pace = pace
        self._what = what
        self._lock = threading.Lock()
        self.status = response.status_code
        self.redirected = redirected

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    @property
    def length(self) -> int | None:
        """What `Content-Length` says, if anything usable."""
        text = self.header("Content-Length") or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the raw body, as soon as there are any; b"" at its end, or where a broken connection
        looks like it."""
        began = time.monotonic()
        try:
            data: bytes = _some(self._response.raw, size)
        except (*_BROKEN, AttributeError, ValueError) as error:  # the last two when closed by another thread meanwhile
            raise TransientFailure(SourceUnreachable(f"{self._what}: {reasons.why(error)}")) from None
        if not self._pace.arrived(len(data), time.monotonic() - began) and data:
            raise TransientFailure(SourceUnreachable(f"{self._what}: hardly any data for too long"), stalled=True)
        return data

    def read_all(self, limit: int) -> bytes | None:
        """The whole body, None when it is longer than `limit`."""
        if (self.length or 0) > limit:
            return None
        pieces: list[bytes] = []
        left = limit + 1
        while left and (piece := self.read(min(left, 1 << 16))):
            pieces.append(piece)
            left -= len(piece)
        if not left:
            return None
        data = b"".join(pieces)
        if self.length is not None and len(data) < self.length:
            raise TransientFailure(SourceUnreachable(f"{self._what}: the answer ended early"))
        return data

    def interrupt(self) -> None:
        """Wake up a `read` in another thread."""
        with self._lock, contextlib.suppress(OSError, ValueError, AttributeError, urllib3.exceptions.HTTPError):
            # Through a duplicate of the descriptor, so that the socket stays its reader's to close.
            duplicate = os.dup(self._response.raw.fileno())
            try:
                connection = socket.socket(fileno=duplicate)
            except OSError:
                os.close(duplicate)
                raise
            with connection:
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._response.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Makes connections by a TLS context, and closes idle ones when it is closed; urllib3 alone leaves that to the
    garbage collector."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> Any:
        return super().init_poolmanager(*arguments, ssl_context=self._context, **options)

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        return super().proxy_manager_for(*arguments, ssl_context=self._context, **options)

    def close(self) -> None:
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in list(manager.pools.keys()):
                manager.pools[key].close()
        super().close()


class _Session(requests.Session):
    """Leaves redirects alone. A session that is told not to follow one still parses it, and reads its body without
    bound."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Http:
    """Requests on behalf of one registry."""

    def __init__(self, registry: str, options: SourceOptions) -> None:
        """`registry` is host or host:port. Raises ConfigError when `ca_file`, or what certs.d has for it, cannot be
        used."""
        self._options = options
        self._registry = registry
        self._local = is_loopback(urlsplit("//" + registry).hostname or "")
        self._verify = False if options.insecure else trusted(options.ca_file)
        if options.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._session = _Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        certificates = find(registry, options.certs)
        self.observer = options.observer
        verify = not options.insecure
        self._session.mount("http://", _Adapter())
        context = partial(certificates.context, verify=verify, ca_file=options.ca_file)
        self._session.mount("https://", _Adapter(context(ours=False) if certificates.authorities else None))
        if certificates.ours:
            self._session.mount(f"https://{registry}/", _Adapter(context(ours=True)))
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def permits_plain(self, url: str) -> bool:
        """Whether `url` may be asked over plain HTTP."""
        return self._options.insecure or (self._local and is_loopback(urlsplit(url).hostname or ""))

    def speaks_tls(self, what: str, url: str) -> bool:
        """Whether the server at `url` answers over TLS at all.

        Raises SourceUnreachable when it does, but its certificate is not trusted; AuthenticationFailed when it does not
        trust ours; TransientFailure.
        """
        try:
            self._send(what, url, {}, None, None).close()
        except NotTls:
            return False
        return True

    def get(self, what: str, url: str, headers: Mapping[str, str], authorization: str | None) -> Answer:
        """Follow redirects to an answer that is none. `what` begins the messages.

        Raises TransientFailure, SourceUnreachable, AuthenticationFailed.
        """
        first = url
        for _ in range(_MAX_REDIRECTS):
            same = _place(url) == _place(first)
            sent = {**headers, "Authorization": authorization} if authorization is not None and same else headers
            try:
                response = self._send(what, url, sent, None, None)
            except NotTls as error:
                raise TransientFailure(SourceUnreachable(f"{what}: {error}", advice=error.advice)) from None
            if response.status_code not in _REDIRECTS:
                return self._answer(response, what, not same)
            target = response.headers.get("Location", "")
            response.close()
            try:
                url = urljoin(url, target)
            except ValueError:
                url = ""
        raise SourceUnreachable(f"{what}: more than {_MAX_REDIRECTS} redirects")

    def file(self, url: str, limit: int) -> tuple[int, bytes]:
        """The status of an answer and, when that is 200, its body. Raises BlobMismatch when that has more than `limit`
        bytes, and what `get` raises."""
        answer = self.get(url, url, {}, None)
        try:
            data = answer.read_all(limit) if answer.status == 200 else b""
        finally:
            answer.close()
        if data is None:
            raise BlobMismatch(f"{url}: has more than {limit} bytes")
        return answer.status, data

    def small(
        self,
        what: str,
        url: str,
        limit: int,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        authorization: str | None = None,
    ) -> tuple[int, bytes]:
        """One answer of at most `limit` bytes, without redirects: status and body.

        Raises TransientFailure, SourceUnreachable.
        """
        headers = {"Accept": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            response = self._send(what, url, headers, query, form)
        except NotTls as error:
            raise TransientFailure(SourceUnreachable(f"{what}: {error}", advice=error.advice)) from None
        answer = self._answer(response, what, False)
        try:
            data = answer.read_all(limit)
        finally:
            answer.close()
        if data is None:
            raise SourceUnreachable(f"{what}: the answer is longer than {limit} bytes")
        return answer.status, data

    def post(self, what: str, url: str, headers: Mapping[str, str], body: bytes, limit: int) -> tuple[int, bytes]:
        """Send `body`: the status of the answer, and of its own body at most `limit` bytes; no redirects, no second
        try. Raises TransientFailure, SourceUnreachable."""
        try:
            response = self._request(what, url, headers, None, None, body)
        except NotTls as error:
            raise TransientFailure(SourceUnreachable(f"{what}: {error}", advice=error.advice)) from None
        answer = Answer(response, what, False, Pace(self._options))
        try:
            return answer.status, answer.read_all(limit) or b""
        finally:
            answer.close()

    def close(self) -> None:
        self._session.close()

    def _answer(self, response: requests.Response, what: str, redirected: bool) -> Answer:
        if response.status_code in _TRY_AGAIN:
            wait = _retry_after(response.headers.get("Retry-After"))
            response.close()
            raise TransientFailure(SourceUnreachable(f"{what}: HTTP {response.status_code}"), wait)
        return Answer(response, what, redirected, Pace(self._options))

    def _send(
        self,
        what: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
    ) -> requests.Response:
        if self.observer is None:
            return self._request(what, url, headers, query, form)
        parts = self._checked(what, url)
        seen = Exchange("GET" if form is None else "POST", parts.scheme, host_of(url),
                        parts.path[:300] if parts.path.startswith("/v2/") else "", proxy_for(url, self._options),
                        headers.get("Authorization", "").partition(" ")[0],
                        trusted=parts.scheme == "https" and not self._options.insecure)
        try:
            response = self._request(what, url, headers, query, form)
        except BootcdError as error:
            self.observer.exchanged(replace(seen, problem=str(error), peer=self._presented(url), trusted=False))
            raise
        except (NotTls, TransientFailure) as error:
            self.observer.exchanged(replace(seen, problem=str(error), trusted=False))
            raise
        self.observer.exchanged(replace(seen, status=response.status_code, peer=_peer(response)))
        return response

    def _presented(self, url: str) -> Peer | None:
        """The certificate of a server that we do not trust. It gets nothing but a question for its root."""
        if urlsplit(url).scheme != "https":
            return None
        http = Http(self._registry, replace(self._options, insecure=True, certs=(), observer=None))
        try:
            with http._request("", urljoin(url, "/"), {}, None, None) as response:
                return _peer(response)
        except (BootcdError, NotTls, TransientFailure):
            return None
        finally:
            http.close()

    def _request(
        self,
        what: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        body: bytes | None = None,
    ) -> requests.Response:
        parts = self._checked(what, url)
        options = self._options
        try:
            return self._session.request(
                "GET" if form is None and body is None else "POST",
                url,
                params=query,
                data=form if body is None else body,
                headers=dict(headers),
                timeout=(options.connect_timeout, options.read_timeout),
                allow_redirects=False,
                stream=True,
                verify=self._verify,
                proxies=proxy_for(url, options).settings(),
            )
        except requests.exceptions.SSLError as error:
            reason = reasons.cause(error, ssl.SSLError)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise SourceUnreachable(
                    f"{what}: the certificate of {host_of(url)} is not trusted: {reason.verify_message}",
                    advice=advice(reason.verify_code, host_of(url)),
                ) from None
            if isinstance(reason, ssl.SSLError) and (reason.reason or "").endswith(_WANTS_CERTIFICATE):
                raise AuthenticationFailed(
                    f"{what}: {host_of(url)} wants a certificate of ours that it trusts",
                    advice=f"Put certificate and key into /etc/bootcd/certs.d/{host_of(url)}; bootcd-registries(5).",
                ) from None
            raise NotTls(error) from None
        except requests.exceptions.InvalidHeader:
            raise SourceUnreachable(f"{what}: the headers of the answer make no sense") from None
        except ValueError:  # InvalidURL, InvalidSchema and UnicodeError are such
            raise SourceUnreachable(f"{what}: the address that was given makes no sense") from None
        except _BROKEN as error:
            silent = isinstance(error, requests.exceptions.ConnectTimeout)
            if parts.scheme == "https" and (silent or reasons.cause(error, ConnectionError) is not None):
                raise NotTls(error) from None
            failed = SourceUnreachable(f"{what}: {reasons.why(error)}", advice=reasons.advice(error))
            raise TransientFailure(failed) from None

    def _checked(self, what: str, url: str) -> Any:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("https", "http") or parts.username is not None:
            raise SourceUnreachable(f"{what}: the address that was given makes no sense")
        if parts.scheme == "http" and not self.permits_plain(url):
            raise SourceUnreachable(
                f"{what}: {host_of(url)} would be asked over plain HTTP, which is not permitted",
                advice="Only loopback hosts may use plain HTTP, unless the registry is configured as insecure.",
            )
        return parts


def _some(raw: Any, size: int) -> bytes:
    """What one look at the network brings; `read` would wait until it has all."""
    if hasattr(raw, "read1"):
        return raw.read1(size, decode_content=False) or b""
    # urllib3 1 (Debian 12) has nothing of the kind; this goes with it.
    return bytes(raw._fp.read1(size))


def _peer(response: requests.Response) -> Peer | None:
    from .peer import of_response  # only for those who want an explanation

    return of_response(response)


def trusted(ca_file: Path | None) -> bool | str:
    """The file or directory with the authorities to trust; True for those that requests brings. Raises ConfigError
    when `ca_file` cannot be used."""
    if ca_file is not None:
        if not os.access(ca_file, os.R_OK):
            raise ConfigError(f"certificate file {ca_file} cannot be read")
        try:
            ssl.create_default_context(cafile=os.fspath(ca_file))
        except (ssl.SSLError, OSError):
            raise ConfigError(f"certificate file {ca_file} holds no certificates") from None
        return os.fspath(ca_file)
    # The system's store, so that a certificate that an administrator added counts; requests has its own otherwise.
    return ssl.get_default_verify_paths().cafile or True


def _place(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "", None, None


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 section 10.2.3)."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
