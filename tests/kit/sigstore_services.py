# SPDX-License-Identifier: Apache-2.0
"""What cosign 3 signs with, on loopback: a real log of Rekor 2, and the doors of a Fulcio and of an authority for time
stamps.

    with SigstoreServices(directory, log_key) as services:
        subprocess.run(["cosign", "sign", *services.options(), …])

The log is `rekor-server-posix` of rekor-tiles. Behind the other two are `signing.Fulcio` and `openssl ts`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kit.signing import EMAIL, ISSUER, Fulcio, PrivateKey
from kit.timestamping import OpensslTimeAuthority

COSIGN, REKOR = shutil.which("cosign"), shutil.which("rekor-server-posix")
ORIGIN = "log.example"
_SINCE = {"validFor": {"start": "2020-01-01T00:00:00Z"}}


def cosign_version() -> int:
    """The major version of cosign on PATH; 0 without one."""
    if COSIGN is None:
        return 0
    said = subprocess.run([COSIGN, "version"], check=False, capture_output=True, text=True).stdout
    found = re.search(r"^GitVersion: +v(\d+)\.", said, re.MULTILINE)
    return int(found[1]) if found else 0


def available() -> bool:
    """Whether cosign 3, the log and openssl are on PATH."""
    return REKOR is not None and shutil.which("openssl") is not None and cosign_version() == 3


class SigstoreServices:
    """A context manager. `fulcio` and `times` are the authorities, whose certificates are valid now."""

    def __init__(self, directory: Path, log_key: PrivateKey) -> None:
        directory.mkdir()
        self.directory, self._log_key = directory, log_key
        self.fulcio, self.times = Fulcio(int(time.time())), OpensslTimeAuthority(directory / "times")
        self._doors = [_Door(self._certificate, 200), _Door(self.times.answer, 201)]
        self._ports = [_free_port() for _ in range(3)]

    def __enter__(self) -> SigstoreServices:
        key = self.directory / "log.pem"
        key.write_bytes(self._log_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        http, grpc, metrics = map(str, self._ports)
        assert REKOR is not None
        with (self.directory / "log.txt").open("wb") as output:
            self._log = subprocess.Popen(
                [REKOR, "serve", "--hostname", ORIGIN, "--storage-dir", self.directory / "log", "--signer-filepath",
                 key, "--checkpoint-interval", "1s", "--http-port", http, "--grpc-port", grpc, "--http-metrics-port",
                 metrics], stdout=output, stderr=subprocess.STDOUT)
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ports[0])) == 0:
                    break
            time.sleep(0.1)
        for name, document in (("trusted.json", self._trusted()), ("signing.json", self._signing())):
            (self.directory / name).write_text(json.dumps(document))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self._log.terminate()
        self._log.wait(20)
        for door in self._doors:
            door.close()

    def options(self) -> list[str]:
        """For `cosign sign`."""
        return ["--signing-config", f"{self.directory}/signing.json",
                "--trusted-root", f"{self.directory}/trusted.json"]

    @staticmethod
    def token() -> str:
        """As an identity provider gives it, which nobody verifies here."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": "sigstore", "sub": EMAIL, "email": EMAIL, "email_verified": True,
                  "iat": now, "exp": now + 600}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
                 for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
        return ".".join([*parts, "c2ln"])

    def _certificate(self, request: bytes) -> bytes:
        asked = json.loads(request)["publicKeyRequest"]["publicKey"]["content"]
        key = serialization.load_pem_public_key(asked.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        chain = [one.public_bytes(Encoding.PEM).decode()
                 for one in (self.fulcio.certify(key), self.fulcio.middle, self.fulcio.root)]
        return json.dumps({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}).encode()

    def _signing(self) -> dict[str, Any]:
        """Where to ask."""
        def service(url: str, version: int) -> list[dict[str, Any]]:
            return [{"url": url, "majorApiVersion": version, "operator": "example.com", **_SINCE}]

        return {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "oidcUrls": [],
                "caUrls": service(self._doors[0].url, 1), "tsaUrls": service(self._doors[1].url, 1),
                "rekorTlogUrls": service(f"http://127.0.0.1:{self._ports[0]}", 2),
                "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"}}

    def _trusted(self) -> dict[str, Any]:
        """Whom cosign itself believes, when it looks at what it made."""
        public = self._log_key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        log_id, details = hashlib.sha256(spki).digest(), "PKIX_ECDSA_P256_SHA_256"
        if isinstance(public, ed25519.Ed25519PublicKey):
            raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
            log_id, details = hashlib.sha256(f"{ORIGIN}\n\x01".encode() + raw).digest(), "PKIX_ED25519"

        def authority(url: str, *certificates: bytes) -> list[dict[str, Any]]:
            chain = [{"rawBytes": base64.b64encode(one).decode()} for one in certificates]
            return [{"subject": {"organization": "x", "commonName": "x"}, "uri": url,
                     "certChain": {"certificates": chain}, **_SINCE}]

        return {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "ctlogs": [],
                "tlogs": [{"baseUrl": f"https://{ORIGIN}", "hashAlgorithm": "SHA2_256", "publicKey": {
                    "rawBytes": base64.b64encode(spki).decode(), "keyDetails": details, **_SINCE},
                    "logId": {"keyId": base64.b64encode(log_id).decode()}}],
                "certificateAuthorities": authority(self._doors[0].url, *(
                    one.public_bytes(Encoding.DER) for one in (self.fulcio.middle, self.fulcio.root))),
                "timestampAuthorities": authority(self._doors[1].url, *self.times.certificates())}


class _Door:
    """Answers each POST with what comes of its body."""

    def __init__(self, answer: Callable[[bytes], bytes], status: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
