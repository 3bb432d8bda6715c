# SPDX-License-Identifier: Apache-2.0
"""What a source of images is, and which one an image reference means.

A source hands out one image: its manifest, checked, and the raw bytes of its blobs, unchecked. Nobody but `blob.py`
should read those bytes, because it alone verifies size and digest, resumes and retries.

    source = open_source(ImageReference.parse("quay.io/example/os:1"), SourceOptions())
    try:
        fetched = source.manifest(Platform.current())
        config = Config.parse(read_blob(source, fetched.manifest.config, MAX_DOCUMENT))
    finally:
        source.close()
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import BootcdError, UsageError
from ..formats.oci import Descriptor, Manifest
from ..model import ImageReference, Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How a source is reached. Times are in seconds.

    `insecure` permits plain HTTP and unverified TLS; loopback hosts may use plain HTTP anyway. `ca_file` holds the
    certificates to trust in place of the system's. `auth_file` is the only place where credentials are looked for when
    given. `attempts` is how often in a row a transfer may fail without one new byte; the pause between two attempts
    starts at `backoff` and doubles up to `max_backoff`, which bounds what a server may ask for with Retry-After as
    well.
    """

    insecure: bool = False
    ca_file: Path | None = None
    auth_file: Path | None = None
    attempts: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """An image manifest whose digest was verified.

    `reference_digest` is the digest of the document that the reference names: the index, when the manifest was chosen
    from one, else `digest` again. It tells cheaply whether a tag has moved.
    """

    data: bytes
    digest: str
    manifest: Manifest
    reference_digest: str


class BlobStream(Protocol):
    """Raw bytes of a blob in pieces, none of them empty. One thread reads and closes it."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def interrupt(self) -> None:
        """Called from another thread: a `__next__` that waits returns or raises soon."""

    def close(self) -> None: ...


class Source(Protocol):
    """Where one image comes from. Safe to use from several threads."""

    reference: ImageReference
    options: SourceOptions

    def manifest(self, platform: Platform) -> FetchedManifest:
        """The manifest for `platform`.

        Raises ImageNotFound, NoMatchingPlatform, OciError, BlobMismatch, SourceUnreachable, AuthenticationFailed.
        """

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """The bytes from `offset` on, unverified.

        Raises, here or while iterating, TransientFailure when trying again may help, else BlobNotFound, BlobMismatch,
        SourceUnreachable, AuthenticationFailed.
        """

    def close(self) -> None: ...


class TransientFailure(Exception):
    """A transfer broke off and trying again may help; never leaves this package.

    `error` is what to raise once nobody wants to try again, `retry_after` how many seconds the server asked to wait.
    """

    def __init__(self, error: BootcdError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


def open_source(ref: ImageReference, options: SourceOptions | None = None) -> Source:
    """The source that a reference names. Raises what its `manifest` raises, and ConfigError for a bad `options`."""
    options = options or SourceOptions()
    # Imported when needed: requests alone takes longer to load than `bootcctl status` may run.
    if ref.transport == "docker":
        from .client import RegistrySource

        return RegistrySource(ref, options)
    if ref.transport == "oci":
        from .ocidir import OciDirectory

        return OciDirectory(ref, options)
    if ref.transport == "oci-archive":
        from .ociarchive import OciArchive

        return OciArchive(ref, options)
    raise UsageError(f"image reference '{ref}': transport '{ref.transport}' is not supported")
