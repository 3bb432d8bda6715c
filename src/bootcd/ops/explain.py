# SPDX-License-Identifier: Apache-2.0
"""Why: what boots, what is kept, what goes, where the room is, what is verified.

Each answer comes from the functions that decide, never from rules of its own. Nothing is changed, and no lock is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from ..boot import entries
from ..boot.kargs import find_kargs
from ..boot.loader import read_variables
from ..deploy.facts import Facts, kept, kernel_names, spare
from ..deploy.records import Record
from ..errors import BootcdError, Refused, UsageError
from ..formats import bls
from ..formats.bls import BootEntry, EntryName
from ..linux.room import Guard, Room
from ..model import size_text
from ..store.ociimages import MANIFEST_PREFIX
from . import collect
from .describe import in_order
from .machine import Machine
from .results import Explanation, Reason
from .session import Session, look
from .status import status


def explain(machine: Machine, topic: str) -> Explanation:
    """Raises UsageError for a topic that there is not."""
    if topic not in TOPICS:
        raise UsageError(f"'{topic}' cannot be explained", advice=f"Ask for one of {', '.join(TOPICS)}.")
    if topic == "verity":
        return _verity(machine)
    with look(machine) as session:
        return TOPICS[topic](session, session.facts())


def _name(record: Record) -> str:
    return f"{record.short_id} (version {record.version})" if record.version else record.short_id


# --- what boots -------------------------------------------------------------------------------------------------------


def _default(session: Session, facts: Facts) -> Explanation:
    """All entries as the boot loader sorts them, ours and those of others, then what overrides the order."""
    listing = entries.list_entries(session.esp)
    shown: list[tuple[EntryName, BootEntry, entries.OurEntry | None]] = [
        (entry.name, entry.content, entry) for entry in listing.ours if entry.shown]
    for foreign in listing.foreign:
        with suppress(BootcdError):
            if foreign.shown:
                shown.append((EntryName.parse(foreign.file_name), foreign.content, None))
    order = bls.sort_entries(shown, lambda one: (one[0], one[1]))
    found = []
    for place, (name, content, ours) in enumerate(order):
        verdict = "boots next" if place == 0 else "waits"
        if name.tries_left == 0:
            why = f"its boot attempts are used up ({name.tries_done or 0} failed), so it is sorted behind all others"
        elif ours is None:
            why = f"an entry of another system: its sort-key '{content.get('sort-key') or ''}' decides"
        elif ours.problem is not None:
            why = f"it cannot boot: {ours.problem}"
        else:
            why = f"generation {ours.generation}" + (
                f", with {name.tries_left} boot attempts left" if name.tries_left is not None else "")
            tried = (trial.generation for record in facts.records.values() for trial in record.trials)
            why += ", which tries other kernel arguments" if ours.generation in tried else ""
            why += "" if any(record.short_id == ours.id_prefix for record in facts.records.values()) else (
                "; it leads to no deployment that is known here")
        found.append(Reason("entry", str(name), verdict, why))
    found += [Reason("entry", entry.file_name, "passed over", entry.problem or "")
              for entry in listing.ours if not entry.shown]
    if facts.staged is not None:
        found.append(Reason("deployment", facts.staged.id, "staged", "it is only downloaded, until 'bootcctl upgrade'"
                            if facts.staged.locked else "the next shutdown makes it the default"))
    if facts.resetting is not None and facts.next is not None:
        found.append(Reason("deployment", facts.next.id, "reset", "the next shutdown makes its "
                            f"{'/etc' if facts.resetting.reset == 'etc' else '/etc and /var'} anew"))
    warnings = entries.config_warnings(entries.read_config(session.boot.loader)) + read_variables().warnings()
    found += [Reason("setting", "", "overrides", warning) for warning in warnings]
    if not order:
        return Explanation("default", "No entry on the boot partition can boot.", tuple(found))
    if order[0][2] is None:
        summary = f"The boot loader prefers {order[0][0]}, which belongs to another system."
    else:
        summary = f"Deployment {_name(facts.default)} boots next." if facts.default is not None else (
            f"{order[0][0]} boots next, which leads to no deployment that is known here.")
    if warnings:
        summary += " Something overrides the order of the entries."
    return Explanation("default", summary, tuple(found))


# --- what is kept, what goes ------------------------------------------------------------------------------------------


def _why_kept(session: Session, record: Record, reason: str) -> str:
    labels = ", ".join(pin.label for pin in record.pins if pin.label)
    return {
        "booted": "it is running",
        "default": "it boots next",
        "staged": "it waits to become the default",
        "pinned": f"it is pinned{f' as {labels}' if labels else ''}",
        "last good": "it is the last one that has come up well",
        "previous": f"it is one of the {session.config.keep_previous} that [keep] previous keeps for rollback",
    }[reason]


def _kept(session: Session, facts: Facts) -> Explanation:
    reasons = kept(facts, session.config.keep_previous)
    order = in_order(facts)
    found = tuple(
        Reason("deployment", record.id, "stays", _why_kept(session, record, reasons[record.id]))
        if record.id in reasons else
        Reason("deployment", record.id, "may go", "it is neither booted, default, staged, pinned nor the last good one "
               f"and older than the {session.config.keep_previous} that [keep] previous keeps")
        for record in order
    )
    gone = len(order) - len(reasons)
    return Explanation("kept", f"{len(reasons)} of {len(order)} deployments are kept" + (
        f"; 'bootcctl cleanup' removes {gone}." if gone else "."), found)


def _collect(session: Session, facts: Facts) -> Explanation:
    try:
        result = collect.collect(session, dry_run=True, facts=facts)
    except Refused as error:
        return Explanation("collect", f"Nothing is collected: {error}.", ())
    going = tuple(Reason(item.kind, item.name, "goes", item.why, item.size) for item in result.items)
    staying = tuple(Reason("deployment", item.name, "stays", _why_kept(session, facts.records[item.name], item.why))
                    for item in result.kept)
    objects = (Reason("objects", str(result.objects), "goes", "no image, layer or deployment that stays has them",
                      result.object_bytes),) if result.objects else ()
    summary = "There is nothing to collect." if not going and not objects else "'bootcctl cleanup' removes what goes."
    return Explanation("collect", summary, (*going, *objects, *staying))


# --- where the room is ------------------------------------------------------------------------------------------------


def _space(session: Session, facts: Facts) -> Explanation:
    """Both file systems; then who holds what: of a deployment only the bytes that nothing else needs."""
    path = str(session.repository.path)
    room, guard = Room.of(path), Guard(path)
    inodes = "" if room.inodes is None else f"; {room.inodes} of {room.inodes_total} inodes are free"
    found = [
        Reason("file system", path, "free", f"of {size_text(room.total)}; a download leaves {size_text(guard.reserve)} "
               f"alone{inodes}", room.free),
        *(Reason("file system", esp.path, "free", f"of {size_text(esp.total())}; kernels may take "
                 f"{size_text(esp.free_for_kernels())}", esp.free()) for esp in session.boot.places),
    ]
    objects = {record.id: _objects(session, record) for record in facts.records.values()}
    held = Counter(digest for digests in objects.values() for digest in digests)
    victims = spare(facts)
    for record in in_order(facts):
        alone = sum(session.repository.objects.size(digest) for digest in objects[record.id] if held[digest] == 1)
        verdict = "may go" if record in victims else "stays"
        found.append(Reason("deployment", record.id, verdict, "what only it has in the repository", alone))
    users = {name: [record for record in facts.records.values() if name in kernel_names(record)]
             for name in facts.kernels}
    for name, size in facts.kernels.items():
        if users[name]:
            why = "on the ESP, for " + ", ".join(map(_name, users[name]))
        elif name in facts.foreign:
            why = "on the ESP, for an entry of another system"
        else:
            why = "on the ESP, for nothing"
        why += " (left by a copy that was cut off)" if name in facts.partial else ""
        found.append(Reason("kernel", name, "stays" if users[name] or name in facts.foreign else "may go", why, size))
    found += [Reason("download", digest, "may go", "what has come of a layer; the next download of it goes on there",
                     size) for digest, size in session.partials.sizes().items()]
    with suppress(BootcdError):
        freed = collect.collect(session, dry_run=True, facts=facts)
        if freed.objects:
            found.append(Reason("objects", str(freed.objects), "may go", "'bootcctl cleanup' frees them, with all "
                                "else that is not kept", freed.object_bytes))
    return Explanation("space", f"{size_text(room.free)} are free for images, {size_text(facts.esp_free)} for "
                       "kernels.", tuple(found))


def _objects(session: Session, record: Record) -> set[bytes]:
    """The objects of a deployment's image and layers, as far as they can be read."""
    found: set[bytes] = set()
    repository = session.repository
    with suppress(BootcdError):
        digest = bytes.fromhex(record.id)
        found |= {digest, *repository.images.read(digest).objects()}
    with suppress(BootcdError):
        pending = [repository.streams.links.target(f"{MANIFEST_PREFIX}{record.manifest_digest}")]
        while pending:
            stream = pending.pop()
            if stream is None or stream in found or not repository.objects.has(stream):
                continue
            found.add(stream)
            opened = repository.streams.open_id(stream)
            found.update(opened.object_refs)
            pending.extend(opened.named_refs.values())
    return {digest for digest in found if repository.objects.has(digest)}


