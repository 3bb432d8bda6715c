# SPDX-License-Identifier: Apache-2.0
"""What the deployments and the source are in the words of systemd-sysupdate: versions with flags. Pure.

A version stands for an image (its manifest), and is called by the image's version label. What a reboot would bring, or
an installation of what is downloaded, is *pending*: sysupdate itself would call it current, but then nothing tells a
desktop that a reboot is due.

                                     newest  available  installed  pending  obsolete  protected
    the source has it                  x         x
    the same, but it is not taken                x                             x
    downloaded                         x         ?          x         x
    staged, or made the default        x         ?          x         x                   x
    the same, but superseded                                x                             x
    runs                               ?                    x                             x
    kept for rollback, or pinned                            x                             ?
    kept, but it did not boot                               x                  x          ?

updatectl 262 aborts at combinations that it does not know; `tests/daemon/sysupdate/test_versions.py` has its table.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ops.results import CheckResult, DeploymentInfo, Status
from ...ops.times import moment

MAX_LABEL = 64
"""Characters of a version label that become part of a name."""

_FOREIGN = re.compile(r"[^A-Za-z0-9.~^_-]+")
"""What a name has not. '+' would be read as a boot counter, '@' as the end of a target's name."""
_VALID = re.compile(r"[A-Za-z0-9.~^_+-]{1,255}")


@dataclass(frozen=True, slots=True)
class Version:
    """One image. `deployment` is the one of it that matters most, None while it is only at the source; `why` says why
    an obsolete one is not taken; `size` is what would be downloaded in bytes, None where that is not known."""

    name: str
    image: str
    digest: str
    deployment: DeploymentInfo | None = None
    newest: bool = False
    available: bool = False
    pending: bool = False
    obsolete: bool = False
    protected: bool = False
    why: str = ""
    size: int | None = None

    @property
    def installed(self) -> bool:
        return self.deployment is not None

    def describe(self) -> str:
        """The JSON that Describe answers. updatectl needs all of these keys, and at least one flat object in
        contents."""
        content: dict[str, str | int] = {"type": "oci", "path": f"{self.image}@{self.digest}" if self.digest and
                                         "@" not in self.image else self.image}
        if self.size is not None:
            content["size"] = self.size
        return json.dumps({
            "version": self.name, "newest": self.newest, "available": self.available, "installed": self.installed,
            "pending": self.pending, "partial": False, "obsolete": self.obsolete, "protected": self.protected,
            "incomplete": False, "changelogUrls": [], "contents": [content],
        })


@dataclass(frozen=True, slots=True)
class Versions:
    """All that are known, newest first. `current` runs, or would boot where nothing runs; `waiting` is what the next
    boot brings, or an installation of what is downloaded; `candidate` what the source offers beyond that."""

    known: tuple[Version, ...] = ()
    current: Version | None = None
    waiting: Version | None = None
    candidate: Version | None = None

    @property
    def newest(self) -> Version | None:
        """What CheckNew tells: the newest that does not run yet."""
        return self.candidate or self.waiting

    def get(self, name: str) -> Version | None:
        """The version of that name."""
        return next((version for version in self.known if version.name == name), None)


@dataclass(slots=True)
class _Image:
    """What is known of one image."""

    key: str
    label: str = ""
    created: str = ""
    deployments: list[DeploymentInfo] = field(default_factory=list)
    offer: CheckResult | None = None


def is_valid(name: str) -> bool:
    """Whether sysupdate would take it for a version."""
    return _VALID.fullmatch(name) is not None


