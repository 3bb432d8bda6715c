# SPDX-License-Identifier: Apache-2.0
"""Bring an image into the repository: manifest, config, and the layers that are not there yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config
from ..errors import DeltaUnusable, DownloadTooLarge, NoMatchingPlatform, RootFull, UsageError
from ..formats import oci
from ..formats.sealing import Stated
from ..model import ImageReference, Platform, Progress
from ..registry import registries
from ..registry.blob import read_blob
from ..registry.carried import Carried, is_remote
from ..registry.opening import open_source
from ..registry.partial import Partials
from ..registry.retry import RateLimit
from ..registry.sources import FetchedManifest, Source, SourceOptions
from ..store.layers import has_layer
from ..store.ociimages import OciImages
from ..store.repository import Repository
from . import rollout
from .admit import Admitted, name_of
from .deltas import check_delta
from .fetch import Layers
from .results import PullStats
from .sight import check_sight
from .stated import check_documents, stated


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source has for this machine: manifest and config, verified, with the sizes of what would be fetched."""

    admitted: Admitted
    config_data: bytes
    config: oci.Config
    layers: tuple[tuple[oci.Descriptor, str], ...]
    missing: tuple[tuple[oci.Descriptor, str], ...]
    stated: tuple[Stated, ...] = ()
    """Digests that the image, or an artifact about it, states."""

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

    @property
    def rollout(self) -> dict[str, str]:
        """What the image says of a phased rollout, by annotation or label."""
        return rollout.sayings({**self.config.labels, **self.fetched.manifest.annotations})

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
        limit=RateLimit(config.pull_max_rate) if config.pull_max_rate and reference.transport == "docker" else None,
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
        source: Source = Carried(reference, place, replace(options, limit=None))
    else:
        check_sight(reference)
        source = open_source(reference, options, registries.load(registries.files(config.registry_registries_file)))
    try:
        yield source
    finally:
        source.close()


def examine(repository: Repository, source: Source, admitted: Admitted) -> Offer:
    """Fetch the config and see which layers are missing. Raises NoMatchingPlatform when the image is not for us, and
    StatedDigestMismatch, DeltaUnusable when there is a delta that does not lead to it from here."""
    config_data, config = fetch_config(source, admitted)
    found = stated(source, admitted.fetched)
    check_documents(str(source.reference), found, admitted.fetched.data, config_data)
    layers = admitted.fetched.manifest.check_image(config)
    return Offer(admitted, config_data, config, layers, lacking(repository, source, admitted.fetched, layers), found)


def lacking(
    repository: Repository, source: Source, fetched: FetchedManifest, layers: Iterable[tuple[oci.Descriptor, str]],
) -> tuple[tuple[oci.Descriptor, str], ...]:
    """The layers that are missing, each once. Raises DeltaUnusable when the source is a delta that they cannot be made
    from."""
    missing: dict[str, oci.Descriptor] = {}
    for descriptor, diff_id in layers:
        if diff_id not in missing and not has_layer(repository, diff_id):
            missing[diff_id] = descriptor
    found = tuple((descriptor, diff_id) for diff_id, descriptor in missing.items())
    if fetched.delta is not None:
        try:
            check_delta(repository, fetched.delta, found)
        except DeltaUnusable as error:
            raise DeltaUnusable(f"{name_of(source)}: {error}") from None
    return found


def fetch_config(source: Source, admitted: Admitted) -> tuple[bytes, oci.Config]:
    """The config of an image. Raises NoMatchingPlatform when it is not for us."""
    data = read_blob(source, admitted.fetched.manifest.config, oci.MAX_DOCUMENT)
    config = oci.Config.parse(data)
    own = Platform.current()
    if (config.os, config.architecture) != (own.os, own.architecture):
        raise NoMatchingPlatform(f"{source.reference}: the image is for {config.platform}, this machine is {own}")
    return data, config


def check_size(source: Source, offer: Offer, config: Config, partials: Partials) -> None:
    """Raises DownloadTooLarge when more is missing than one run may fetch."""
    if not config.pull_max_download or not is_remote(source):
        return
    size = partials.to_come(descriptor for descriptor, _ in offer.missing)
    if size > config.pull_max_download:
        raise DownloadTooLarge(
            f"{source.reference}: {size} bytes in {len(offer.missing)} of {len(offer.layers)} layers would have to be "
            f"downloaded, and one run may download {config.pull_max_download}")


def pull(
    repository: Repository, source: Source, offer: Offer, *, config: Config, progress: Progress, partials: Partials,
    make_room: Callable[[], bool] = lambda: False, tidy: Callable[[], object] = lambda: None,
) -> PullStats:
    """Import what is missing, then config and manifest. A layer is visible when it is complete and durable, and what
    has come of a large one is kept in `partials`, so whatever breaks off here costs little. The caller names the image
    once it is of use; until then the next collection may take it.

    When the file system is about to be full, `make_room` is called, and what was on its way fetched again if it made
    some. Raises RootFull otherwise, and what reading the source raises. While a delta is used that is attached to the
    image, it is left at that first, and `tidy` called: what it wrote need be nothing of the image, on whose behalf
    alone room is made.
    """
    partials.prune({descriptor.digest for descriptor, _ in offer.missing})
    layers = Layers(repository, source, offer.fetched, offer.missing, config=config, progress=progress,
                    partials=partials)
    while layers.left:
        progress.begin(f"Downloading {len(layers.left)} of {len(offer.layers)} layers", layers.size)
        try:
            layers.fetch(config.pull_parallel)
        except RootFull as error:
            if layers.drop_delta():
                tidy()
            elif not make_room():
                raise RootFull(f"{error}; the download stops where {layers.size} of {offer.download_size} bytes are "
                               "still to come, compressed, and is kept up to there") from error
    images = OciImages(repository)
    images.put_config(offer.config_data)
    images.put_manifest(offer.fetched.data)
    stats, savings = layers.stats, layers.savings
    return PullStats(
        layers=len(offer.layers), layers_fetched=len(offer.missing),
        downloaded=offer.download_size - savings.resumed - savings.saved + savings.wasted,
        reused=offer.reused_size + savings.saved, objects_written=stats.objects_written,
        object_bytes_written=stats.bytes_written, objects_reused=stats.objects_reused,
        object_bytes_reused=stats.bytes_reused,
    )
