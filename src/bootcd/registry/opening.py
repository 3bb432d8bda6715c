# SPDX-License-Identifier: Apache-2.0
"""Which source an image reference means.

Each kind is imported when it is needed: requests alone takes longer to load than `bootcctl status` may run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..errors import UsageError
from ..model import ImageReference
from .registries import Endpoint, Registries
from .sources import Ranged, Source, SourceOptions

_LOCAL = {
    "oci": ("ocidir", "OciDirectory"), "oci-archive": ("ociarchive", "OciArchive"),
    "docker-archive": ("dockerarchive", "DockerArchive"), "dir": ("skopeodir", "SkopeoDirectory"),
    "containers-storage": ("storage", "StorageImage"), "tar": ("roottar", "RootTar"),
}
"""Module and class for each transport of this machine."""

_MIRROR_ATTEMPTS = 2
"""A mirror that does not answer costs time, and somebody else can be asked."""


def open_source(
    ref: ImageReference, options: SourceOptions | None = None, registries: Registries | None = None
) -> Source:
    """The source that a reference names; `registries` tell of mirrors, other locations and blocked names.

    Raises what its `manifest` raises, RegistryBlocked, and ConfigError for bad `options` or `registries`.
    """
    options = options or SourceOptions()
    if ref.transport == "docker":
        return _registry(ref, options, registries)
    if ref.transport not in _LOCAL:
        raise UsageError(f"image reference '{ref}': transport '{ref.transport}' is not supported")
    module, name = _LOCAL[ref.transport]
    made: Source = getattr(importlib.import_module(f".{module}", __package__), name)(ref, options)
    return made


def _registry(ref: ImageReference, options: SourceOptions, registries: Registries | None) -> Source:
    asked = [(endpoint.reference, there) for endpoint, there in endpoints(ref, options, registries or Registries())]
    places = _separate(asked) if options.separate else _here(asked)
    if places[0].reference == ref and len(places) == 1:
        return places[0]
    from .mirrored import Mirrored

    return Mirrored(ref, options, places)


def endpoints(
    ref: ImageReference, options: SourceOptions, registries: Registries
) -> Iterator[tuple[Endpoint, SourceOptions]]:
    """Where to ask for an image at a registry, in this order, and how each place is reached. Raises what
    `Registries.endpoints` raises."""
    for endpoint in registries.endpoints(ref):
        if endpoint.is_mirror:
            there = replace(options, insecure=endpoint.insecure, attempts=min(options.attempts, _MIRROR_ATTEMPTS))
        else:
            there = replace(options, insecure=options.insecure or endpoint.insecure)
        yield endpoint, there


def _here(endpoints: Sequence[tuple[ImageReference, SourceOptions]]) -> list[Ranged]:
    from .client import RegistrySource

    return [RegistrySource(reference, options) for reference, options in endpoints]


def _separate(endpoints: Sequence[tuple[ImageReference, SourceOptions]]) -> list[Ranged]:
    from .separate import SeparateSource, fetcher

    one = fetcher(endpoints)
    return [SeparateSource(reference, options, one, place) for place, (reference, options) in enumerate(endpoints)]
