# SPDX-License-Identifier: Apache-2.0
"""Machines in any state, as a status tells of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as some

from bootcd.ops.results import CheckResult, DeploymentInfo, EtcChanges, PinInfo, Status

IMAGE = "docker://quay.io/example/os:1"
ASKED = "2026-03-01T12:00:00+00:00"


def deployment(version: str, *roles: str, digest: str = "", staged: str = "2026-02-01T00:00:00+00:00",
               created: str = "2026-01-15T08:00:00Z", **more: Any) -> DeploymentInfo:
    number = digest or version.replace(".", "")
    return DeploymentInfo(**{
        "id": (number * 128)[:128], "roles": roles, "image": IMAGE, "version": version, "title": "",
        "manifest_digest": digest_of(number), "created": created, "staged": staged, "generation": 1, "pins": (),
        "health": "good", "health_reason": "", "boot_type": "bls", "boot_digest": "", "kernel_version": "",
        "options": "", "verification": "", "etc": EtcChanges(), **more})


def offer(version: str, *, digest: str = "", staged: bool = False, rejected: str = "",
          created: str = "2026-02-20T08:00:00Z") -> CheckResult:
    return CheckResult(IMAGE, not staged, digest_of(digest or version.replace(".", "")), staged, version=version,
                       created=created, download_size=1000, rejected=rejected)


def digest_of(number: str) -> str:
    return "sha256:" + (number * 64)[:64]


def machine(*deployments: DeploymentInfo, update: CheckResult | None = None) -> Status:
    return Status("/sysroot", "/efi", deployments, None, "", (), update=update, update_time=ASKED)


BOOTED = deployment("1.0", "booted", "default")
ROLLBACK = deployment("0.9", "rollback")


LABELS = some.sampled_from(["1.0", "1.1", "", "1.0.20260115", "a/b", "aaaaaaaaaaaa"]) | some.text(max_size=6)
DATES = some.sampled_from(["", "2026-01-15T08:00:00Z", "1970-01-01T00:00:00Z", "nonsense"])
DIGESTS = some.sampled_from("abcdef")


@some.composite
def machines(draw: some.DrawFn) -> Status:
    """Any state of deployments, those that should not be included."""
    found = [deployment(draw(LABELS), digest=digest, created=draw(DATES), health=draw(some.sampled_from(
        ["good", "bad", "untried"])), pins=(PinInfo("", ""),) if draw(some.booleans()) else (),
        manifest_digest=draw(some.sampled_from([digest_of(digest), ""])),
        staged=draw(some.sampled_from(["", "2026-02-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00", "2027-01-01"])))
        for digest in draw(some.lists(DIGESTS, unique=True, max_size=5))]
    for role in ("booted", "default", "staged", "rollback"):
        if found and draw(some.booleans()):
            number = draw(some.integers(0, len(found) - 1))
            found[number] = replace(found[number], roles=(*found[number].roles, role),
                                    download_only=draw(some.booleans()))
    update = draw(some.none() | some.builds(offer, LABELS, digest=DIGESTS, staged=some.booleans(),
                                            rejected=some.sampled_from(["", "why"]), created=DATES))
    return machine(*found, update=update)
