# SPDX-License-Identifier: Apache-2.0
"""The status as the document `org.containers.bootc/v1` of kind `BootcHost`, which `bootc status --json` prints, for
tools that read that one. Its schema is docs/src/host-v1.schema.json of bootc.

bootc knows three slots. What boots next is `staged` here even when it is finalized already, unless the machine goes
back to something older: that is the `rollback`, and it is queued. What has no slot is in `otherDeployments`; so is
everything where nothing runs. What bootcd cannot tell is null, or left out where bootc may leave it out (`usrOverlay`,
`readOnly`).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..boot.kargs import differing, find_kargs
from ..boot.loader import read_variables
from ..errors import BootcdError
from ..model import ImageReference, Platform
from ..ops.results import DeploymentInfo, Status

_SELINUX = Path("/sys/fs/selinux/enforce")
_TRANSPORTS = {"docker": "registry"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the status does not say. `architecture` is a word of Go, `loader` one of bootc; with `selinux` a policy is
    in force."""

    architecture: str
    loader: str
    selinux: bool

    @classmethod
    def current(cls) -> Machine:
        """This one."""
        loader = "systemd" if read_variables().systemd_boot is not None else "grub"
        return cls(Platform.current().architecture, loader, _SELINUX.exists())


def document(status: Status, machine: Machine) -> dict[str, Any]:
    """The document as JSON values."""
    booted, awaited = status.with_role("booted"), status.awaited()
    back = booted is not None and awaited is not None and awaited.generation is not None and (
        awaited.staged < booted.staged)
    staged = status.with_role("staged") or (awaited if awaited is not booted and not back else None)
    rollback = awaited if back else status.with_role("rollback")
    if booted is None:
        staged = rollback = None
    elif rollback is not None and rollback in (booted, staged):
        rollback = next((info for info in status.deployments if info not in (booted, staged)), None)
    slots = {"staged": staged, "booted": booted, "rollback": rollback}
    others = [info for info in status.deployments if info not in slots.values()]
    tracked = status.with_role("staged") or booted or status.with_role("default")
    return {
        "apiVersion": "org.containers.bootc/v1", "kind": "BootcHost", "metadata": {"name": "host"},
        "spec": {"image": _reference(tracked.image, tracked.verification) if tracked is not None else None,
                 "bootOrder": "rollback" if back else "default"},
        "status": {
            **{slot: _entry(info, status, machine) if info is not None else None for slot, info in slots.items()},
            **({"otherDeployments": [_entry(info, status, machine) for info in others]} if others else {}),
            "rollbackQueued": back, "type": "bootcHost" if booted is not None else None,
        },
    }


def _entry(info: DeploymentInfo, status: Status, machine: Machine) -> dict[str, Any]:
    booted = status.with_role("booted")
    update = status.update if info is booted and status.update is not None and status.update.available else None
    return {
        "image": _image(info.image, info.verification, info.version, info.created, info.manifest_digest, machine),
        "cachedUpdate": _image(update.image, info.verification, update.version, update.created, update.manifest_digest,
                               machine) if update is not None else None,
        "incompatible": False, "pinned": bool(info.pins),
        "softRebootCapable": booted is not None and info is not booted and _same_kernel(booted, info, machine),
        "downloadOnly": info.download_only, "store": None, "ostree": None,
        "composefs": {
            "verity": info.id, "bootType": "Uki" if info.boot_type == "uki" else "Bls", "bootloader": machine.loader,
            "bootDigest": info.boot_digest or None, "missingVerityAllowed": _insecure(info.options),
        },
    }


def _image(image: str, verification: str, version: str, created: str, digest: str, machine: Machine) -> dict[str, Any]:
    return {"image": _reference(image, verification), "version": version or None, "timestamp": _timestamp(created),
            "imageDigest": digest, "architecture": machine.architecture}


def _reference(image: str, verification: str) -> dict[str, Any]:
    """The reference in its parts. A policy that was asked is a signature of kind containerPolicy."""
    signature = {} if verification == "digest" else {"signature": "containerPolicy"}
    try:
        parsed = ImageReference.parse(image)
    except BootcdError:
        return {"image": image, "transport": "registry", **signature}
    prefix = f"{parsed.transport}:"
    return {"image": str(parsed).removeprefix(prefix),
            "transport": _TRANSPORTS.get(parsed.transport, parsed.transport), **signature}


def _timestamp(text: str) -> str | None:
    """A time as RFC 3339 has it; None for what the image gives out as one and is none."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        return None
    return time.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _same_kernel(booted: DeploymentInfo, target: DeploymentInfo, machine: Machine) -> bool:
    """Whether a soft reboot could lead there, as far as that can be told without reading /etc: not under SELinux."""
    return not machine.selinux and booted.boot_digest == target.boot_digest and not differing(
        booted.options, target.options)


def _insecure(options: str) -> bool | None:
    """Whether the kernel command line lets fs-verity be absent; None when it does not say which image it is about."""
    try:
        found = find_kargs(options)
    except BootcdError:
        return None
    return all(karg.insecure for karg in found) if found else None
