# SPDX-License-Identifier: Apache-2.0
"""meta.json: what a composefs repository says about itself.

    {
      "version": 1,
      "algorithm": "fsverity-sha512-12",
      "features": {"compatible": [], "read-only-compatible": ["v1_erofs"], "incompatible": []},
      "erofs_formats": {"default": 1, "extra": [2]}
    }

* `version` above 1 and unknown `incompatible` features: not ours to open.
* unknown `read-only-compatible` features: to be read, not written. Unknown `compatible` ones do not matter.
* `v1_erofs` is there exactly when images are written as V1. Without `erofs_formats` the repository is older: V2, or V1
  when it has `v1_erofs`; the same holds when it says `{"default": 2}`.

The text is written byte for byte as composefs-rs 0.9 writes it, since it compares texts. Spec 1.5.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import MetadataError, RepositoryTooNew
from ..formats.erofs.layout import Version
from ..formats.fsverity import Algorithm

FILE_NAME = "meta.json"
MAX_SIZE = 1 << 20
FORMAT_VERSION = 1
V1_EROFS = "v1_erofs"
_READ_ONLY_FEATURES = frozenset({V1_EROFS})


@dataclass(frozen=True, slots=True)
class Metadata:
    """The settings of a repository; `extra` are image formats that are generated beside the default."""

    algorithm: Algorithm
    version: Version
    extra: tuple[Version, ...] = ()
    unknown_read_only: tuple[str, ...] = ()

    @property
    def versions(self) -> tuple[Version, ...]:
        """All image formats to generate, the default first."""
        return (self.version, *self.extra)

    def format(self) -> bytes:
        """The text of the file."""
        formats: dict[str, Any] = {"default": int(self.version)}
        extra = sorted({int(version) for version in self.extra if version != self.version})
        if extra:
            formats["extra"] = extra
        features = {
            "compatible": [],
            "read-only-compatible": [V1_EROFS] if self.version == Version.V1 else [],
            "incompatible": [],
        }
        document = {"version": FORMAT_VERSION, "algorithm": self.algorithm.identifier, "features": features,
                    "erofs_formats": formats}
        return json.dumps(document, indent=2).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Metadata:
        """Raises MetadataError when it is malformed, RepositoryTooNew when it is of a kind that we do not know."""
        document = _load(data)
        version = document.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            raise MetadataError(f"{FILE_NAME}: version: expected an unsigned integer")
        if version > FORMAT_VERSION:
            raise RepositoryTooNew(f"{FILE_NAME}: format version {version}, known is {FORMAT_VERSION}")
        features = _member(document, "features", dict, {})
        _strings(features, "compatible")
        incompatible = _strings(features, "incompatible")
        if incompatible:
            raise RepositoryTooNew(f"{FILE_NAME}: unknown incompatible features: {', '.join(map(repr, incompatible))}")
        read_only = _strings(features, "read-only-compatible")
        algorithm = document.get("algorithm")
        if not isinstance(algorithm, str):
            raise MetadataError(f"{FILE_NAME}: algorithm: expected a string")
        default, extra = _formats(document)
        if default == Version.V2 and not extra and V1_EROFS in read_only:
            default = Version.V1
        unknown = tuple(name for name in read_only if name not in _READ_ONLY_FEATURES)
        return cls(Algorithm.parse(algorithm), default, extra, unknown)


def _load(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_SIZE:
        raise MetadataError(f"{FILE_NAME}: larger than {MAX_SIZE} bytes")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{FILE_NAME}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MetadataError(f"{FILE_NAME}: expected an object")
    return document


def _member(document: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = document.get(key, default)
    if not isinstance(value, kind):
        raise MetadataError(f"{FILE_NAME}: {key}: expected {'an object' if kind is dict else 'an array'}")
    return value


def _strings(features: dict[str, Any], key: str) -> list[str]:
    values = _member(features, key, list, [])
    if not all(isinstance(value, str) for value in values):
        raise MetadataError(f"{FILE_NAME}: features.{key}: expected strings")
    return list(values)


def _formats(document: dict[str, Any]) -> tuple[Version, tuple[Version, ...]]:
    formats = _member(document, "erofs_formats", dict, {"default": 2})
    default = _version(formats.get("default"), "default")
    extra = {_version(value, "extra") for value in _member(formats, "extra", list, [])} - {default}
    return default, tuple(sorted(extra))


def _version(value: Any, key: str) -> Version:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MetadataError(f"{FILE_NAME}: erofs_formats.{key}: expected an unsigned integer")
    try:
        return Version(value)
    except ValueError:
        raise RepositoryTooNew(f"{FILE_NAME}: erofs_formats.{key}: unknown image format {value}") from None
