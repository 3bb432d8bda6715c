# SPDX-License-Identifier: Apache-2.0
"""What operations answer: plain values, the same for the command line, `--json` and D-Bus.

Byte counts are integers in bytes, times ISO 8601 in UTC, digests OCI digests unless they are called `id`. In JSON
(`ops.resultjson`) field names become keys with dashes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PinInfo:
    label: str
    time: str


@dataclass(frozen=True, slots=True)
class Karg:
    """A kernel argument. `owner` is bootcd, image, drop-in (/etc/bootcd/kargs.d), machine (its installation) or command
    ('bootcctl kargs')."""

    argument: str
    owner: str


@dataclass(frozen=True, slots=True)
class EtcDecision:
    """What a merge did with a path below /etc that both sides had changed. `here` and `image` are any of added,
    changed, deleted, retyped; `taken` is local, image or both; `rule` says what decided, empty when that was none."""

    path: str
    here: str
    image: str
    taken: str
    rule: str


@dataclass(frozen=True, slots=True)
class EtcChanges:
    """Paths below /etc where the machine differs from its image, by the merge that made it."""

    kept_local: tuple[str, ...] = ()
    both_changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    decisions: tuple[EtcDecision, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentInfo:
    """One deployment. `roles` are any of booted, default, staged, rollback, pinned; `download_only` says of a staged
    one that it waits for an upgrade to make it boot."""

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
    download_only: bool = False
    reset: str = ""
    """What the next shutdown makes anew for the deployment that boots next: etc, state (/etc and /var), or nothing."""
    policy: str = ""
    """The file and the scope in it that let the image in; empty when no policy was asked."""
    signed_by: tuple[str, ...] = ()
    """Whose signatures the policy asked for and found."""
    kargs: tuple[Karg, ...] = ()
    """Those in `options`, each with its owner."""
    kargs_on_trial: bool = False
    """They have not booted well yet; if they do not, those from before are taken."""
    on_trial: bool = False
    """Its boots are counted, and none is complete yet."""


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """The signature of a UKI on the boot partition. `state` is one of valid (by `signer`, the subject of its
    certificate, over what the file holds), broken, absent, unknown; `problem` says why it is broken or unknown.
    `trusted` is whether the firmware has the signer's key, None when that cannot be told."""

    state: str
    signer: str = ""
    trusted: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Which links of the chain of trust hold. None means that it cannot be told from here.

    `signature` is None for what boots by an entry, which nobody signs. `digest` is whether the command line on the boot
    partition names the deployment, `verity_required` whether it demands fs-verity. `sealed` is all of that together:
    a valid signature over both. `soft_reboot`: the running kernel was started with another deployment.
    """

    secure_boot: bool | None
    sealed: bool | None
    repository_verity: bool
    image_verity: bool
    signature: SignatureInfo | None = None
    digest: bool | None = None
    verity_required: bool | None = None
    soft_reboot: bool = False


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
    config_digest: str = ""
    rollout: dict[str, str] = field(default_factory=dict)
    """What the image says of a phased rollout, by annotation."""
    seen: str = ""
    """When a check found it for the first time."""


@dataclass(frozen=True, slots=True)
class LastResult:
    """The outcome of the last operation that changed something. `state` is succeeded, failed or cancelled; `error` the
    D-Bus name of what went wrong; `by` who asked."""

    verb: str
    state: str
    error: str
    message: str
    advice: str
    started: str
    ended: str
    by: str


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
    last: LastResult | None = None
    update: CheckResult | None = None
    """What the last check found, as long as it is not installed; None when nothing is known."""
    update_time: str = ""
    """When the source was asked the last time."""
    fell_back_from: str = ""
    """The id of the newest deployment, if that is bad and an older one runs in its place; else empty."""

    def with_role(self, role: str) -> DeploymentInfo | None:
        """The deployment that has this role."""
        return next((info for info in self.deployments if role in info.roles), None)

    def awaited(self) -> DeploymentInfo | None:
        """The deployment that a reboot would bring: another one than the running one boots next, or will after
        shutdown, or the same with its state made anew. None where nothing of this installation runs."""
        booted, staged, default = (self.with_role(role) for role in ("booted", "staged", "default"))
        if booted is None:
            return None
        if staged is not None and not staged.download_only:
            return staged
        if default is not None and any(info.reset for info in self.deployments):
            return default
        # Where the boot partition cannot be read, nothing is known to be the default.
        return default if default is not None and default.id != booted.id else None


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
class ImageSignature:
    """A signature that was found at `origin`: it counts as that of `signer`, or does not, for `reason`."""

    origin: str
    signer: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequirementInfo:
    """A requirement of the policy by its type there, and what was held against it."""

    requirement: str
    holds: bool
    signatures: tuple[ImageSignature, ...]


@dataclass(frozen=True, slots=True)
class TrustReport:
    """What the policy says of an image. `reference_digest` is that of the index if there is one; `verification` what
    the record of a deployment would say, or rejected."""

    image: str
    manifest_digest: str
    reference_digest: str
    accepted: bool
    policy: str
    scope: str
    verification: str
    signed_by: tuple[str, ...]
    requirements: tuple[RequirementInfo, ...]


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
    """What a request did to the deployments. `outcome` is one of unchanged, planned, staged, deployed, adopted,
    unstaged, pinned, unpinned, changed, rejected, started, good; of a boot that failed stay, reboot or rollback.
    `reboot` is what was asked of systemd afterwards: reboot, soft-reboot, or nothing."""

    outcome: str
    message: str
    deployment: DeploymentInfo | None = None
    pull: PullStats | None = None
    collected: CollectResult | None = None
    reboot: str = ""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A health check that was run: `outcome` is passed, failed or timed-out, `reason` the first line that it said when
    it did not pass, `milliseconds` what it took."""

    name: str
    path: str
    required: bool
    outcome: str
    reason: str
    milliseconds: int


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What the health checks say: `good` unless a required one did not pass; `reason` names the first of those."""

    good: bool
    reason: str
    checks: tuple[HealthCheck, ...]


@dataclass(frozen=True, slots=True)
class Kargs:
    """The kernel arguments of the deployment that boots next: `kargs` and `kargs_on_trial` are those of its
    DeploymentInfo, `running` what the kernel was started with, nothing of a system that does not run.

    `sealed` arguments are in a UKI, and `without_effect` are then those that the machine would add. `pending` is what
    the drop-ins in /etc/bootcd/kargs.d ask for where that is something else than the deployment has from them;
    `problem` why they cannot be read.
    """

    id: str
    version: str
    sealed: bool
    kargs: tuple[Karg, ...]
    kargs_on_trial: bool
    running: tuple[str, ...]
    without_effect: tuple[Karg, ...] = ()
    pending: tuple[str, ...] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EtcReport:
    """What the merge decided that made /etc of a deployment."""

    id: str
    version: str
    etc: EtcChanges


@dataclass(frozen=True, slots=True)
class EtcDifference:
    """A path below /etc that is not as the image has it. `kind` is one of added, changed, deleted, retyped; `what` of a
    changed one any of content, mode, owner, xattrs; `text` a unified diff where one was asked for and can be had."""

    path: str
    kind: str
    what: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class EtcDiff:
    """How /etc of a deployment differs from that of its image."""

    id: str
    version: str
    differences: tuple[EtcDifference, ...]


@dataclass(frozen=True, slots=True)
class EtcResetItem:
    """What became of a path below /etc, or would: `outcome` is one of replaced, restored, removed, unchanged; `aside`
    where its old version is, empty when there is none."""

    path: str
    outcome: str
    aside: str


@dataclass(frozen=True, slots=True)
class EtcReset:
    """What was set back to the version of the image, or would be."""

    id: str
    version: str
    dry_run: bool
    items: tuple[EtcResetItem, ...]


@dataclass(frozen=True, slots=True)
class EtcRule:
    """A rule for the merge: `merge` is keep-local, take-image, both or fail; `origin` machine or image."""

    pattern: str
    merge: str
    why: str
    source: str
    origin: str


@dataclass(frozen=True, slots=True)
class EtcRules:
    """The rules for the merge into the deployment `id`; those for `path` when that is not empty. The first decides."""

    id: str
    version: str
    path: str
    rules: tuple[EtcRule, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is as it is. `kind` is one of deployment, entry, setting, kernel, state, image name, tag, objects,
    download, file system, link; `verdict` a word or two; `size` bytes where that is what it is about."""

    kind: str
    name: str
    verdict: str
    why: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to one of the questions default, kept, collect, space, verity."""

    topic: str
    summary: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition that an installation makes: its place on the disk in bytes, and what is in it."""

    name: str
    type: str
    start: int
    size: int
    content: str


@dataclass(frozen=True, slots=True)
class DiskResult:
    """What an installation made of a disk, or would make: `erased` names what had been on it."""

    disk: str
    size: int
    dry_run: bool
    erased: tuple[str, ...]
    partitions: tuple[PartitionInfo, ...]
    change: ChangeResult | None = None
    recovery_key: str = ""
    """Opens the encrypted root file system. It is kept nowhere."""


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
