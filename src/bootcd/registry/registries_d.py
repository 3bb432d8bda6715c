# SPDX-License-Identifier: Apache-2.0
"""registries.d: where signatures are that are not in the registry.

    default-docker: SECTION
    docker: {SCOPE: SECTION, …}         SECTION   lookaside: URL, the older name is sigstore
                                                  use-sigstore-attachments: true or false

The section of the most specific scope counts, and only that. Without any, the store is `DEFAULT_STORE`, where skopeo
puts what root signs. Attachments are looked for unless a section says false.

Source: containers-registries.d(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import TrustPolicyError
from ..formats.imagename import ImageName

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
