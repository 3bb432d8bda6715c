# SPDX-License-Identifier: Apache-2.0
"""What a client wants, as a job of ours. Pure.

What is done already succeeds without a job: desktops call Acquire and Install again before they reboot. Install never
downloads, and never believes that an Acquire before it went well. An older version that is still here is what
'bootcctl rollback' goes to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .errors import failed, invalid, no_candidate
from .versions import Version, Versions


class Kind(StrEnum):
    """What the object of the job says as its type; some clients end themselves at any other."""

    ACQUIRE = "acquire"
    INSTALL = "install"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Decision:
    """The version that is meant, and the method of org.bootcd1.Manager that brings it, empty when it is there."""

    version: Version
    method: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


_FROM_DOWNLOADED = {"from_downloaded": True}
_WITHOUT_DOWNLOAD = {"max_download": 1}
"""No layer is as small as that."""


def is_plain(name: str, known: Versions) -> bool:
    """Whether asking for `name` is what any update would do: it is the newest, named or not."""
    return not name or any(one is not None and one.name == name for one in (known.candidate, known.waiting))


def decide(kind: Kind, name: str, known: Versions) -> Decision:
    """What to do for the version `name`, empty for the newest. Raises BusError: NoCandidate when there is nothing
    newer, InvalidArgs for a version that nobody knows, Failed for one that cannot be had that way."""
    version = _meant(kind, name, known)
    if version.obsolete:
        raise failed(f"version {version.name} is not taken: {version.why}",
                     "'bootcctl upgrade --allow-rejected' and 'bootcctl rollback' take it all the same.")
    if version is known.current:
        return _stay(kind, version, known)
    if version is known.waiting:
        deployment = version.deployment
        assert deployment is not None
        if kind is Kind.ACQUIRE or not deployment.download_only:
            return Decision(version)
        return Decision(version, "Upgrade", _FROM_DOWNLOADED)
    if version is known.candidate:
        return _take(kind, version, known)
    assert version.deployment is not None
    if kind is Kind.ACQUIRE:
        return Decision(version)
    return Decision(version, "Rollback", {"deployment": version.deployment.id})


def _meant(kind: Kind, name: str, known: Versions) -> Version:
    if name:
        found = known.get(name)
        if found is None:
            raise invalid(f"no version '{name:.100}' is here, nor does the source offer it")
        return found
    if kind is Kind.INSTALL:
        candidate = known.candidate
        found = known.waiting or (candidate if candidate is not None and candidate.installed else None)
        if found is None:
            # Not NoCandidate, which would be told as "up to date" after an Acquire that failed.
            raise failed("nothing is downloaded that could be installed")
        return found
    if known.newest is None:
        raise no_candidate("there is nothing newer")
    return known.newest


def _take(kind: Kind, version: Version, known: Versions) -> Decision:
    """What the source offers."""
    if version.installed:  # the source names an image again that was kept here
        return Decision(version) if kind is Kind.ACQUIRE else Decision(version, "Upgrade", _WITHOUT_DOWNLOAD)
    if kind is Kind.INSTALL:
        raise failed(f"version {version.name} is not downloaded yet")
    staged = known.waiting.deployment if known.waiting is not None else None
    # A mere download does not replace what was staged to boot.
    replaces = staged is not None and "staged" in staged.roles and not staged.download_only
    return Decision(version, "Upgrade" if kind is Kind.UPDATE or replaces else "Download")


def _stay(kind: Kind, version: Version, known: Versions) -> Decision:
    """The version that runs: whoever asks for it does not want the one that waits."""
    waiting = known.waiting.deployment if known.waiting is not None else None
    if waiting is None:
        if kind is Kind.INSTALL:
            return Decision(version)
        raise no_candidate(f"version {version.name} runs already")
    assert version.deployment is not None
    if kind is Kind.ACQUIRE:
        return Decision(version)
    if "staged" in waiting.roles:
        return Decision(version, "Unstage")
    return Decision(version, "Rollback", {"deployment": version.deployment.id})