def versions(status: Status, *, offline: bool = False) -> Versions:
    """What a status means; without what is only at the source when `offline`."""
    images = _images(status)
    names = dict(zip(images, _names(images.values()), strict=True))
    booted, default, staged = (status.with_role(role) for role in ("booted", "default", "staged"))
    current = booted or default
    waiting = staged or (default if default is not None and default is not current else None)
    offered = None if offline or status.update is None else images.get(status.update.manifest_digest)
    offer = offered.offer if offered is not None else None
    candidate = offered if offer is not None and offer.available and not offer.rejected else None
    current_key, waiting_key = (_key(one) if one is not None else "" for one in (current, waiting))
    if waiting_key == current_key:
        waiting_key = ""
    if candidate is not None and candidate.key in (current_key, waiting_key):
        candidate = None
    newest = candidate.key if candidate is not None else waiting_key or current_key

    def made(image: _Image) -> Version:
        chosen = next((one for one in (staged, booted, default) if one in image.deployments), None)
        deployment = chosen or next(iter(image.deployments), None)
        settled = image.key in (newest, current_key, waiting_key)
        bad = next((one for one in image.deployments if one.health == "bad"), None)
        why = image.offer.rejected if image is offered and image.offer is not None else ""
        if not why and bad is not None:
            why = bad.health_reason or "it did not boot"
        first = next(iter(image.deployments), None)
        return Version(
            name=names[image.key], image=first.image if first is not None else image.offer.image if image.offer else "",
            digest=first.manifest_digest if first is not None else image.key, deployment=deployment,
            newest=image.key == newest, available=image is offered,
            pending=image.key == newest and image.key != current_key and deployment is not None,
            obsolete=bool(why) and not settled, why="" if settled else why,
            protected=any(_is_protected(one, waiting) for one in image.deployments),
            size=image.offer.download_size if image is offered and deployment is None and image.offer else None)

    found = {key: made(image) for key, image in images.items()
             if image.deployments or (image is offered and offer is not None and offer.available)}
    first = [candidate.key] if candidate is not None else []
    keys = dict.fromkeys([*first, waiting_key, current_key, *found])
    known = tuple(found[key] for key in keys if key in found)
    return Versions(known, found.get(current_key), found.get(waiting_key),
                    found[candidate.key] if candidate is not None else None)


def _images(status: Status) -> dict[str, _Image]:
    """By key: the deployments in boot order, then what the source has."""
    found: dict[str, _Image] = {}
    for info in status.deployments:
        image = found.setdefault(_key(info), _Image(_key(info), info.version, info.created))
        image.deployments.append(info)
    update = status.update
    if update is not None and (update.available or update.staged) and not _is_outdated(status, update):
        key = update.manifest_digest
        found.setdefault(key, _Image(key, update.version, update.created)).offer = update
    return found


def _key(info: DeploymentInfo) -> str:
    return info.manifest_digest or info.id


def _is_protected(info: DeploymentInfo, waiting: DeploymentInfo | None) -> bool:
    """Whether a cleanup keeps it in any case; a mere download counts as one that may go."""
    return "booted" in info.roles or bool(info.pins) or (info is waiting and not info.download_only)


def _is_outdated(status: Status, update: CheckResult) -> bool:
    """Whether the source was asked again after that answer: something else of it was staged since."""
    asked = moment(status.update_time)
    return asked is not None and any(
        info.image == update.image and info.manifest_digest != update.manifest_digest
        and (staged := moment(info.staged)) is not None and staged > asked for info in status.deployments)


def age(status: Status, now: datetime.datetime) -> float | None:
    """Seconds since the source was asked; None when it never was, or in a future that the clock has left."""
    asked = moment(status.update_time)
    seconds = (now - asked).total_seconds() if asked is not None else -1
    return seconds if seconds >= 0 else None


# --- names ------------------------------------------------------------------------------------------------------------


def _names(images: Iterable[_Image]) -> list[str]:
    """Their names, all different: the version label; where images share it with the date of the image, or at last
    with its digest."""
    ways = [_ways(image) for image in images]
    chosen = [0] * len(ways)
    while True:
        names = [way[number] for way, number in zip(ways, chosen, strict=True)]
        shared = {name for name, count in Counter(names).items() if count > 1}
        again = [number for number, (name, way) in enumerate(zip(names, ways, strict=True))
                 if name in shared and chosen[number] < len(way) - 1]
        if not again:
            return names
        for number in again:
            chosen[number] += 1


def _ways(image: _Image) -> list[str]:
    """How an image may be called, the best first; the last is its own alone."""
    label = _clean(image.label)
    found = re.match(r"(2\d\d\d)-(\d\d)-(\d\d)", image.created)
    date = "".join(found.groups()) if found else ""
    digest = image.key.rpartition(":")[2][:12]
    names = (label, ".".join(filter(None, (label, date))) if date else "", ".".join(filter(None, (label, digest))))
    return [*filter(None, names), _FOREIGN.sub("_", image.key)[:255] or "_"]


def _clean(label: str) -> str:
    """A version label without what a name may not hold. What takes its place is skipped by UAPI.10, as was what stood
    there, so the order stays."""
    return _FOREIGN.sub("_", label)[:MAX_LABEL].strip("._-")
