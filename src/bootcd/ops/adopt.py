# SPDX-License-Identifier: Apache-2.0
"""Take over a machine that bootc has installed with its composefs backend.

Repository, state directories, origins and the shared /var are used as they are. Each deployment of bootc gets a
record, a kernel where bootcd has its own, and a boot entry; then bootc's entries, kernels and tags go. What is not
understood in any of them is told for all of them, and nothing is changed.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path

from ..boot import bootc, entries, kargs
from ..boot.bootc import BootcEntry
from ..boot.discover import find_boot_resources, os_release
from ..boot.esp import ENTRIES
from ..deploy.adopt import Adoptee, plan_adopt
from ..deploy.facts import Facts
from ..deploy.records import OwnKargs, Record, clipped
from ..errors import BootcdError, FormatError, NotAdoptable
from ..formats.origin import Origin
from ..linux import files
from ..model import ImageReference, is_digest
from ..store.ociimages import OciImages
from . import describe
from .compose import boot_of_tree, user
from .last import now
from .machine import Machine
from .results import ChangeResult, DeploymentInfo
from .session import Session, change, look

_MAX_ORIGIN = 1 << 20


def adopt(machine: Machine, *, dry_run: bool) -> ChangeResult:
    """Make every deployment of bootc ours, or only tell which. Raises NotAdoptable, EspFull."""
    with look(machine) if dry_run else change(machine) as session:
        facts = session.facts()
        if session.completed is not None and session.completed.verb == "adopt":
            return ChangeResult("adopted", "The adoption, which had been cut off, is complete now.",
                                _default(facts))
        listing = entries.list_entries(session.esp)
        found, problems = bootc.bootc_entries(listing)
        if facts.records and not found and not problems:
            return ChangeResult("unchanged", "No boot entry is of bootc; there is nothing to adopt.", _default(facts))
        _check_machine(session, facts, found, problems)
        adoptees = _examined(session, facts, found, problems)
        what = plan_adopt(facts, adoptees, _places(listing, found))
        many = f"{len(adoptees)} deployment{'' if len(adoptees) == 1 else 's'}"
        names = ", ".join(_name(one.record) for one in adoptees)
        for one in adoptees:
            machine.progress.note(f"{_name(one.record)}: {one.record.image}, kernel arguments: {one.record.options}")
        if dry_run:
            return ChangeResult("planned", f"This would adopt {many} of bootc: {names}.", _default(facts))
        session.run(what)
        return ChangeResult("adopted", f"Adopted {many} of bootc: {names}. From now on bootc has to keep off.",
                            _default(session.facts()))


def _default(facts: Facts) -> DeploymentInfo | None:
    return describe.deployment(facts, facts.default) if facts.default is not None else None


def _name(record: Record) -> str:
    return f"{record.short_id} ({record.version})" if record.version else record.short_id


def _check_machine(session: Session, facts: Facts, found: list[BootcEntry], problems: list[str]) -> None:
    """What is about the whole machine."""
    if not found and not problems:
        raise NotAdoptable(f"no boot entry in {session.esp.path}/{ENTRIES} is of bootc's composefs backend",
                           advice="Machines of bootc with systemd-boot can be adopted, those with GRUB or an "
                           "ostree repository cannot. --esp names another boot partition.")
    if bootc.has_staged(session.esp):
        problems.append(f"{bootc.STAGED} is there: bootc has something staged, and would replace all boot entries at "
                        "shutdown")
    if facts.booted is not None and facts.booted not in {entry.id for entry in found} | facts.records.keys():
        problems.append(f"the running deployment {facts.booted[:12]} has no boot entry")
    twice = [name for name, count in Counter(entry.id for entry in found).items() if count > 1]
    problems += [f"deployment {name[:12]} has more than one boot entry of bootc" for name in twice]


def _examined(session: Session, facts: Facts, found: list[BootcEntry], problems: list[str]) -> list[Adoptee]:
    """All of them, in order. Raises NotAdoptable with all that is wrong."""
    adoptees = []
    for entry in found:
        try:
            adoptees.append(_examine(session, facts, entry))
        except NotAdoptable as error:
            problems.append(f"deployment {entry.id[:12]}: {error}")
    if problems:
        for problem in problems[1:]:
            session.progress.note(f"Also in the way: {problem}.")
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise NotAdoptable(f"{problems[0]}{more}")
    return adoptees


def _examine(session: Session, facts: Facts, entry: BootcEntry) -> Adoptee:
    origin = _origin(session, entry)
    try:
        reference = ImageReference.parse(origin.image)
    except BootcdError as error:
        raise NotAdoptable(f"its image '{origin.image}' is from where bootcd cannot follow it: {error}",
                           advice="Let bootc switch to the image at a registry first.") from error
    images = session.images
    if entry.boot_type != origin.boot_type:
        raise NotAdoptable(f"its origin says {origin.boot_type}, its boot entry {entry.boot_type}")
    if not session.repository.images.has(bytes.fromhex(entry.id)):
        raise NotAdoptable("its image is not in the repository")
    _check_pulled(images, origin.manifest_digest)
    try:
        config_digest = images.manifest(origin.manifest_digest).config.digest
        tree, config = images.tree(config_digest), images.config(config_digest)
        resources, release = find_boot_resources(tree), os_release(tree, images.read_file)
        boot = boot_of_tree(session, resources, entry.id)
        image_kargs = kargs.image_kargs(tree, images.read_file, platform.machine())
    except BootcdError as error:
        raise NotAdoptable(str(error)) from error
    if (boot.kernel.name.endswith(".efi")) != (entry.boot_type == "uki") or (
            origin.boot_digest and origin.boot_digest != boot.digest):
        raise NotAdoptable("it boots from another kernel than its image has")
    addons = {name for name in boot.kernel.files if name.endswith(".addon.efi")}
    if entry.boot_type == "uki" and bootc.addons(session.esp, entry.place) != addons:
        raise NotAdoptable("the addons of its UKI are not all those of its image, which bootcd takes")
    local = list(entry.kargs)
    kept = tuple(argument for argument in image_kargs if argument in local)
    for argument in kept:
        local.remove(argument)
    known = facts.records.get(entry.id)
    runs = entry.id == facts.booted
    record = Record(
        id=entry.id, image=str(reference), manifest_digest=origin.manifest_digest, config_digest=config_digest,
        boot_type=entry.boot_type, boot_digest=boot.digest, composefs_karg=entry.karg or boot.karg,
        version=clipped(release.version or ""), title=clipped(release.title), created=clipped(config.created or ""),
        staged=now(), requested_by=user(), kernel_version=clipped(resources.kver or ""), sealed_kargs=boot.sealed_kargs,
        image_kargs=kept, own=OwnKargs(machine=tuple(local)), pins=known.pins if known is not None else (),
        health="good" if runs else "untried", health_reason="it ran when it was adopted" if runs else "",
    )
    return Adoptee(record, boot.kernel, f"{ENTRIES}/{entry.file_name}")


def _check_pulled(images: OciImages, manifest: str) -> None:
    if not is_digest(manifest):
        raise NotAdoptable("its origin names no manifest, so a version of bootc before 1.16 has made it",
                           advice="Let bootc upgrade once, and boot what it brings.")
    if missing := images.missing(manifest):
        raise NotAdoptable(f"{missing[0]} of its image is not in the repository")


def _origin(session: Session, entry: BootcEntry) -> Origin:
    """The origin, if the state directory is whole."""
    sysroot = session.machine.sysroot
    home = sysroot.deployment(entry.id)
    path = home / f"{entry.id}.origin"
    if not (home / "etc").is_dir():
        raise NotAdoptable(f"{home}/etc is missing")
    if Path(os.path.normpath(home / _link(home / "var"))) != Path(os.path.normpath(sysroot.var)):
        raise NotAdoptable(f"{home}/var does not lead to {sysroot.var}")
    with files.translate(f"cannot read {path}"):
        try:
            descriptor = files.open_regular(os.fspath(path))
        except FileNotFoundError:
            raise NotAdoptable(f"{path} is missing") from None
        with open(descriptor, "rb") as file:
            data = file.read(_MAX_ORIGIN)
    try:
        return Origin.parse(data, str(path))
    except FormatError as error:
        raise NotAdoptable(str(error)) from error


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        raise NotAdoptable(f"{path} is no link to the shared /var") from error


def _places(listing: entries.Listing, found: list[BootcEntry]) -> list[str]:
    """Where the kernels of `found` are, except those that somebody else's entries start."""
    adopted = {entry.file_name for entry in found}
    others = {path.lower() for entry in listing.foreign if entry.file_name not in adopted
              for path in entry.content.files}
    places = dict.fromkeys(entry.place for entry in found)
    return [place for place in places if not any(path.startswith(place.lower()) for path in others)]
