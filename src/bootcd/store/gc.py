# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: what no ref leads to, goes.

Roots are the refs under `images/refs` and `streams/refs` and the names that the caller adds. An image keeps its own
object and those of its files; a stream keeps its own object, those that it is made of, and through its named refs other
streams. Then objects that nothing keeps are removed, and after them the links that lead nowhere.

The result is the same as cfsctl's, with three differences on the side of caution: removed refs are made durable before
the first object goes, since after a power cut a ref must not come back without its objects; an image or stream that a
ref leads to and that cannot be read ends the collection before anything is removed; and what a crash left under a
temporary name is removed after a day. Runs under the exclusive lock, a dry run under the shared one. Spec 3.8.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ..errors import BootcdError, RepositoryDamaged
from ..linux import files
from .repository import Repository

LEFTOVER_AGE = 24 * 3600.0
"""Seconds after which a temporary file is taken for forgotten."""


@dataclass(slots=True)
class GcResult:
    """What was removed, or would be in a dry run. Names of images are their digests in hex."""

    objects_removed: int = 0
    object_bytes: int = 0
    images_pruned: int = 0
    streams_pruned: int = 0
    image_names: list[str] = field(default_factory=list)
    stream_names: list[str] = field(default_factory=list)


def collect(
    repo: Repository, *, dry_run: bool = False, extra_images: Iterable[str] = (), extra_streams: Iterable[str] = (),
    without_images: Collection[str] = (), without_streams: Collection[str] = (),
) -> GcResult:
    """Remove everything that no ref and none of the `extra` names keeps.

    Refs in `without_images` and `without_streams` keep nothing: a dry run can tell what happens once they are gone.
    Raises Busy when somebody else has the repository open, RepositoryDamaged when a root cannot be read.
    """
    def live() -> set[bytes]:
        return live_objects(repo, extra_images, extra_streams, without_images, without_streams)

    if dry_run:
        return _collect(repo, live(), dry_run=True)
    repo.require_writable()
    with repo.exclusive():
        return _collect(repo, live(), dry_run=False)


def live_objects(
    repo: Repository, extra_images: Iterable[str] = (), extra_streams: Iterable[str] = (),
    without_images: Collection[str] = (), without_streams: Collection[str] = (),
) -> set[bytes]:
    """The objects that must stay. Raises RepositoryDamaged when a root cannot be read."""
    live: set[bytes] = set()
    image_roots = [name for ref, name in repo.images.links.refs().items() if ref not in without_images]
    for name in dict.fromkeys([*image_roots, *extra_images]):
        digest = repo.images.links.target(name)
        # A ref without its image keeps nothing, and goes with the other links that lead nowhere.
        if digest is None or not repo.objects.has(digest) or digest in live:
            continue
        live.add(digest)
        try:
            live |= repo.images.read(digest).objects()
        except BootcdError as error:
            raise RepositoryDamaged(f"nothing is collected: image {name} cannot be read: {error}") from error
    ids = {digest: name for name in repo.streams.names() if (digest := repo.streams.links.target(name)) is not None}
    stream_roots = [name for ref, name in repo.streams.refs().items() if ref not in without_streams]
    pending = [
        digest for name in dict.fromkeys([*stream_roots, *extra_streams])
        if (digest := repo.streams.links.target(name)) is not None
    ]
    seen: set[bytes] = set()
    while pending:
        digest = pending.pop()
        if digest in seen:
            continue
        seen.add(digest)
        if not repo.objects.has(digest):
            continue
        try:
            stream = repo.streams.open_id(digest)
        except BootcdError as error:
            what = ids.get(digest, digest.hex())
            raise RepositoryDamaged(f"nothing is collected: stream {what} cannot be read: {error}") from error
        live.add(digest)
        live.update(stream.object_refs)
        live.update(stream.named_refs.values())
        pending.extend(ref for ref in stream.named_refs.values() if ref in ids)
    return live


def _collect(repo: Repository, live: set[bytes], *, dry_run: bool) -> GcResult:
    result = GcResult()
    dead = [digest for digest in repo.objects.all() if digest not in live]
    result.object_bytes = sum(map(repo.objects.size, dead))
    result.objects_removed = len(dead)
    if not dry_run:
        files.step("gc.before_sync")
        repo.sync()
        files.step("gc.after_sync")
    # Names go first: a name is a promise that its object is there, and the collection may end at any point.
    gone = set(dead)
    result.image_names, broken_images = repo.images.links.broken(gone=gone)
    result.stream_names, broken_streams = repo.streams.links.broken(gone=gone)
    result.images_pruned = len(result.image_names) + len(broken_images)
    result.streams_pruned = len(result.stream_names) + len(broken_streams)
    leftovers, leftover_bytes = repo.objects.remove_leftovers(LEFTOVER_AGE, dry_run=dry_run)
    result.objects_removed += leftovers
    result.object_bytes += leftover_bytes
    if dry_run:
        return result
    for links, names, refs in ((repo.images.links, result.image_names, broken_images),
                               (repo.streams.links, result.stream_names, broken_streams)):
        for ref in refs:
            links.unref(ref)
        for name in reversed(names):  # manifests before the layers that they need
            links.unlink(name)
        links.remove_leftovers(LEFTOVER_AGE)
    files.step("gc.after_links")
    if result.image_names or result.stream_names:
        repo.sync()
    for digest in dead:
        repo.objects.remove(digest)
    files.step("gc.after_objects")
    return result
