# SPDX-License-Identifier: Apache-2.0
"""From the document that a reference names to the manifest of one image.

The document may be an index; then the manifest for a platform is chosen and fetched by digest. What a document is, it
says itself: the digest covers its `mediaType`, but not the header that came with it, so a header that says otherwise
is an error (CVE-2021-41190). Foreign layers and what is no image are refused here, before anything large is fetched.

Source: OCI image specification 1.1 (manifest.md, image-index.md), OCI distribution specification 1.1 (pulling
manifests).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from ..errors import BlobMismatch, BootcdError, OciError
from ..formats.oci import INDEX_TYPES, LAYER_COMPRESSION, MANIFEST_TYPES, MAX_DOCUMENT, Descriptor, Index, Manifest
from ..model import ImageReference, Platform
from .retry import persist
from .sources import FetchedManifest, SourceOptions

DOCUMENT_TYPES = (*sorted(MANIFEST_TYPES), *sorted(INDEX_TYPES))
"""What may be asked for and what may come."""

_MAX_DEPTH = 3
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The OCI digest of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def verify(data: bytes, digest: str, what: str) -> None:
    """Raises BlobMismatch when `data` does not have `digest`."""
    actual = digest_of(data, digest.partition(":")[0])
    if actual != digest:
        raise BlobMismatch(f"{what}: has digest {actual}, not {digest}")


def located(error: BootcdError, what: str) -> BootcdError:
    """The same error, with a message that begins with what it is about."""
    text = str(error)
    return error if text.startswith(what) else type(error)(f"{what}: {text}", advice=error.hint)


Documents = Callable[[str, int | None], tuple[bytes, str | None]]
"""Fetches a document by tag or digest, of that size if it is known, unverified: its bytes and the media type that came
with it. Raises TransientFailure, and what `Source.manifest` raises."""


def manifest_of(reference: ImageReference, options: SourceOptions, documents: Documents, platform: Platform
                ) -> FetchedManifest:
    """What `Source.manifest` returns and raises, from the documents of a registry."""
    what = str(reference)
    wanted = reference.digest
    data, declared = persist(options, lambda: documents(wanted or reference.tag or "latest", None))
    if wanted is not None:
        verify(data, wanted, what)

    def listed(descriptor: Descriptor) -> bytes:
        """A manifest that an index names."""
        where = f"{what}: manifest {descriptor.digest}"
        found, _ = persist(options, lambda: documents(descriptor.digest, descriptor.size))
        if len(found) != descriptor.size:
            raise BlobMismatch(f"{where}: has {len(found)} bytes, not {descriptor.size}")
        verify(found, descriptor.digest, where)
        return found

    return resolve(what, data, declared, wanted or digest_of(data), platform, listed)


def companion_of(reference: ImageReference, options: SourceOptions, documents: Documents, tag: str) -> Manifest:
    """What `Source.companion` returns and raises, from the documents of a registry."""
    data, _ = persist(options, lambda: documents(tag, None))
    try:
        return Manifest.parse(data)
    except OciError as error:
        raise located(error, f"{reference}: {tag}") from None


def resolve(
    what: str, top: bytes, declared: str | None, digest: str, platform: Platform, fetch: Callable[[Descriptor], bytes]
) -> FetchedManifest:
    """Find the manifest for `platform`.

    `top` is the document that the reference `what` names, verified to have `digest`; `declared` the media type that
    came with it, if any. `fetch` returns other documents, verified. Raises OciError, NoMatchingPlatform and what
    `fetch` raises.
    """
    try:
        data, current = top, digest
        indexes: tuple[Index, ...] = ()
        for _ in range(_MAX_DEPTH):
            if not _is_index(data, declared):
                manifest = Manifest.parse(data)
                _check_image(manifest)
                return FetchedManifest(data, current, manifest, digest, indexes)
            indexes += (Index.parse(data),)
            chosen = _choose(indexes[-1], platform)
            if chosen.size > MAX_DOCUMENT:
                raise OciError(f"manifest {chosen.digest} has {chosen.size} bytes, more than {MAX_DOCUMENT}")
            data, declared, current = fetch(chosen), chosen.media_type, chosen.digest
        raise OciError(f"indexes are nested more than {_MAX_DEPTH - 1} deep")
    except BootcdError as error:
        raise located(error, what) from None


def _choose(index: Index, platform: Platform) -> Descriptor:
    nested = [item for item in index.manifests if item.media_type in INDEX_TYPES]
    if len(nested) == 1 and len(index.manifests) == 1:
        return nested[0]
    return index.choose(platform)


def _is_index(data: bytes, declared: str | None) -> bool:
    """What the document says it is; `declared` decides only where it says nothing."""
    declared = (declared or "").partition(";")[0].strip().lower()
    inner, version, shape = _peek(data)
    if version == 1 or declared.startswith(_SCHEMA1) or (inner or "").startswith(_SCHEMA1):
        raise OciError("the image is in Docker's schema 1, which is not supported; push it with a current tool")
    if declared in DOCUMENT_TYPES and inner is not None and inner != declared:
        raise OciError(f"the document says that it is {inner!r:.120}, but it was delivered as {declared!r}")
    if inner is None and declared in DOCUMENT_TYPES:
        if shape is not None and shape is not (declared in INDEX_TYPES):
            raise OciError(f"the document does not look like {declared!r}, as which it was delivered")
        return declared in INDEX_TYPES
    if inner is None:
        return shape is True
    if inner not in DOCUMENT_TYPES:
        raise OciError(f"media type {inner!r:.120} is neither an image manifest nor an index")
    return inner in INDEX_TYPES


def _peek(data: bytes) -> tuple[str | None, object, bool | None]:
    """`mediaType`, `schemaVersion` and whether it looks like an index; the strict parsers report what is malformed."""
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None, None, None
    if not isinstance(document, dict):
        return None, None, None
    media_type = document.get("mediaType")
    shape = True if "manifests" in document else False if "layers" in document or "config" in document else None
    return (media_type if isinstance(media_type, str) else None), document.get("schemaVersion"), shape


def _check_image(manifest: Manifest) -> None:
    if not manifest.is_image:
        kind = manifest.artifact_type or manifest.config.media_type
        raise OciError(f"this is no image but an artifact of type {kind!r:.120}")
    if manifest.config.size > MAX_DOCUMENT:
        raise OciError(f"manifest.config.size: {manifest.config.size} is more than {MAX_DOCUMENT} bytes")
    for number, layer in enumerate(manifest.layers):
        where = f"manifest.layers[{number}]"
        if layer.urls or "nondistributable" in layer.media_type or ".foreign." in layer.media_type:
            raise OciError(f"{where}: {layer.digest} is a foreign layer, which is not fetched from other places")
        if layer.media_type not in LAYER_COMPRESSION:
            raise OciError(f"{where}.mediaType: {layer.media_type!r:.120} is no file system layer")
