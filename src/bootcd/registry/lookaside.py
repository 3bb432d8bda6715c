# SPDX-License-Identifier: Apache-2.0
"""Where signatures are that are not in the registry: registries.d, and the stores that it names.

    default-docker: SECTION
    docker: {SCOPE: SECTION, …}         SECTION   lookaside: URL, the older name is sigstore
                                                  use-sigstore-attachments: true or false

    URL/REPOSITORY@sha256=HEX/signature-N        OpenPGP signatures of a manifest, N from 1 on without a gap

The section of the most specific scope counts, and only that. Without any, the store is `DEFAULT_STORE`, where skopeo
puts what root signs. Attachments are looked for unless a section says false.

Source: containers-registries.d(5), and the observed layout of the stores of skopeo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from ..errors import BlobMismatch, SignatureError, SourceUnreachable, TrustPolicyError
from ..formats.imagename import ImageName
from ..linux import files
from .gpg import MAX_SIGNATURE, SignedMessage
from .http import Http
from .retry import persist
from .separate import SeparateHost
from .sigstore import MAX_SIGNATURES
from .sources import SourceOptions

DEFAULT_STORE = "file:///var/lib/containers/sigstore"

_MAX_FILE = 1 << 20
_SECTION = ("lookaside", "lookaside-staging", "sigstore", "sigstore-staging", "use-sigstore-attachments")


@dataclass(frozen=True, slots=True)
class Section:
    """What is said about a part of the name space; `origin` is the file that says it."""

    store: str = DEFAULT_STORE
    attachments: bool = True
    origin: str = ""


@dataclass(frozen=True, slots=True)
class SignatureStores:
    """All files of a directory together."""

    sections: Mapping[str, Section] = field(default_factory=dict)
    default: Section = Section()

    def about(self, name: ImageName) -> Section:
        return next((self.sections[scope] for scope in name.scopes() if scope in self.sections), self.default)


def load_stores(directory: Path) -> SignatureStores:
    """Read the files `*.yaml` of a directory that may be missing. Raises TrustPolicyError."""
    sections: dict[str, Section] = {}
    default: Section | None = None
    for path in sorted(directory.glob("*.yaml")):
        document = _read(path)
        for key in document.keys() - {"default-docker", "docker"}:
            raise TrustPolicyError(f"{path}: unknown key '{key}'")
        if "default-docker" in document:
            if default is not None:
                raise TrustPolicyError(f"{path}: default-docker: {default.origin} says it already")
            default = _section(document["default-docker"], path, "default-docker")
        for scope, value in _mapping(document.get("docker") or {}, path, "docker").items():
            if scope in sections:
                raise TrustPolicyError(f"{path}: docker.{scope}: {sections[scope].origin} says it already")
            sections[scope] = _section(value, path, f"docker.{scope}")
    return SignatureStores(sections, default or Section())


def lookaside(section: Section, name: ImageName, digest: str, options: SourceOptions) -> Iterator[SignedMessage]:
    """The signatures of a manifest in its store, as they are read. Raises SourceUnreachable, SignatureError when there
    are too many, TrustPolicyError when the address makes no sense."""
    base = f"{section.store.rstrip('/')}/{name.repository.partition('/')[2]}@{digest.replace(':', '=', 1)}"
    with _Store(base, options, section) as store:
        for number in range(1, MAX_SIGNATURES + 1):
            where = f"{base}/signature-{number}"
            data = store.read(where)
            if data is None:
                return
            yield SignedMessage(where, data)
        raise SignatureError(f"{base}: more than {MAX_SIGNATURES - 1} signatures")


class _Store:
    """Reads files below one address; a context manager."""

    def __init__(self, base: str, options: SourceOptions, section: Section) -> None:
        try:
            self._parts = urlsplit(base)
        except ValueError:
            raise TrustPolicyError(f"{section.origin}: lookaside: '{base}' is no address") from None
        self._options = options
        self._server: Http | SeparateHost | None = None
        if self._parts.scheme in ("http", "https") and self._parts.hostname:
            there = replace(options, insecure=False)
            self._server = (SeparateHost if options.separate else Http)(self._parts.netloc, there)
        elif self._parts.scheme != "file" or self._parts.netloc:
            raise TrustPolicyError(f"{section.origin}: lookaside: '{base}' is neither https:, http: nor file:///")

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *about: object) -> None:
        if self._server is not None:
            self._server.close()

    def read(self, url: str) -> bytes | None:
        """One signature, at most one byte more than `MAX_SIGNATURE`; None when there is none."""
        server = self._server
        if server is None:
            return _file(unquote(urlsplit(url).path))
        try:
            status, data = persist(self._options, lambda: server.file(url, MAX_SIGNATURE))
        except BlobMismatch:
            return bytes(MAX_SIGNATURE + 1)  # too large to be one, whatever it holds
        if status in (404, 410):
            return None
        if status != 200:
            raise SourceUnreachable(f"{url}: HTTP {status}")
        return data


def _file(path: str) -> bytes | None:
    with files.translate(path):
        try:
            descriptor = files.open_regular(path, follow=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            return file.read(MAX_SIGNATURE + 1)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise TrustPolicyError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise TrustPolicyError(f"{path}: larger than {_MAX_FILE} bytes")
    try:
        return _mapping(yaml.load(data, _Loader) or {}, path, "file")  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).replace("\n", " ")
        raise TrustPolicyError(f"{path}: not YAML: {reason}") from None


class _Loader(yaml.SafeLoader):
    """Plain values, no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise yaml.constructor.ConstructorError(None, None, "a key appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _mapping(value: object, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TrustPolicyError(f"{path}: {what}: expected keys and values")
    return value


def _section(value: object, path: Path, what: str) -> Section:
    section = _mapping(value if value is not None else {}, path, what)
    for key in section.keys() - set(_SECTION):
        raise TrustPolicyError(f"{path}: {what}: unknown key '{key}'")
    for key in _SECTION[:4]:
        if not isinstance(section.get(key, ""), str):
            raise TrustPolicyError(f"{path}: {what}: {key}: expected an address")
    attachments = section.get("use-sigstore-attachments", True)
    if not isinstance(attachments, bool):
        raise TrustPolicyError(f"{path}: {what}: use-sigstore-attachments: expected true or false")
    return Section(section.get("lookaside") or section.get("sigstore") or DEFAULT_STORE, attachments, str(path))
