# SPDX-License-Identifier: Apache-2.0
"""From records and facts to what others may see of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..boot.kargs import is_composefs, split_cmdline
from ..deploy.facts import Facts
from ..deploy.localkargs import read_local_kargs
from ..deploy.plan import Removal
from ..deploy.records import EtcReport, OwnKargs, Record
from ..deploy.rejected import Rejected
from ..layout import Sysroot
from .results import CollectItem, DeploymentInfo, EtcChanges, EtcDecision, ImageInfo, Karg, PinInfo

if TYPE_CHECKING:  # `status` would load all that makes images only to name this type
    from ..store.ociimages import StoredImage

_VERSION_LABEL = "org.opencontainers.image.version"


def roles(facts: Facts, record: Record) -> tuple[str, ...]:
    """What a deployment is at the moment."""
    found = []
    for role, holder in (("booted", facts.records.get(facts.booted or "")), ("staged", facts.staged),
                         ("default", facts.default), ("rollback", facts.rollback)):
        if holder is not None and holder.id == record.id:
            found.append(role)
    if record.pins:
        found.append("pinned")
    return tuple(found)


def deployment(facts: Facts, record: Record) -> DeploymentInfo:
    """One deployment with its roles."""
    entries = facts.entries_of(record)
    bad = bool(entries) and all(entry.bad for entry in entries)  # one may be that of a trial
    own = facts.own_kargs(record)
    return DeploymentInfo(
        id=record.id, roles=roles(facts, record), image=record.image, version=record.version, title=record.title,
        manifest_digest=record.manifest_digest, created=record.created, staged=record.staged,
        generation=record.generation, pins=tuple(PinInfo(pin.label, pin.time) for pin in record.pins),
        health="bad" if bad else record.health,
        health_reason="its boot attempts are used up, or its files are missing"
        if bad and record.health != "bad" else record.health_reason,
        boot_type=record.boot_type, boot_digest=record.boot_digest,
        kernel_version=record.kernel_version, options=record.options_with(own), verification=record.verification,
        etc=etc_changes(record.etc_report),
        download_only=record.locked, reset=record.reset, policy=record.policy, signed_by=record.signed_by,
        kargs=kargs(record, own), kargs_on_trial=own != record.own,
        on_trial=record.health == "untried" and bool(record.attempts),
    )


def kargs(record: Record, own: OwnKargs) -> tuple[Karg, ...]:
    """The kernel arguments of a deployment when the machine has these, in order, each with its owner. In a UKI all are
    the image's but those that name it, and the machine has none."""
    if record.sealed_kargs:
        return tuple(Karg(argument, "bootcd" if is_composefs(argument) else "image")
                     for argument in split_cmdline(record.sealed_kargs))
    return (*_owned((record.composefs_karg,), "bootcd"), *_owned(record.image_kargs, "image"), *own_kargs(own))


def own_kargs(own: OwnKargs) -> tuple[Karg, ...]:
    """The kernel arguments of the machine."""
    return (*_owned(own.local, "drop-in"), *_owned(own.machine, "machine"), *_owned(own.command, "command"))


def _owned(arguments: tuple[str, ...], owner: str) -> tuple[Karg, ...]:
    return tuple(Karg(one, owner) for argument in arguments for one in split_cmdline(argument))


def local_kargs(sysroot: Sysroot, facts: Facts, record: Record) -> tuple[str, ...]:
    """What the drop-ins in /etc/bootcd/kargs.d ask for by now: those of the deployment, or those that finalizing will
    merge into its /etc. Raises ConfigError."""
    home = facts.current if record.generation is None and facts.current is not None else record
    return read_local_kargs(sysroot.deployment(home.id) / "etc")


def dropped_kargs(facts: Facts, staged: Record) -> str:
    """What to add when a staged deployment is dropped that had other kernel arguments than what boots without it."""
    default = facts.default
    own = facts.own_kargs(default) if default is not None else staged.own
    if (staged.own.machine, staged.own.command) == (own.machine, own.command):
        return ""
    return " What 'bootcctl kargs' has changed since it was staged goes with it."


def etc_changes(report: EtcReport) -> EtcChanges:
    """What a merge of /etc found."""
    decisions = tuple(EtcDecision(one.path, one.here, one.image, one.taken, one.rule) for one in report.decisions)
    return EtcChanges(report.kept_local, report.both_changed, report.added, report.deleted, decisions)


def deployments(facts: Facts) -> tuple[DeploymentInfo, ...]:
    """All of them: the staged one, then in boot order, then any that no entry leads to."""
    return tuple(deployment(facts, record) for record in in_order(facts))


def in_order(facts: Facts) -> list[Record]:
    """The records in that order."""
    order = [record for record in (facts.staged, *facts.deployed()) if record is not None]
    return order + [record for record in facts.records.values() if record not in order]


def rejection(sysroot: Sysroot, facts: Facts, manifest_digest: str) -> str:
    """Why an image is not taken by itself: the machine was rolled back from it, or it did not boot. Empty otherwise."""
    rejected = Rejected(sysroot.rejected).load().get(manifest_digest)
    if rejected is not None:
        return f"{rejected.reason}, {rejected.time}"
    bad = [record for record in facts.records.values()
           if record.manifest_digest == manifest_digest and facts.has_failed(record)]
    return f"version {bad[0].version or bad[0].short_id} did not boot" if bad else ""


def removals(items: list[Removal]) -> tuple[CollectItem, ...]:
    return tuple(CollectItem(item.kind, item.name, item.why, item.size) for item in items)


def image(stored: StoredImage, name: str = "") -> ImageInfo:
    """An image of the repository under one of its names."""
    config = stored.config
    labels = dict(config.labels) if config is not None else {}
    return ImageInfo(
        name=name or (stored.tags[0] if stored.tags else stored.manifest_digest),
        manifest_digest=stored.manifest_digest, config_digest=stored.config_digest,
        id=stored.images.image.hex() if stored.images.image else "",
        boot_id=stored.images.boot_image.hex() if stored.images.boot_image else "",
        version=stored.manifest.annotations.get(_VERSION_LABEL) or labels.get(_VERSION_LABEL, ""),
        created=(config.created or "") if config is not None else "",
        architecture=config.architecture if config is not None else "",
        layers=len(stored.manifest.layers), labels=labels,
    )

