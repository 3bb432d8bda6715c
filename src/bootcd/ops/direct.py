# SPDX-License-Identifier: Apache-2.0
"""The `Host` that does everything in this process: for a sysroot directory, a rescue shell, an image build.

Each method imports what it needs: `status` has to answer at once, and most of this program is about changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import Config
from ..layout import Sysroot
from ..model import Progress
from .machine import Machine
from .results import ChangeResult, CheckResult, CollectResult, FsckResult, ImageInfo, PullResult, Status


class DirectHost:
    """See `ops.host.Host` for what each method means."""

    def __init__(self, sysroot: Path, esp: Path | None, config: Config, progress: Progress) -> None:
        self._machine = Machine(Sysroot(sysroot), esp, config, progress)

    def status(self) -> Status:
        from . import status

        return status.status(self._machine)

    def check(self) -> CheckResult:
        from . import update

        return update.check(self._machine)

    def upgrade(self, *, download_only: bool = False, allow_rejected: bool = False) -> ChangeResult:
        from . import update

        return update.upgrade(self._machine, download_only=download_only, allow_rejected=allow_rejected)

    def switch(self, image: str, *, download_only: bool = False) -> ChangeResult:
        from . import update

        return update.switch(self._machine, image, download_only=download_only)

    def finalize(self) -> ChangeResult:
        from . import update

        return update.finalize(self._machine)

    def rollback(self, deployment: str | None = None) -> ChangeResult:
        from . import keep

        return keep.rollback(self._machine, deployment)

    def pin(self, deployment: str, label: str = "") -> ChangeResult:
        from . import keep

        return keep.pin(self._machine, deployment, label)

    def unpin(self, deployment: str, label: str | None = None) -> ChangeResult:
        from . import keep

        return keep.unpin(self._machine, deployment, label)

    def unstage(self) -> ChangeResult:
        from . import keep

        return keep.unstage(self._machine)

    def cleanup(self, *, dry_run: bool = False) -> CollectResult:
        from . import collect

        return collect.cleanup(self._machine, dry_run=dry_run)

    def fsck(self, *, repair: bool = False, metadata_only: bool = False) -> FsckResult:
        from . import verify

        return verify.verify(self._machine, repair=repair, metadata_only=metadata_only)

    def install(self, image: str, *, kargs: Sequence[str] = ()) -> ChangeResult:
        from . import update

        return update.install(self._machine, image, kargs)

    def image_pull(self, image: str, *, name: str = "", bootable: bool = False) -> PullResult:
        from . import images

        return images.image_pull(self._machine, image, name=name, bootable=bootable)

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

        return images.image_import_tar(self._machine, tar, name)

    def image_remove(self, image: str) -> None:
        from . import images

        images.image_remove(self._machine, image)
