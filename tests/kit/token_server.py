# SPDX-License-Identifier: Apache-2.0
"""Gives tokens that a real registry accepts, to whoever knows the password.

    with TokenServer(directory) as tokens, RegistryServer(directory / "registry", tokens=tokens.settings) as registry:
        ...

Source: the token authentication specification of the distribution project, and its JWT (RFC 7519, ES256, `x5c`).
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from kit.registry_server import PASSWORD, USER
from kit.tls import Authority

_ISSUER = "tokens.example"
_SERVICE = "registry.example"


class TokenServer:
    """On a free loopback port. `asked` has the scopes of each request."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = Authority.create(directory, "signer").pair("signer")
        self._authority = directory / "ca.pem"
        self.asked: list[list[str]] = []
        self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self._key = loaded
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def settings(self) -> dict[str, str]:
        """What a registry has to know, in the words of its configuration."""
        return {"realm": f"http://127.0.0.1:{self._server.server_address[1]}/token", "service": _SERVICE,
                "issuer": _ISSUER, "rootcertbundle": str(self._authority)}

    def token(self, *scopes: str) -> str:
        """For scopes such as `repository:team/os:pull,push`."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {"iss": _ISSUER, "sub": USER, "aud": _SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": secrets.token_hex(8), "access": access}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        tokens = self
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                scopes = [one for text in parse_qs(urlsplit(self.path).query).get("scope", []) for one in text.split()]
                tokens.asked.append(scopes)
                if self.headers.get("Authorization") == wanted:
                    self._answer(200, {"token": tokens.token(*scopes), "expires_in": 300})
                else:
                    self._answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
