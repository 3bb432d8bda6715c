# SPDX-License-Identifier: Apache-2.0
"""What a source of images is.

A source hands out one image: its manifest, checked, and the raw bytes of its blobs, unchecked. Nobody but `blob.py`
should read those bytes, because it alone verifies size and digest, resumes and retries.

    source = opening.open_source(ImageReference.parse("quay.io/example/os:1"), SourceOptions())
    try:
        fetched = source.manifest(Platform.current())
        config = Config.parse(read_blob(source, fetched.manifest.config, MAX_DOCUMENT))
    finally:
        source.close()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..errors import BootcdError, DeltaUnusable
from ..formats.oci import Descriptor, Index, Manifest
from ..formats.ocidelta import Delta
from ..model import ImageReference, Platform
from .observe import Observer

CERTS = (Path("/etc/bootcd/certs.d"), Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
"""Where certificates for single hosts may be."""


class Limit(Protocol):
    """How many bytes in a second may come (`retry.RateLimit`)."""

    def take(self, count: int, wait: Callable[[float], object]) -> None:
        """Wait until `count` more bytes may have come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How a source is reached. Times are in seconds.

    `insecure` permits plain HTTP and unverified TLS; loopback hosts may use plain HTTP anyway. `ca_file` holds the
    certificates to trust in place of the system's; `certs` are directories with one for each host
    (containers-certs.d(5)), of which the first that knows a host counts. `proxy` is the address of the proxy for all
    hosts but those of `no_proxy`, in place of what the environment says. `auth_file` is the only place where
    credentials are looked for when given. `attempts` is how often in a row a transfer may fail without one new byte;
    the pause between two attempts starts at `backoff` and doubles up to `max_backoff`, which bounds what a server may
    ask for with Retry-After as well. `read_timeout` is for the next byte; a transfer fails as well when fewer than
    `stall_bytes` come in `stall_time`. `limit` is shared by all transfers that it slows down. `separate` lets another
    process, without rights, talk to the network. `max_layer_size` is in bytes when decompressed, for what
    has to be read to tell what it is. `observer` is told how everything goes.
    """

    insecure: bool = False
    ca_file: Path | None = None
    certs: tuple[Path, ...] = CERTS
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    auth_file: Path | None = None
    attempts: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    stall_bytes: int = 4 << 10
    stall_time: float = 60.0
    limit: Limit | None = None
    separate: bool = False
    max_layer_size: int = 64 << 30
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """An image manifest whose digest was verified.

    `reference_digest` is the digest of the document that the reference names: the index, when the manifest was chosen
    from one, else `digest` again. It tells cheaply whether a tag has moved. `indexes` are those that led to it.

    `manifest` says what to fetch. As a rule it is what `data` says; where a source has the layers in another form, the
    descriptors are those of that form, and the diff IDs in the config tell that the layers are the same.

    With `delta` the source has nothing but that of the image: layers that are not in it have to be here already.
    """

    data: bytes
    digest: str
    manifest: Manifest
    reference_digest: str
    indexes: tuple[Index, ...] = ()
    delta: Delta | None = None

    def require_whole(self, what: str) -> None:
        """Raises DeltaUnusable when `what` has only a delta, for who has nothing that it could be made from."""
        if self.delta is not None:
            raise DeltaUnusable(f"{what}: it is a delta, made from {self.delta.origin}, and not a whole image",
                                advice="Take the whole image.")


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

    def companion(self, tag: str) -> Manifest:
        """What lies under another tag in the same repository or layout, unverified: an artifact, such as signatures.

        Raises ImageNotFound when there is nothing, and what `manifest` raises.
        """

    def blob(self, descriptor: Descriptor, offset: int = 0) -> BlobStream:
        """The bytes from `offset` on, unverified.

        Raises, here or while iterating, TransientFailure when trying again may help, else BlobNotFound, BlobMismatch,
        SourceUnreachable, AuthenticationFailed.
        """

    def close(self) -> None: ...


@runtime_checkable
class CarriesSignatures(Protocol):
    """A source that has signatures beside the image, and not under a tag of their own."""

    def signatures(self, digest: str) -> Iterator[tuple[str, bytes]]:
        """Those of a manifest, unverified, each with its name there."""


@runtime_checkable
class HasReferrers(Protocol):
    """A source that has artifacts about an image (`referrers`, which alone should ask for them)."""

    def referrers(self, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
        """What is said to be about the manifest `digest`, and of that type or one that is not told; unverified.

        Raises OciError, SourceUnreachable, AuthenticationFailed.
        """

    def artifact(self, descriptor: Descriptor) -> Manifest:
        """One of them. Its digest was verified, and nothing else. Raises as `Source.manifest`."""


@runtime_checkable
class Ranged(Source, Protocol):
    """A source that gives parts of blobs."""

    def part(self, descriptor: Descriptor, start: int, size: int) -> BlobStream:
        """`size` bytes of a blob from `start` on, unverified. Raises as `blob`, and SourceUnreachable when the other
        side does not know how."""


class TransientFailure(Exception):
    """A transfer broke off and trying again may help; never leaves this package.

    `error` is what to raise once nobody wants to try again, `retry_after` how many seconds the server asked to wait;
    `stalled` says that hardly anything came.
    """

    def __init__(self, error: BootcdError, retry_after: float | None = None, *, stalled: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.stalled = stalled
