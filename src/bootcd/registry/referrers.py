# SPDX-License-Identifier: Apache-2.0
"""What others have attached to an image: artifacts whose `subject` is its manifest (OCI 1.1), such as signatures.

    for found in artifacts(source, fetched.digest, "application/vnd.example.bundle.v1+json"):
        for layer in found.manifest.layers:
            read_blob(source, layer, MAX_SIZE)

A registry lists them at `/v2/NAME/referrers/DIGEST`; one that does not know that has an index under the tag
`sha256-HEX`, which whoever attaches something keeps. An image layout has them in its index.json, with their
`artifactType`. Other places have none.

What is listed is nobody's word: the manifest of an artifact counts, whose digest is verified, and which has to name the
subject and the type itself. Anybody who may push can attach anything, and anybody in between can leave things out; so
what is there proves nothing by itself, and that nothing is there neither. Everything is bounded.

Source: OCI distribution specification 1.1 (listing referrers, referrers tag schema), OCI image specification 1.1
(manifest.md, guidelines for artifact usage).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlencode, urljoin, urlsplit

from ..errors import BlobMismatch, BlobNotFound, ImageNotFound, OciError
from ..formats.oci import MANIFEST_TYPES, MAX_DOCUMENT, Descriptor, Index, Manifest
from ..model import ImageReference
from .resolve import Documents, located, verify
from .retry import persist
from .sources import HasReferrers, Source, SourceOptions

log = logging.getLogger(__name__)

MAX_REFERRERS = 100
"""Artifacts of one type at one image. Whoever can push can add more; they would only cost time."""
MAX_PAGES = 8
"""Answers in which a registry may list them; together they have at most MAX_DOCUMENT bytes."""
ATTEMPTS = 3
"""How often a list is asked for that does not come: most images need none."""
NO_LIST = (400, 404, 405, 501)
"""What registries answer that know no such address."""

_EMPTY = "application/vnd.oci.empty.v1+json"
_NEXT = re.compile(r'<([^<>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact about an image: its manifest, verified by the digest in `descriptor`."""

    descriptor: Descriptor
    manifest: Manifest


def artifacts(source: Source, digest: str, artifact_type: str, limit: int | None = None) -> Iterator[Artifact]:
    """The artifacts of a type about the manifest `digest`, as they are read; what is broken, or about something else,
    is passed over, and so is what does not fit into `limit` bytes together, for who can do without.

    Raises OciError when the list is malformed or too long, and SourceUnreachable, AuthenticationFailed.
    """
    if not isinstance(source, HasReferrers):
        return
    found = {item.digest: item for item in source.referrers(digest, artifact_type)}
    if len(found) > MAX_REFERRERS:
        raise OciError(f"{source.reference}: {len(found)} artifacts of type {artifact_type} are attached to {digest}, "
                       f"more than {MAX_REFERRERS}")
    for descriptor in found.values():
        if limit is not None:
            if descriptor.size > limit:
                log.info("%s: %s with %d bytes is left out", source.reference, descriptor.digest, descriptor.size)
                continue
            limit -= descriptor.size
        try:
            manifest = source.artifact(descriptor)
        except (OciError, BlobMismatch, BlobNotFound, ImageNotFound) as error:
            log.info("%s", error)
            continue
        subject = manifest.subject.digest if manifest.subject is not None else None
        if subject != digest or (manifest.artifact_type or manifest.config.media_type) != artifact_type:
            log.info("%s: %s is no %s about %s", source.reference, descriptor.digest, artifact_type, digest)
            continue
        yield Artifact(descriptor, manifest)


def tag_of(digest: str) -> str:
    """The tag of the index that lists what is attached to a manifest, where a registry does not."""
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm[:32]}-{digits[:64]}"


# --- for sources ------------------------------------------------------------------------------------------------------

Pages = Callable[[str, str], list[bytes]]
"""Fetches the answers that list what is attached to a digest, by type; none where the registry does not know that.
Raises TransientFailure, OciError, SourceUnreachable, AuthenticationFailed."""


def referrers_of(reference: ImageReference, options: SourceOptions, pages: Pages, documents: Documents, digest: str,
                 artifact_type: str) -> tuple[Descriptor, ...]:
    """What `HasReferrers.referrers` returns and raises, from the answers of a registry."""
    what = f"{reference}: what is attached to {digest}"
    patience = replace(options, attempts=min(options.attempts, ATTEMPTS))
    answers = persist(patience, lambda: pages(digest, artifact_type))
    if not answers:
        try:
            answers = [persist(options, lambda: documents(tag_of(digest), None))[0]]
        except ImageNotFound:
            return ()
    try:
        return tuple(item for answer in answers for item in chosen(Index.parse(answer), artifact_type))
    except OciError as error:
        raise located(error, what) from None


def artifact_of(reference: ImageReference, options: SourceOptions, documents: Documents, descriptor: Descriptor
                ) -> Manifest:
    """What `HasReferrers.artifact` returns and raises, from the documents of a registry."""
    what = f"{reference}: artifact {descriptor.digest}"
    check_size(what, descriptor)
    data, _ = persist(options, lambda: documents(descriptor.digest, descriptor.size))
    verify(data, descriptor.digest, what)
    try:
        return Manifest.parse(data)
    except OciError as error:
        raise located(error, what) from None


def check_size(what: str, descriptor: Descriptor) -> None:
    """Raises OciError for what is too large to be a manifest."""
    if descriptor.size > MAX_DOCUMENT:
        raise OciError(f"{what}: {descriptor.size} bytes are more than {MAX_DOCUMENT}")


def chosen(index: Index, artifact_type: str) -> Iterator[Descriptor]:
    """Those of a type, whether or not a registry has looked at it. One whose type is not told may be of any; cosign 2
    and 3 name that of the empty config in its place."""
    return (item for item in index.manifests
            if item.media_type in MANIFEST_TYPES and item.artifact_type in (None, _EMPTY, artifact_type))


def first_page(digest: str, artifact_type: str) -> str:
    """Where a registry lists them, after the name of the repository."""
    return f"referrers/{digest}?{urlencode({'artifactType': artifact_type})}"


def next_page(url: str, repository: str, link: str | None) -> str:
    """Where the list goes on, in the same form; empty at its end. `url` is where this page is. A registry cannot send
    us elsewhere."""
    match = _NEXT.search(link or "")
    if match is None:
        return ""
    try:
        parts, here = urlsplit(urljoin(url, match[1])), urlsplit(url)
    except ValueError:
        return ""
    prefix = f"/v2/{repository}/"
    if (parts.scheme, parts.netloc) != (here.scheme, here.netloc) or not parts.path.startswith(f"{prefix}referrers/"):
        return ""
    return f"{parts.path.removeprefix(prefix)}{'?' if parts.query else ''}{parts.query}"
