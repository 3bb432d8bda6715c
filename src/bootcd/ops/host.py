# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a machine, whoever answers: this process itself or the daemon.

Every method may raise any BootcdError. A DEPLOYMENT is named by the first digits of its id, a version, a pin label, or
one of the words booted, default, staged, rollback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .decisions import PolicyReport
from .diagnosis import Diagnosis
from .results import (
    ChangeResult,
    CheckResult,
    CollectResult,
    DiskResult,
    EtcDiff,
    EtcReport,
    EtcReset,
    EtcRules,
    Explanation,
    FsckResult,
    HealthReport,
    ImageInfo,
    Kargs,
    PullResult,
    Status,
    TrustReport,
)

if TYPE_CHECKING:  # `status` would load all that lays out disks only to name this type
    from ..deploy.disk import DiskOptions


class Host(Protocol):
    """One machine, or one directory with an installation."""

    def status(self) -> Status:
        """All deployments and what is remarkable. Needs no lock and never changes anything."""

    def explain(self, topic: str) -> Explanation:
        """Why: `default` boots next, deployments are `kept`, a `collect`ion would remove things, `space` is taken,
        `verity` holds or not."""

    def policy(self) -> PolicyReport:
        """What would be done alone now, and what stands against it, as far as it can be told from here."""

    def doctor(self, image: str, *, offline: bool = False) -> Diagnosis:
        """How a pull of an image would go, step by step. Answered in the process of the caller, by what it can read;
        the daemon is not asked."""

    def check(self) -> CheckResult:
        """Ask the source of the tracked image what it offers now; nothing is downloaded but its manifest."""

    def upgrade(self, *, download_only: bool = False, allow_rejected: bool = False, allow_untried: bool = False,
                allow_downgrade: bool = False, take_from: str = "", from_downloaded: bool = False, apply: bool = False,
                soft_reboot: str = "no", max_rate: int | None = None, max_download: int | None = None,
                only: str = "") -> ChangeResult:
        """Take what the tracked image reference names now. `download_only` stages it without making it the next
        to boot until a later `upgrade`. `allow_untried` does not wait for the boot of the running deployment to
        be complete; `allow_downgrade` takes an image that is older than what runs. With
        `take_from`, the image is read from that place, and still taken as the tracked one; with `from_downloaded`
        nothing is read, and what `download_only` has staged boots next. With `apply` the running
        machine reboots into what boots next, if that is another deployment; `soft_reboot` is one of
        SOFT_REBOOTS. `max_rate` (bytes in a second) and `max_download` (bytes) stand in for the settings of these
        names; that of `max_download` binds only what nobody waits for. With `only`, nothing happens when the
        reference names another manifest digest by now."""

    def switch(self, image: str, *, download_only: bool = False, allow_untried: bool = False, take_from: str = "",
               apply: bool = False, soft_reboot: str = "no", max_rate: int | None = None,
               max_download: int | None = None) -> ChangeResult:
        """Follow another image reference from now on; the rest is as for `upgrade`."""

    def finalize(self) -> ChangeResult:
        """Make the staged deployment the default; done at shutdown on a running system."""

    def boot_started(self) -> ChangeResult:
        """Note that the running deployment is coming up, and what the machine fell back from; done early in a boot."""

    def boot_failed(self, reason: str) -> ChangeResult:
        """Give the verdict on the running deployment, whose boot failed, and prepare what follows; done when
        boot-complete.target cannot be reached. The outcome stay, reboot or rollback is for the caller to follow."""

    def boot_complete(self) -> ChangeResult:
        """Remember that the running deployment has come up well; done when boot-complete.target is reached."""

    def health_check(self) -> HealthReport:
        """Run the health checks of the running system. Nothing follows from it."""

    def rollback(self, deployment: str | None = None, *, apply: bool = False, soft_reboot: str = "no") -> ChangeResult:
        """Make another deployment the default; `apply` and `soft_reboot` are as for `upgrade`."""

    def pin(self, deployment: str, label: str = "") -> ChangeResult:
        """Keep a deployment whatever the keep policy says."""

    def unpin(self, deployment: str, label: str | None = None) -> ChangeResult:
        """Take one pin off, or all."""

    def unstage(self) -> ChangeResult:
        """Forget the staged deployment, and a reset that waits for the shutdown."""

    def reset(self, what: str, *, dry_run: bool = False) -> ChangeResult:
        """Give what boots next `etc` as its image has it, or `state`: /etc, and /var as at installation. The old ones
        are kept aside until the deployment has proven itself."""

    def cleanup(self, *, dry_run: bool = False) -> CollectResult:
        """Remove what the keep policy does not keep and nothing refers to."""

    def fsck(self, *, repair: bool = False, metadata_only: bool = False) -> FsckResult:
        """Check every object, stream and image."""

    def etc_diff(self, deployment: str | None = None, *, text: bool = False) -> EtcDiff:
        """How /etc of a deployment, by default the running one, differs from its image; with `text` line by line."""

    def etc_report(self, deployment: str | None = None) -> EtcReport:
        """What the merge of /etc decided for a deployment, by default the staged or running one."""

    def etc_reset(self, paths: Sequence[str], *, dry_run: bool = False) -> EtcReset:
        """Set paths of the running deployment's /etc back to its image's version, and keep the old ones aside."""

    def etc_rules(self, path: str | None = None) -> EtcRules:
        """The rules for the merge of /etc, or those for one path."""

    def kargs_show(self) -> Kargs:
        """The kernel arguments of the deployment that boots next, and whose they are."""

    def kargs_add(self, arguments: Sequence[str]) -> ChangeResult:
        """Add kernel arguments of the machine's own, from the next boot on."""

    def kargs_remove(self, arguments: Sequence[str]) -> ChangeResult:
        """Remove kernel arguments of the machine's own."""

    def kargs_replace(self, old: str, new: str) -> ChangeResult:
        """Put another kernel argument in the place of one of the machine's own."""

    def kargs_reload(self) -> ChangeResult:
        """Take what /etc/bootcd/kargs.d asks for by now."""

    def adopt(self, *, dry_run: bool = False) -> ChangeResult:
        """Make the deployments of bootc, which has installed this machine, those of bootcd."""

    def install(self, image: str, *, kargs: Sequence[str] = (), take_from: str = "") -> ChangeResult:
        """Make the first deployment in an empty place."""

    def install_to_disk(self, disk: str, image: str, options: DiskOptions, *, take_from: str = "") -> DiskResult:
        """Make partitions and file systems on a disk, or in a file, and the first deployment there; erases what is on
        it. The installation that this is otherwise about stays as it is."""

    def image_pull(self, image: str, *, name: str = "", bootable: bool = False, max_rate: int | None = None,
                   max_download: int | None = None) -> PullResult:
        """Bring an image into the repository without deploying it. The limits are as for `upgrade`."""

    def image_verify(self, image: str) -> TrustReport:
        """What the policy says of an image at its source, and what every signature there is worth. Nothing is
        taken."""

    def image_list(self) -> tuple[ImageInfo, ...]:
        """The named images of the repository."""

    def image_inspect(self, image: str) -> ImageInfo:
        """One image by name or manifest digest."""

    def image_mount(self, image: str, directory: str, *, bootable: bool = False) -> None:
        """Mount an image read-only."""

    def image_import_tar(self, tar: str, name: str) -> PullResult:
        """Make an image of one layer from a tar file."""

    def image_remove(self, image: str) -> None:
        """Take the name of an image away; `cleanup` then frees what only it needed."""
