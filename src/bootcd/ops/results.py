# SPDX-License-Identifier: Apache-2.0
"""What operations answer: plain values, the same for the command line, `--json` and D-Bus.

`to_json` turns each into JSON values; field names become keys with dashes. Byte counts are integers in bytes, times
ISO 8601 in UTC, digests OCI digests unless they are called `id`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PinInfo:
    label: str
    time: str


@dataclass(frozen=True, slots=True)
class EtcChanges:
    """Paths below /etc where the machine differs from its image."""

    kept_local: tuple[str, ...] = ()
    both_changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentInfo:
    """One deployment. `roles` are any of booted, default, staged, rollback, pinned."""

    id: str
    roles: tuple[str, ...]
    image: str
    version: str
    title: str
    manifest_digest: str
    created: str
    staged: str
    generation: int | None
    pins: tuple[PinInfo, ...]
    health: str
    health_reason: str
    boot_type: str
    boot_digest: str
    kernel_version: str
    options: str
    verification: str
    etc: EtcChanges


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Which links of the chain of trust hold. None means that it cannot be told from here."""

    secure_boot: bool | None
    sealed: bool
    repository_verity: bool
    image_verity: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The machine at a glance; deployments are in boot order, a staged one first."""

    sysroot: str
    esp: str
    deployments: tuple[DeploymentInfo, ...]
    chain: ChainInfo | None
    unfinished: str
    """The verb of a transaction that was cut off; the next command finishes it. Empty when there is none."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the source offers. Sizes count only layers that the repository lacks. `staged` says that what it offers is
    staged already, and therefore not `available`."""

    image: str
    available: bool
    manifest_digest: str
    staged: bool = False
    version: str = ""
    created: str = ""
    current_version: str = ""
    download_size: int = 0
    reused_size: int = 0
    layers: int = 0
    layers_missing: int = 0
    rejected: str = ""
    """Why the image is not taken although it is new; empty when it would be."""


@dataclass(frozen=True, slots=True)
class PullStats:
    """What a pull moved. `downloaded` and `reused` are compressed bytes of layers, the rest bytes of objects."""

    layers: int = 0
    layers_fetched: int = 0
    downloaded: int = 0
    reused: int = 0
    objects_written: int = 0
    object_bytes_written: int = 0
    objects_reused: int = 0
    object_bytes_reused: int = 0


@dataclass(frozen=True, slots=True)
class CollectItem:
    """Something that went, or would go: kind, name, why, bytes where known."""

    kind: str
    name: str
    why: str
    size: int


@dataclass(frozen=True, slots=True)
class CollectResult:
    """What a collection removed, or would remove."""

    dry_run: bool
    items: tuple[CollectItem, ...]
    kept: tuple[CollectItem, ...]
    objects: int
    object_bytes: int
    images: int
    streams: int


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What a request did to the deployments. `outcome` is one of unchanged, staged, deployed, unstaged, pinned,
    unpinned, rejected."""

    outcome: str
    message: str
    deployment: DeploymentInfo | None = None
    pull: PullStats | None = None
    collected: CollectResult | None = None


@dataclass(frozen=True, slots=True)
class FsckItem:
    kind: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class FsckResult:
    """What a check found. `ok` is about the state after a repair when one was asked for and worked."""

    ok: bool
    objects: int
    streams: int
    images: int
    findings: tuple[FsckItem, ...]
    repaired: bool
    pull_again: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image in the repository."""

    name: str
    manifest_digest: str
    config_digest: str
    id: str
    boot_id: str
    version: str
    created: str
    architecture: str
    layers: int
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class PullResult:
    """An image that is now in the repository."""

    image: ImageInfo
    stats: PullStats


def to_json(value: Any) -> Any:
    """The JSON form of a result."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name.replace("_", "-"): to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value