# --- what is verified -------------------------------------------------------------------------------------------------


def _verity(machine: Machine) -> Explanation:
    told = status(machine)
    chain = told.chain
    if chain is None:
        return Explanation("verity", "There is nothing to verify: no deployment can be read.", ())
    current = next((info for info in told.deployments if "booted" in info.roles),
                   next((info for info in told.deployments if "default" in info.roles), None))

    def link(name: str, holds: bool | None, yes: str, no: str) -> Reason:
        verdict = "unknown" if holds is None else "holds" if holds else "is off"
        return Reason("link", name, verdict, "it can only be told on the running machine" if holds is None
                      else yes if holds else no)

    links = [
        link("Secure Boot", chain.secure_boot, "the firmware starts only what is signed by a key that it has",
             "the firmware starts anything, so whoever can write to the ESP decides what boots"),
        link("seal", chain.sealed, "the digest of the root file system is inside the UKI, under its signature",
             "the digest is in a boot entry, which anybody with access to the ESP can change"),
        link("repository", chain.repository_verity, "every object has fs-verity: the kernel checks what it reads",
             "this file system has no fs-verity: objects were checked when they were written, and by fsck"),
        link("image", chain.image_verity, "the kernel measures the root file system's image and finds that digest",
             "the image of this deployment is not guarded by fs-verity"),
    ]
    if current is not None and not chain.sealed:
        links.append(link("demand", not any(karg.insecure for karg in find_kargs(current.options)),
                          "the initrd refuses a root file system without fs-verity",
                          "the boot entry says 'composefs=?', so the initrd does without fs-verity"))
    broken = [one.name for one in links if one.verdict == "is off"]
    summary = "Every link that can be told holds." if not broken else f"Not every link holds: {', '.join(broken)}."
    return Explanation("verity", summary, tuple(links))


TOPICS: dict[str, Callable[[Session, Facts], Explanation]] = {
    "default": _default, "kept": _kept, "collect": _collect, "space": _space,
    "verity": lambda session, facts: _verity(session.machine),
}
