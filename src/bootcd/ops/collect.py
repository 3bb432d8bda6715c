# SPDX-License-Identifier: Apache-2.0
"""Collection: deployments beyond the keep policy, what only they needed on ESP and state, then objects."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..deploy import plan
from ..deploy.facts import Facts, kept
from ..errors import BootcdError, Busy
from ..layout import IMAGE_REF_PREFIX, TAG_PREFIX
from ..linux import files
from ..store import gc
from ..store.ociimages import MANIFEST_PREFIX, TAGS, encode_tag
from . import describe
from .machine import Machine
from .results import CollectItem, CollectResult
from .session import Session, change, look


def cleanup(machine: Machine, *, dry_run: bool) -> CollectResult:
    """Collect everything that may go, or only tell what would."""
    if dry_run:
        with look(machine) as session:
            return collect(session, dry_run=True)
    with change(machine, freeing=True) as session:
        return collect(session, dry_run=False)


def _clean(session: Session) -> None:
    """Remove temporary files of writes that were cut off. The lock is ours, so nobody is writing now."""
    sysroot = session.machine.sysroot
    states = [sysroot.deployment(name) for name in session.records.load()[0]]
    for directory in (sysroot.own_state, sysroot.records, sysroot.journal.parent, *states):
        files.remove_leftovers(directory)


def collect_if_free(
    session: Session, streams: Iterable[str] = (), blobs: Collection[str] = (),
) -> CollectResult | None:
    """Collect as far as that is possible now; the next operation tries again."""
    try:
        return collect(session, dry_run=False, streams=streams, blobs=blobs)
    except Busy:
        session.progress.note("Somebody else has the repository open; 'bootcctl cleanup' will free what is not needed.")
    except KeyboardInterrupt:
        session.progress.note("Interrupted while collecting; 'bootcctl cleanup' frees what is not needed.")
    except BootcdError as error:
        # The deployment is in place; that something else could not be tidied up must not look like its failure.
        session.progress.note(f"Not everything that is not needed could be removed: {error}")
    return None


def collect(
    session: Session, *, dry_run: bool, facts: Facts | None = None, streams: Iterable[str] = (),
    blobs: Collection[str] = (),
) -> CollectResult:
    """Collect on the machine as it is, or tell what could be on one with these `facts`. The `streams` stay as well, and
    what has come of the `blobs` with these digests.

    Raises Busy when objects cannot be collected because another process has the repository open.
    """
    session.progress.begin("Looking for what nothing needs" if dry_run else "Collecting what nothing needs")
    facts = facts or session.facts()
    keep_previous = session.config.keep_previous
    what, removed = plan.plan_collect(facts, keep_previous=keep_previous)
    staying = kept(facts, keep_previous)
    downloads = {digest: size for digest, size in session.partials.sizes().items() if digest not in blobs}
    if not dry_run:
        session.boot.clean()
        _clean(session)
        session.run(what)
        for digest in downloads:
            session.partials.remove(digest)
    # In a dry run the names are still there; the collection is told to look as if they were not.
    # The records decide what stays, whatever became of the names that usually keep it.
    result = gc.collect(
        session.repository, dry_run=dry_run,
        extra_images=list(staying),
        extra_streams=[*streams, *(f"{MANIFEST_PREFIX}{facts.records[name].manifest_digest}" for name in staying)],
        without_images={IMAGE_REF_PREFIX + item.name for item in removed if item.kind == "image name"},
        without_streams={TAGS + encode_tag(TAG_PREFIX + item.name) for item in removed if item.kind == "tag"},
    )
    return CollectResult(
        dry_run=dry_run, items=(*describe.removals(removed), *(
            CollectItem("download", digest, "nobody goes on with it now", size) for digest, size in downloads.items())),
        kept=tuple(CollectItem("deployment", name, why, 0) for name, why in staying.items()),
        objects=result.objects_removed, object_bytes=result.object_bytes, images=result.images_pruned,
        streams=result.streams_pruned,
    )
