# SPDX-License-Identifier: Apache-2.0
"""Install, check, upgrade, switch, finalize: everything that brings a new image.

On a running system a new deployment is staged, and finalized at shutdown, when nobody edits /etc any more. In a
directory that nothing runs from there is no such moment, so it is finalized at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ..boot.kargs import check_machine_kargs
from ..config import Config
from ..deploy import plan
from ..deploy.facts import Facts
from ..deploy.records import OwnKargs, Record
from ..deploy.rejected import Rejected
from ..errors import ConnectionMetered, DeploymentNotFound, NothingStaged, NotProven, Refused, TargetInUse, UsageError
from ..linux import files
from ..model import ImageReference, size_text
from ..registry.sources import FetchedManifest, Source
from ..store.repository import Repository
from . import collect, compose, describe, etc, reset, rollout, room
from .admit import admit
from .downgrade import downgrade
from .last import now
from .machine import Machine
from .pull import Offer, check_size, examine, pull, source_of
from .results import ChangeResult, CheckResult, PullStats
from .session import Session, change, look


def install(machine: Machine, image: str, kargs: Sequence[str], disk_kargs: Sequence[str] = (),
            take_from: str = "") -> ChangeResult:
    """The first deployment. `disk_kargs` find the root file system, where the image lets them; `take_from` is a place
    that has the image. Raises TargetInUse when there is a deployment already.

    An installation that was cut off can be run again.
    """
    reference = ImageReference.parse(image)
    check_machine_kargs([*disk_kargs, *kargs])
    for path in filter(None, (machine.sysroot.path, machine.esp_path)):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is no directory", advice="Mount the file system that it may hold, and name the "
                             "directory; 'bootcctl install to-disk' partitions a disk.")
        with files.translate(f"cannot create {path}"):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
    with machine.lock():
        esp = machine.esp()
        esp.check_writable()
        if machine.sysroot.path.is_mount() and os.stat(esp.path).st_dev == os.stat(machine.sysroot.path).st_dev:
            machine.progress.note(f"{esp.path} is a directory of the root file system: firmware reads a boot partition "
                                  "of its own. Is it mounted?")
        Repository.init(machine.sysroot.repository).close()
    with change(machine) as session:
        facts = session.facts()
        if session.completed is not None and facts.default is not None and facts.default.image == str(reference):
            return ChangeResult("deployed", f"Deployment {facts.default.short_id} boots next; its installation had "
                                "been cut off and is complete now.", describe.deployment(facts, facts.default))
        deployed = [record for record in facts.records.values() if record.generation is not None or facts.entries]
        if deployed:
            raise TargetInUse(f"{machine.sysroot.path} has a deployment already",
                              advice="'bootcctl switch IMAGE' adds another one.")
        if not session.repository.secure:
            session.progress.note("This file system has no fs-verity: contents are checked when they are written, "
                                  "but not guarded later.")
        session.boot.prepare()
        with source_of(reference, machine.config, take_from) as source:
            offer = examine(session.repository, source, admit(machine, source))
            return _deploy(session, facts, reference, source, offer, OwnKargs(machine=tuple(kargs)),
                           disk_kargs=tuple(disk_kargs), download_only=False, first=True)


def check(machine: Machine) -> CheckResult:
    """Ask the source of the tracked image; nothing is written."""
    with look(machine) as session:
        facts = session.facts()
        tracked = _tracked(facts)
        reference = ImageReference.parse(tracked.image)
        if _is_spared(reference, machine.config, "never"):
            raise ConnectionMetered(f"the connection is metered, and {reference} is not asked over it")
        with source_of(reference, machine.config) as source:
            admitted = admit(machine, source)
            fetched = admitted.fetched
            current = {record.manifest_digest for record in (facts.staged, facts.current) if record is not None}
            if fetched.digest in current:
                staged = facts.staged is not None and facts.staged.manifest_digest == fetched.digest
                return CheckResult(tracked.image, False, fetched.digest, staged, current_version=tracked.version,
                                   created=tracked.created, config_digest=fetched.manifest.config.digest,
                                   rollout=rollout.sayings(fetched.manifest.annotations))
            offer = examine(session.repository, source, admitted)
        return CheckResult(
            tracked.image, True, fetched.digest, version=offer.version, created=offer.created,
            current_version=tracked.version, download_size=offer.download_size, reused_size=offer.reused_size,
            layers=len(offer.layers), layers_missing=len(offer.missing),
            rejected=describe.rejection(machine.sysroot, facts, fetched.digest)
            or downgrade(facts.current, offer.version, offer.created),
            config_digest=fetched.manifest.config.digest, rollout=offer.rollout,
        )


def upgrade(machine: Machine, *, download_only: bool, allow_rejected: bool, allow_untried: bool = False,
            allow_downgrade: bool = False, take_from: str = "", from_downloaded: bool = False,
            only: str = "") -> ChangeResult:
    """Follow the tracked reference to what it names now, or to the image of it in the place `take_from`; with
    `from_downloaded` take what is downloaded already, and ask nobody; with `only`, if that has this manifest digest.
    Raises NotProven before the boot of the running deployment is complete, unless it is only downloaded or
    `allow_untried`; NothingStaged when nothing is downloaded."""
    if from_downloaded and (download_only or take_from):
        raise UsageError("what is downloaded already comes from nowhere else",
                         advice=f"Leave one of --from-downloaded and --{'from' if take_from else 'download-only'} out.")
    if download_only and (allow_rejected or allow_downgrade):
        option = "--allow-rejected" if allow_rejected else "--allow-downgrade"
        raise UsageError("an image that is only downloaded is not taken yet",
                         advice=f"Leave one of --download-only and {option} out.")
    with change(machine) as session:
        facts = session.facts()
        tracked = _tracked(facts)
        if not download_only:
            _check_proven(session, facts, allow_untried)
        if from_downloaded:
            return _take_downloaded(session, facts, allow_rejected, only)
        reference = ImageReference.parse(tracked.image)
        if download_only and facts.staged is not None and not facts.staged.locked:
            # Whoever may only download shall not undo what was decided about the next boot.
            return ChangeResult("unchanged", f"Deployment {facts.staged.short_id} is staged and boots next; only "
                                "'bootcctl upgrade' replaces it.", describe.deployment(facts, facts.staged))
        if not take_from and _is_spared(reference, machine.config, "never"):
            return ChangeResult("unchanged", f"The connection is metered, and {reference} is not asked over it.")
        place = take_from or str(reference)
        with source_of(reference, machine.config, take_from) as source:
            admitted = admit(machine, source)
            fetched = admitted.fetched
            if only not in ("", fetched.digest):
                return ChangeResult("unchanged", f"{place} names another image by now than {only}; nothing is done.")
            settled = _settled(session, facts, fetched, download_only, take_from)
            if settled is not None:
                return settled
            why = describe.rejection(machine.sysroot, facts, fetched.digest)
            if why and not allow_rejected:
                return ChangeResult("rejected", f"{place} still names an image that is not taken again: {why}. "
                                    "--allow-rejected takes it.")
            offer = examine(session.repository, source, admitted)
            why = downgrade(facts.current, offer.version, offer.created)
            if why and not allow_downgrade:
                return ChangeResult("rejected", f"{place} names an older image: {why}. --allow-downgrade takes it.")
            if offer.missing and not take_from and _is_spared(reference, machine.config, "check"):
                what = f"version {offer.version}" if offer.version else "a newer image"
                return ChangeResult("unchanged", f"{reference} names {what}. The connection is metered, so the "
                                    f"{size_text(offer.download_size)} that are missing are not downloaded now; "
                                    "'bootcctl upgrade' downloads them.")
            result = _deploy(session, facts, reference, source, offer, _own_kargs(facts),
                             download_only=download_only, allow_bad=allow_rejected)
            if result.outcome != "rejected" and not download_only:
                Rejected(machine.sysroot.rejected).discard(fetched.digest)
            return result


def switch(machine: Machine, image: str, *, download_only: bool, allow_untried: bool = False,
           take_from: str = "") -> ChangeResult:
    """Follow another reference, from now on or, with `take_from`, from the image on that a place has of it. An image
    that was asked for by name is taken whatever was rejected before. Raises NotProven as `upgrade` does."""
    reference = ImageReference.parse(image)
    with change(machine) as session:
        facts = session.facts()
        _tracked(facts)
        if not download_only:
            _check_proven(session, facts, allow_untried)
        with source_of(reference, machine.config, take_from) as source:
            admitted = admit(machine, source)
            fetched = admitted.fetched
            current = facts.current
            same = current is not None and fetched.digest == current.manifest_digest
            if current is not None and same and _is_whole(session, facts, current):
                if facts.staged is not None:
                    session.run(plan.plan_unstage(facts))
                current = compose.verified(replace(current, image=str(reference)), admitted)
                session.records.save(current)
                return ChangeResult("unchanged", f"The machine runs this image already; it follows {reference} now.",
                                    describe.deployment(session.facts(), current))
            offer = examine(session.repository, source, admitted)
            result = _deploy(session, facts, reference, source, offer, _own_kargs(facts),
                             download_only=download_only, allow_bad=True)
            Rejected(machine.sysroot.rejected).discard(fetched.digest)
            return result


def finalize(machine: Machine) -> ChangeResult:
    """Make the staged deployment the default, and do the reset that was asked for. A deployment that was only
    downloaded stays as it is."""
    with change(machine) as session:
        facts = session.facts()
        staged = facts.staged
        if staged is not None and staged.locked and facts.resetting is None:
            return ChangeResult("unchanged", f"Deployment {staged.short_id} is only downloaded; 'bootcctl upgrade' "
                                "makes it boot.", describe.deployment(facts, staged))
        return _finalize(session, facts, None)


def _tracked(facts: Facts) -> Record:
    """The deployment whose reference is followed. Raises Refused, DeploymentNotFound."""
    if facts.booted is not None and facts.booted not in facts.records:
        raise Refused(f"the running deployment {facts.booted[:12]} has no record: whose /etc shall be taken along?",
                      advice="Boot a deployment that 'bootcctl list' shows, and upgrade from there; 'bootcctl adopt' "
                      "takes over one of bootc.")
    record = facts.staged or facts.current
    if record is None:
        raise DeploymentNotFound("there is no deployment to upgrade from",
                                 advice="'bootcctl install to-filesystem IMAGE' makes the first one.")
    return record


def _is_spared(reference: ImageReference, config: Config, metered: str) -> bool:
    """Whether this run is over a metered connection, and shall do no more than `metered` there."""
    return reference.transport == "docker" and config.pull_metered == metered


def _own_kargs(facts: Facts) -> OwnKargs:
    """The kernel arguments of the machine, which a new deployment gets: those of what would boot next."""
    return facts.own_kargs(facts.next) if facts.next is not None else OwnKargs()


def _check_proven(session: Session, facts: Facts, allow_untried: bool) -> None:
    """What is staged now boots next: with two unproven deployments in a row the way back gets long. Where nothing
    counts boots (`health.boot_started`), nothing would ever make the deployment good, so nothing waits for it."""
    record = facts.records.get(facts.booted or "")
    if record is None or record.health != "untried" or not record.attempts:
        return
    if not (allow_untried or session.config.health_upgrade_untried):
        raise NotProven(f"the boot of the running deployment {record.short_id} is not complete yet, so nothing takes "
                        "its place")


def _settled(session: Session, facts: Facts, fetched: FetchedManifest, download_only: bool, take_from: str,
             ) -> ChangeResult | None:
    """The answer when nothing has to be downloaded."""
    staged, current = facts.staged, facts.current
    if staged is not None and staged.manifest_digest == fetched.digest and _is_whole(session, facts, staged):
        if download_only:
            return ChangeResult("unchanged", f"Deployment {staged.short_id} is staged already.",
                                describe.deployment(facts, staged))
        return _activate(session, facts, staged, None)
    if current is None or current.manifest_digest != fetched.digest or not _is_whole(session, facts, current):
        return None
    if staged is not None:
        session.run(plan.plan_unstage(facts))
        lost = describe.dropped_kargs(facts, staged)
        facts = session.facts()
        return ChangeResult("unstaged", f"The source names the running image again; the staged deployment "
                            f"{staged.short_id} was dropped.{lost}", describe.deployment(facts, current))
    if ImageReference.parse(current.image).digest is not None:
        return ChangeResult("unchanged", f"The machine is pinned to {current.image}; 'bootcctl switch' to a tag makes "
                            "it follow updates.", describe.deployment(facts, current))
    what = f"version {current.version}" if current.version else current.manifest_digest
    return ChangeResult("unchanged", f"No newer image: {take_from or current.image} still names {what}.",
                        describe.deployment(facts, current))


def _take_downloaded(session: Session, facts: Facts, allow_rejected: bool, only: str) -> ChangeResult:
    """Let the staged deployment boot next, which was verified when it was downloaded. Raises NothingStaged, and Refused
    when a part of it is gone."""
    staged = facts.staged
    if staged is None:
        raise NothingStaged("nothing is downloaded that could be taken", advice="'bootcctl upgrade' downloads it.")
    if only not in ("", staged.manifest_digest):
        return ChangeResult("unchanged", f"Another image is downloaded by now than {only}; nothing is done.",
                            describe.deployment(facts, staged))
    why = describe.rejection(session.machine.sysroot, facts, staged.manifest_digest)
    if why and not allow_rejected:
        return ChangeResult("rejected", f"Deployment {staged.short_id}, which is downloaded, is not taken: {why}. "
                            "--allow-rejected takes it.", describe.deployment(facts, staged))
    if not _is_whole(session, facts, staged):
        raise Refused(f"deployment {staged.short_id}, which was downloaded, is not complete any more",
                      advice="'bootcctl upgrade' fetches what is missing.")
    return _activate(session, facts, staged, None)


def _is_whole(session: Session, facts: Facts, record: Record) -> bool:
    """Whether a deployment has all that it boots from; if not, its image is worth to be taken again."""
    here = facts.has_kernel(record) and record.id in facts.images
    return here and not session.images.missing(record.manifest_digest)


def _deploy(
    session: Session, facts: Facts, reference: ImageReference, source: Source, offer: Offer,
    own: OwnKargs, *, disk_kargs: tuple[str, ...] = (), download_only: bool, first: bool = False,
    allow_bad: bool = False,
) -> ChangeResult:
    """Pull, compose, stage, and go on as far as the situation allows. Raises ConfigError, before anything is pulled,
    when what this machine has in kargs.d makes no sense."""
    if facts.current is not None:
        own = replace(own, local=describe.local_kargs(session.machine.sysroot, facts, facts.current))
    check_size(source, offer, session.config, session.partials)
    way = room.prepare(session, offer)
    stats = pull(session.repository, source, offer, config=session.config, progress=session.progress,
                 partials=session.partials, make_room=way.make, tidy=way.tidy)
    composed = compose.compose(session, reference, offer, own=own, disk_kargs=disk_kargs, first=first)
    facts = session.facts()
    known = facts.records.get(composed.record.id)
    record = replace(composed.record, pins=known.pins if known is not None else (), locked=download_only)
    current = facts.current
    if known is not None and known.generation is not None:
        why = "" if allow_bad else describe.rejection(session.machine.sysroot, facts, known.manifest_digest)
        if why:
            return ChangeResult("rejected", f"The image has the same contents as one that is not taken again: {why}. "
                                "--allow-rejected takes it.", describe.deployment(facts, known), stats)
        if download_only:
            return ChangeResult("unchanged", f"Deployment {known.short_id} has the same contents and is kept already; "
                                "'bootcctl upgrade' makes it boot.", describe.deployment(facts, known), stats)
        return _renew(session, facts, record, known, composed.kernel, stats)
    if record.id in facts.damaged:
        raise Refused(f"the image has the contents of deployment {record.short_id}, whose record cannot be read",
                      advice="'bootcctl status' names the file; restore it, or remove it and its boot entry.")
    session.progress.begin("Staging")
    session.boot.clean()
    merge_from = current.id if current is not None else None
    if merge_from is not None and record.id != facts.booted:
        etc.check_merge(session, record.id, merge_from)
    session.run(plan.plan_stage(facts, record, composed.kernel, merge_from=merge_from))
    facts = session.facts()
    if download_only:
        return ChangeResult("staged", f"Deployment {record.short_id} is downloaded; 'bootcctl upgrade' makes it boot.",
                            describe.deployment(facts, facts.records[record.id]), stats)
    return _activate(session, facts, facts.records[record.id], stats)


def _renew(
    session: Session, facts: Facts, record: Record, known: Record, kernel: plan.Kernel, stats: PullStats
) -> ChangeResult:
    """The image has the tree of a deployment that is there: that one is taken, with its /etc."""
    # What runs and what boots next keep their kernel arguments: they would lose the entry that has booted with them.
    own = known.own if known in (facts.current, facts.default) else replace(
        record.own, local=describe.local_kargs(session.machine.sysroot, facts, known))
    renewed = replace(record, generation=known.generation, staged=known.staged, etc_report=known.etc_report, own=own,
                      trials=known.trials, reset=known.reset)
    what = plan.plan_renew(facts, renewed, kernel, tries=session.config.boot_tries)
    session.boot.clean()
    session.run(what)
    after = session.facts()
    info = describe.deployment(after, after.records[known.id])
    if info.generation == known.generation:
        message = f"The image has the same contents as deployment {known.short_id}."
        return ChangeResult("unchanged", message, info, stats)
    return ChangeResult("deployed", f"Deployment {known.short_id}, which was kept, boots next.", info, stats)


def _activate(session: Session, facts: Facts, staged: Record, stats: PullStats | None) -> ChangeResult:
    if staged.locked:  # the arguments of the machine may have changed since
        staged = replace(staged, own=replace(_own_kargs(facts), local=staged.own.local), staged=now())
        session.records.save(staged)
    if facts.booted is not None:
        session.records.save(replace(staged, locked=False))
        return ChangeResult("staged", f"Deployment {staged.short_id} is staged; 'bootcctl finalize', which belongs "
                            "to shutdown, makes it the default.", describe.deployment(facts, staged), stats)
    return _finalize(session, facts, stats)


def _finalize(session: Session, facts: Facts, stats: PullStats | None) -> ChangeResult:
    if facts.resetting is not None:
        return reset.carry_out(session, facts, facts.resetting, stats)
    staged = facts.staged
    session.run(plan.plan_finalize(facts, tries=session.config.boot_tries, merge=facts.booted is not None))
    assert staged is not None
    collected = collect.collect_if_free(session)
    after = session.facts()
    version = f" (version {staged.version})" if staged.version else ""
    return ChangeResult("deployed", f"Deployment {staged.short_id}{version} boots next.",
                        describe.deployment(after, after.records[staged.id]), stats, collected)
