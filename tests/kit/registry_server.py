# SPDX-License-Identifier: Apache-2.0
"""Runs a real registry, Debian's `docker-registry`, on a free loopback port.

    with RegistryServer(Path("/tmp/somewhere")) as registry:
        push(image, f"{registry.address}/example/os:1")

It listens on 127.0.0.1 only, keeps everything in the directory it was given (`registry.log` too), and ends with the
block. Its TLS speaks with the certificate that it is given; `USER` and `PASSWORD` open it when it asks for a password.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from kit.running import Running

PROGRAM = "docker-registry"
USER = "operator"
PASSWORD = "correct horse"
HTPASSWD = "operator:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"
"""The same for htpasswd(1): the server knows bcrypt only."""

_START_SECONDS = 15.0


def available() -> bool:
    """Whether the server is installed (package docker-registry)."""
    return shutil.which(PROGRAM) is not None


class RegistryServer(Running):
    """A registry that stores below `directory`. `port` 0 takes a free one, which a restart keeps."""

    def __init__(
        self, directory: Path, *, port: int = 0, password: bool = False, tls: tuple[Path, Path] | None = None,
        clients: Path | None = None, tokens: Mapping[str, str] | None = None,
    ) -> None:
        """`tls` is the certificate and the key, in PEM; only clients with a certificate by the authority `clients` are
        let in, or those with a token as `tokens` (kit/token_server.py) says."""
        self.directory = directory
        self.port = port
        self._password = password
        self._tls = tls
        self._clients = clients
        self._tokens = tokens
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port, as image references write it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens. Raises RuntimeError with its log when it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.json"  # JSON is YAML
        config.write_text(json.dumps(self._config(), indent=2))
        log = self.directory / "registry.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [PROGRAM, "serve", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            text = log.read_text(errors="replace")
            # Its own words, so that nobody takes the port between choosing and using it.
            if match := re.search(r"listening on 127\.0\.0\.1:([0-9]+)", text):
                self.port = int(match[1])
                return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"{PROGRAM} did not start:\n{log.read_text(errors='replace')}")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def requests(self) -> list[str]:
        """The request lines that it has logged, such as `GET /v2/example/os/manifests/1`."""
        text = (self.directory / "registry.log").read_text(errors="replace")
        return re.findall(r'"((?:GET|HEAD|PUT|POST|PATCH) \S+) HTTP/', text)

    def _config(self) -> dict[str, object]:
        http: dict[str, object] = {"addr": f"127.0.0.1:{self.port}", "secret": "of no value"}
        if self._tls is not None:
            http["tls"] = {"certificate": str(self._tls[0]), "key": str(self._tls[1]),
                           **({"clientcas": [str(self._clients)]} if self._clients is not None else {})}
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "storage")}, "delete": {"enabled": True}},
            "http": http,
        }
        if self._password:
            htpasswd = self.directory / "htpasswd"
            htpasswd.write_text(HTPASSWD + "\n")
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
        if self._tokens is not None:
            config["auth"] = {"token": dict(self._tokens)}
        return config
