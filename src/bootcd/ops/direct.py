# SPDX-License-Identifier: Apache-2.0
"""The `Host` that does everything in this process: for a sysroot directory, a rescue shell, an image build.

Each method imports what it needs: `status` has to answer at once, and most of this program is about changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..config import Config
from ..errors import UsageError
from ..layout import Sysroot
from ..model import Progress
from . import last
from .decisions import PolicyReport
from .diagnosis import Diagnosis
from .machine import Machine
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

if TYPE_CHECKING:
    from ..deploy.disk import DiskOptions

T = TypeVar("T")


class DirectHost:
    """See `ops.host.Host` for what each method means.

    How a change ended is kept in the installation, with who asked for it: `by`. `switching` is entered around the
    moment in which the boot entry changes. `unattended`: nobody waits for it, so what is meant for such runs holds,
    and with `metered` what is meant for connections that cost money.
    """

    def __init__(
        self, sysroot: Path, esp: Path | None, config: Config, progress: Progress, *, by: str = "",
        switching: Callable[[], AbstractContextManager[None]] = nullcontext, unattended: bool = False,
        metered: bool = False,
    ) -> None:
        if not unattended:
            config = replace(config, pull_max_download=0)
        if not (unattended and metered):
            config = replace(config, pull_metered="allow")
        self._machine = Machine(Sysroot(sysroot), esp, config, progress, switching)
        self._by = by or f"uid {os.getuid()} bootcctl"

    def _limited(self, max_rate: int | None, max_download: int | None) -> Machine:
        """The machine with the limits of one call."""
        config = self._machine.config
        if max_rate is not None:
            config = replace(config, pull_max_rate=max_rate)
        if max_download is not None:
            config = replace(config, pull_max_download=max_download)
        return replace(self._machine, config=config)

    def _recorded(self, verb: str, work: Callable[[], T]) -> T:
        return last.recorded(self._machine, verb, self._by, work)

    def _applied(self, verb: str, apply: bool, soft_reboot: str, work: Callable[[], ChangeResult]) -> ChangeResult:
        """Do `work`, keep how it ended, and then reboot if that is asked for."""
        if not apply:
            if soft_reboot != "no":
                raise UsageError("a soft reboot is a way to apply", advice="Add --apply.")
            return self._recorded(verb, work)
        from . import reboot

        reboot.check_request(self._machine, soft_reboot)
        result = self._recorded(verb, work)
        if result.outcome == "rejected":
            return result
        how = reboot.reboot(self._machine, soft_reboot)
        return replace(result, message=reboot.told(result, how), reboot=how)

    def status(self) -> Status:
        from . import status

        return status.status(self._machine)

    def explain(self, topic: str) -> Explanation:
        from . import explain

        return explain.explain(self._machine, topic)

    def policy(self) -> PolicyReport:
        from . import policy, status, surroundings
        from .rules import Facts, Rules

        found = surroundings.surroundings()
        rules = Rules.of(self._machine.config, surroundings.time_zone())
        return policy.decide(Facts(status.status(self._machine), found), rules, surroundings.now())

    def doctor(self, image: str, *, offline: bool = False) -> Diagnosis:
        from . import doctor

        return doctor.diagnose(self._machine, image, offline=offline)

    def check(self) -> CheckResult:
        from . import update

        return last.checked(self._machine, self._by, lambda: update.check(self._machine))

    def upgrade(self, *, download_only: bool = False, allow_rejected: bool = False, allow_untried: bool = False,
                allow_downgrade: bool = False, take_from: str = "", from_downloaded: bool = False, apply: bool = False,
                soft_reboot: str = "no", max_rate: int | None = None, max_download: int | None = None,
                only: str = "") -> ChangeResult:
        from . import update

        return self._applied("upgrade", apply, soft_reboot, lambda: update.upgrade(
            self._limited(max_rate, max_download), download_only=download_only, allow_rejected=allow_rejected,
            allow_untried=allow_untried, allow_downgrade=allow_downgrade, take_from=take_from,
            from_downloaded=from_downloaded, only=only))

    def switch(self, image: str, *, download_only: bool = False, allow_untried: bool = False, take_from: str = "",
               apply: bool = False, soft_reboot: str = "no", max_rate: int | None = None,
               max_download: int | None = None) -> ChangeResult:
        from . import update

        return self._applied("switch", apply, soft_reboot, lambda: update.switch(
            self._limited(max_rate, max_download), image, download_only=download_only, allow_untried=allow_untried,
            take_from=take_from))

    def finalize(self) -> ChangeResult:
        from . import update

        return self._recorded("finalize", lambda: update.finalize(self._machine))

    def boot_started(self) -> ChangeResult:
        from . import health

        return health.boot_started(self._machine)

    def boot_failed(self, reason: str) -> ChangeResult:
        from . import health

        return health.boot_failed(self._machine, reason, self._by)

    def boot_complete(self) -> ChangeResult:
        from . import health

        return health.boot_complete(self._machine, self._by)

    def health_check(self) -> HealthReport:
        from . import checks

        return checks.run_checks(timeout=self._machine.config.health_check_timeout, told=self._machine.progress.note)

    def rollback(self, deployment: str | None = None, *, apply: bool = False, soft_reboot: str = "no") -> ChangeResult:
        from . import keep

        return self._applied("rollback", apply, soft_reboot, lambda: keep.rollback(self._machine, deployment))

    def pin(self, deployment: str, label: str = "") -> ChangeResult:
        from . import keep

        return self._recorded("pin", lambda: keep.pin(self._machine, deployment, label))

    def unpin(self, deployment: str, label: str | None = None) -> ChangeResult:
        from . import keep

        return self._recorded("unpin", lambda: keep.unpin(self._machine, deployment, label))

    def unstage(self) -> ChangeResult:
        from . import keep

        return self._recorded("unstage", lambda: keep.unstage(self._machine))

    def reset(self, what: str, *, dry_run: bool = False) -> ChangeResult:
        from . import reset

        def work() -> ChangeResult:
            return reset.reset(self._machine, what, dry_run=dry_run)

        return work() if dry_run else self._recorded("reset", work)

    def cleanup(self, *, dry_run: bool = False) -> CollectResult:
        from . import collect

        def work() -> CollectResult:
            return collect.cleanup(self._machine, dry_run=dry_run)

        return work() if dry_run else self._recorded("cleanup", work)

    def fsck(self, *, repair: bool = False, metadata_only: bool = False) -> FsckResult:
        from . import verify

        def work() -> FsckResult:
            return verify.verify(self._machine, repair=repair, metadata_only=metadata_only)

        return self._recorded("fsck", work) if repair else work()

    def etc_diff(self, deployment: str | None = None, *, text: bool = False) -> EtcDiff:
        from . import etc

        return etc.diff(self._machine, deployment, text=text)

    def etc_report(self, deployment: str | None = None) -> EtcReport:
        from . import etc

        return etc.report(self._machine, deployment)

    def etc_reset(self, paths: Sequence[str], *, dry_run: bool = False) -> EtcReset:
        from . import etc

        def work() -> EtcReset:
            return etc.reset_paths(self._machine, paths, dry_run=dry_run)

        return work() if dry_run else self._recorded("etc reset", work)

    def etc_rules(self, path: str | None = None) -> EtcRules:
        from . import etc

        return etc.rules(self._machine, path)

    def kargs_show(self) -> Kargs:
        from . import kargs

        return kargs.show(self._machine)

    def kargs_add(self, arguments: Sequence[str]) -> ChangeResult:
        from . import kargs

        return self._recorded("kargs add", lambda: kargs.add(self._machine, arguments))

    def kargs_remove(self, arguments: Sequence[str]) -> ChangeResult:
        from . import kargs

        return self._recorded("kargs remove", lambda: kargs.remove(self._machine, arguments))

    def kargs_replace(self, old: str, new: str) -> ChangeResult:
        from . import kargs

        return self._recorded("kargs replace", lambda: kargs.swap(self._machine, old, new))

    def kargs_reload(self) -> ChangeResult:
        from . import kargs

        return self._recorded("kargs reload", lambda: kargs.reload(self._machine))

    def adopt(self, *, dry_run: bool = False) -> ChangeResult:
        from . import adopt

        def work() -> ChangeResult:
            return adopt.adopt(self._machine, dry_run=dry_run)

        return work() if dry_run else self._recorded("adopt", work)

    def install(self, image: str, *, kargs: Sequence[str] = (), take_from: str = "") -> ChangeResult:
        from . import update

        return self._recorded("install", lambda: update.install(self._machine, image, kargs, take_from=take_from))

    def install_to_disk(self, disk: str, image: str, options: DiskOptions, *, take_from: str = "") -> DiskResult:
        from . import install

        return install.install_to_disk(self._machine, disk, image, options, self._by, take_from)

    def image_pull(self, image: str, *, name: str = "", bootable: bool = False, max_rate: int | None = None,
                   max_download: int | None = None) -> PullResult:
        from . import images

        return self._recorded("image pull", lambda: images.image_pull(
            self._limited(max_rate, max_download), image, name=name, bootable=bootable))

    def image_verify(self, image: str) -> TrustReport:
        from . import images

        return images.image_verify(self._machine, image)

    def image_list(self) -> tuple[ImageInfo, ...]:
        from . import images

        return images.image_list(self._machine)

    def image_inspect(self, image: str) -> ImageInfo:
        from . import images

        return images.image_inspect(self._machine, image)

    def image_mount(self, image: str, directory: str, *, bootable: bool = False) -> None:
        from . import images

        images.image_mount(self._machine, image, directory, bootable=bootable)

    def image_import_tar(self, tar: str, name: str) -> PullResult:
        from . import images

        return self._recorded("image import-tar", lambda: images.image_import_tar(self._machine, tar, name))

    def image_remove(self, image: str) -> None:
        from . import images

        self._recorded("image remove", lambda: images.image_remove(self._machine, image))
