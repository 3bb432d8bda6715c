# SPDX-License-Identifier: Apache-2.0
"""`dir:DIRECTORY`: one image as skopeo and podman copy it into a directory, signatures included.

    DIRECTORY/version                 "Directory Transport Version: 1.1"
    DIRECTORY/manifest.json           byte for byte as at the registry, so its digest is the same
    DIRECTORY/HEX                     config and layers, by the hex digits of their digests
    DIRECTORY/HEX.manifest.json       the manifests of an index
    DIRECTORY/signature-N             signatures of manifest.json, N from 1 on without a gap
    DIRECTORY/HEX-signature-N         signatures of a manifest of an index

A path is made of nothing but a digest that was checked, so it stays inside.

Source: observed output of skopeo 1.9; the directory transport of github.com/containers/image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import BlobNotFound, ImageNotFound, OciError, SourceUnreachable
from ..formats.oci import MAX_DOCUMENT, Descriptor, Manifest
from ..model import ImageReference, Platform, is_digest
from .gpg import MAX_SIGNATURE
from .made import check_pin
from .ocidir import FileStream, Region, open_regular
from .resolve import digest_of, resolve, verify
from .sources import FetchedManifest, SourceOptions

_VERSION = b"Directory Transport Version: 1."
_MAX_VERSION = 1 << 10


class SkopeoDirectory:
    """The image in a directory."""

    def __init__(self, reference: ImageReference, options: SourceOptions) -> None:
        self.reference = reference
        self.options = options

    def manifest(self, platform: Platform) -> FetchedManifest:
        what = str(self.reference)
        if not os.path.isdir(self.reference.name):
            raise SourceUnreachable(f"{what}: there is no directory {self.reference.name}", advice="Check the path.")
        version = self._small("version", _MAX_VERSION)
        # Old tools wrote no such file; the format was the same.
        if version is not None and not version.startswith(_VERSION):
            raise OciError(f"{what}: the file version names none that is supported")
        data = self._small("manifest.json", MAX_DOCUMENT)
        if data is None:
            raise OciError(f"{what}: there is no manifest.json, so this is nothing that 'skopeo copy … dir:' wrote",
                           advice="An OCI layout is oci:DIRECTORY.")
        return check_pin(self.reference, resolve(what, data, None, digest_of(data), platform, self._manifest_of))

    def companion(self, tag: str) -> Manifest:
        raise ImageNotFound(f"{self.reference}: a directory of this kind holds no {tag}", advice="")

    def signatures(self, digest: str) -> Iterator[tuple[str, bytes]]:
        """Where each signature of a manifest is, and the signature, at most one byte more than MAX_SIGNATURE."""
        data = self._small("manifest.json", MAX_DOCUMENT)
        if data is None or not is_digest(digest):
            return
        prefix = "" if digest_of(data, digest.partition(":")[0]) == digest else f"{digest.partition(':')[2]}-"
        number = 1
        while (region := self._open(name := f"{prefix}signature-{number}")) is not None:
            with open(region.fd, "rb") as file:
                yield name, file.read(MAX_SIGNATURE + 1)
            number += 1

    def blob(self, descriptor: Descriptor, offset: int = 0) -> FileStream:
        what = f"{self.reference}: blob {descriptor.digest}"
        return FileStream(what, self._region(what, descriptor, ""), offset)

    def close(self) -> None:
        pass

    def _manifest_of(self, descriptor: Descriptor) -> bytes:
        what = f"{self.reference}: manifest {descriptor.digest}"
        data = b"".join(FileStream(what, self._region(what, descriptor, ".manifest.json"), 0))
        verify(data, descriptor.digest, what)
        return data

    def _region(self, what: str, descriptor: Descriptor, suffix: str) -> Region:
        algorithm, _, digits = descriptor.digest.partition(":")
        if not is_digest(descriptor.digest):
            raise OciError(f"{what}: malformed digest")
        region = self._open(digits + suffix)
        if region is None and algorithm != "sha256":  # as newer versions name the others
            region = self._open(f"{algorithm}-{digits}{suffix}")
        if region is None:
            raise BlobNotFound(f"{what}: not in the directory")
        return region.exactly(descriptor.size, what)

    def _small(self, name: str, limit: int) -> bytes | None:
        region = self._open(name)
        if region is None:
            return None
        what = f"{self.reference}: {name}"
        return b"".join(FileStream(what, region.at_most(limit, what), 0))

    def _open(self, name: str) -> Region | None:
        return open_regular(self.reference, Path(self.reference.name) / name)
