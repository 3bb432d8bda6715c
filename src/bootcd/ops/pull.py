# SPDX-License-Identifier: Apache-2.0
"""Bring an image into the repository: manifest, config, and the layers that are not there yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import FormatError, NoMatchingPlatform, RootFull, UsageError
from ..formats import oci
from ..linux.room import Guard
from ..model import ImageReference, Platform, Progress
from ..registry import registries
from ..registry.blob import LayerReader, read_blob
from ..registry.carried import Carried
from ..registry.sources import FetchedManifest, Source, SourceOptions, open_source
from ..store.layers import LayerStats, has_layer, import_layer
from ..store.ociimages import OciImages
from ..store.repository import Repository
from .admit import Admitted
from .results import PullStats
from .sight import check_sight

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source has for this machine: manifest and config, verified, with the sizes of what would be fetched."""

    admitted: Admitted
    config_data: bytes
    config: oci.Config
    layers: tuple[tuple[oci.Descriptor, str], ...]
    missing: tuple[tuple[oci.Descriptor, str], ...]

    @property
    def fetched(self) -> FetchedManifest:
        return self.admitted.fetched

    @property
    def download_size(self) -> int:
        return sum(descriptor.size for descriptor, _ in self.missing)

    @property
    def reused_size(self) -> int:
        return sum(descriptor.size for descriptor, _ in self.layers) - self.download_size

    @property
    def version(self) -> str:
        """What the image calls its version, from annotation or label; empty when it does not say."""
        return self._said("org.opencontainers.image.version")

    @property
    def boot_size(self) -> int | None:
        """Bytes that go to the boot partition, where the image says it."""
        text = self._said("org.bootcd.boot-size")
        return int(text) if text.isdecimal() and len(text) < 16 else None

    @property
    def boot_digest(self) -> str:
        """The boot digest of kernel and initrd, where the image says it."""
        return self._said("org.bootcd.boot-digest").removeprefix("sha256:")

    def _said(self, key: str) -> str:
        return self.fetched.manifest.annotations.get(key) or self.config.labels.get(key, "")

    @property
    def created(self) -> str:
        return self.config.created or ""


def options_for(reference: ImageReference, config: Config) -> SourceOptions:
    """How a source is reached by the configuration. With the rights of root, another process does it without them."""
    return SourceOptions(
        insecure=reference.host in config.registry_insecure,
        ca_file=Path(config.registry_ca_file) if config.registry_ca_file else None,
        auth_file=Path(config.registry_auth_file) if config.registry_auth_file else None,
        proxy=config.registry_proxy, no_proxy=config.registry_no_proxy, separate=os.geteuid() == 0,
        max_layer_size=config.pull_max_layer_size,
    )


@contextmanager
def source_of(reference: ImageReference, config: Config, take_from: str = "") -> Iterator[Source]:
    """The source that a reference names, with the settings of the configuration; or the place `take_from` that has the
    image of that reference. Raises UsageError, SourceUnreachable when this process does not see the place."""
    options = options_for(reference, config)
    if take_from:
        place = ImageReference.parse(take_from)
        if place.transport == "docker":
            raise UsageError(f"{place} is at a registry", advice="A registry that has the same images is a mirror, "
                             "see bootcd-registries(5); --from takes what is on this machine, as oci:DIR.")
        check_sight(place)
        source: Source = Carried(reference, place, options)
    else:
        check_sight(reference)
        source = open_source(reference, options, registries.load(registries.files(config.registry_registries_file)))
    try:
        yield source
    finally:
        source.close()


def examine(repository: Repository, source: Source, admitted: Admitted) -> Offer:
    """Fetch the config and see which layers are missing. Raises NoMatchingPlatform when the image is not for us."""
    config_data, config = fetch_config(source, admitted)
    layers = admitted.fetched.manifest.check_image(config)
    missing: dict[str, oci.Descriptor] = {}
    for descriptor, diff_id in layers:
        if diff_id not in missing and not has_layer(repository, diff_id):
            missing[diff_id] = descriptor
    return Offer(admitted, config_data, config, layers,
                 tuple((descriptor, diff_id) for diff_id, descriptor in missing.items()))


def fetch_config(source: Source, admitted: Admitted) -> tuple[bytes, oci.Config]:
    """The config of an image. Raises NoMatchingPlatform when it is not for us."""
    data = read_blob(source, admitted.fetched.manifest.config, oci.MAX_DOCUMENT)
    config = oci.Config.parse(data)
    own = Platform.current()
    if (config.os, config.architecture) != (own.os, own.architecture):
        raise NoMatchingPlatform(f"{source.reference}: the image is for {config.platform}, this machine is {own}")
    return data, config


def pull(
    repository: Repository, source: Source, offer: Offer, *, max_layer_size: int, progress: Progress,
    make_room: Callable[[], bool] = lambda: False,
) -> PullStats:
    """Import what is missing, then config and manifest. A layer is visible when it is complete and durable, so
    whatever breaks off here costs at most one layer. The caller names the image once it is of use; until then the next
    collection may take it.

    When the file system is about to be full, `make_room` is called, and the layer fetched again if it made some. Raises
    RootFull otherwise, and what reading the source raises.
    """
    stats = LayerStats()
    guard = Guard(repository.path)
    if offer.missing:
        progress.begin(f"Downloading {len(offer.missing)} of {len(offer.layers)} layers", offer.download_size)
    for number, (descriptor, diff_id) in enumerate(offer.missing):
        while True:
            reader = LayerReader(source, descriptor, diff_id, max_size=max_layer_size, progress=progress)
            try:
                stats.add(import_layer(repository, diff_id, _guarded(reader.read, guard)))
            except FormatError:
                # What came down the line wrong rarely makes sense as a tar either. The end of the blob tells which it
                # is.
                while reader.read(_PIECE):
                    pass
                raise
            except RootFull as error:
                reader.close()
                left = sum(descriptor.size for descriptor, _ in offer.missing[number:])
                if not make_room():
                    raise RootFull(f"{error}; the download stops where {left} of {offer.download_size} bytes are still "
                                   "to come, compressed, and is kept up to there") from error
                progress.begin(f"Downloading {len(offer.missing) - number} of {len(offer.layers)} layers", left)
            else:
                break
            finally:
                reader.close()
    images = OciImages(repository)
    images.put_config(offer.config_data)
    images.put_manifest(offer.fetched.data)
    return PullStats(
        layers=len(offer.layers), layers_fetched=len(offer.missing), downloaded=offer.download_size,
        reused=offer.reused_size, objects_written=stats.objects_written, object_bytes_written=stats.bytes_written,
        objects_reused=stats.objects_reused, object_bytes_reused=stats.bytes_reused,
    )


def _guarded(read: Callable[[int], bytes], guard: Guard) -> Callable[[int], bytes]:
    def counted(size: int) -> bytes:
        data = read(size)
        guard.count(len(data))
        return data

    return counted
