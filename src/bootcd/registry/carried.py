# SPDX-License-Identifier: Apache-2.0
"""An image that was carried here: the bytes come from a place on this machine, and are taken as those of another
reference, which is the one that the machine follows.

So it is that reference which decides: what the policy demands of it, the name that a signature has to give the image,
the digest that it may be pinned to. The signatures are those that came along. The digest of the manifest stays what it
is at the registry where the copy was made byte for byte, and then the registry has nothing newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..errors import ImageNotFound
from ..formats.oci import Descriptor, Manifest
from ..model import ImageReference, Platform
from .opening import open_source
from .sources import BlobStream, CarriesSignatures, FetchedManifest, HasReferrers, Source, SourceOptions


class Carried:
    """The image of `reference`, from `place`."""

    def __init__(self, reference: ImageReference, place: ImageReference, options: SourceOptions) -> None:
        """Raises UsageError."""
        if reference.digest is not None and place.digest is None and not place.tag and place.transport in _BY_DIGEST:
            place = replace(place, digest=reference.digest)
        self.reference = reference
        self.place = place
        self.options = options
        self._source: Source = open_source(place, options)

    def manifest(self, platform: Platform) -> FetchedManifest:
        found = self._source.manifest(platform)
        pin = self.reference.digest
        if pin not in (None, found.digest, found.reference_digest):
            raise ImageNotFound(
                f"{self.reference} is pinned to its digest, and the image in {self.place} is {found.reference_digest}",
                advice="'skopeo copy --all --preserve-digests' copies an image as it is.")
        return found

    def companion(self, tag: str) -> Manifest:
        return self._source.companion(tag)

    def signatures(self, digest: str) -> Iterator[tuple[str, bytes]]:
        if isinstance(self._source, CarriesSignatures):
            yield from self._source.signatures(digest)

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        return self._source.referrers(digest, artifact_type) if isinstance(self._source, HasReferrers) else ()

    def artifact(self, descriptor: Descriptor) -> Manifest:
        if not isinstance(self._source, HasReferrers):
            raise ImageNotFound(f"{self.place}: nothing is attached", advice="")
        return self._source.artifact(descriptor)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        return self._source.blob(descriptor, offset)

    def close(self) -> None:
        self._source.close()


def is_remote(source: Source) -> bool:
    """Whether the bytes of a source come from another machine."""
    return source.reference.transport == "docker" and not isinstance(source, Carried)


_BY_DIGEST = ("oci", "oci-archive")
"""Transports where a place has many images with digests."""
