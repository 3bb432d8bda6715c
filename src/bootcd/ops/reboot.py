# SPDX-License-Identifier: Apache-2.0
"""Reboot into what boots next, for `--apply`.

A soft reboot (systemd 254) keeps the kernel: services end, the staged deployment is finalized as ever, the program of
the initrd mounts it at /run/nextroot, and systemd starts there. Nothing of that is done here: it is asked for, if it
comes to the same as a reboot.

    /run/bootcd/soft-reboot     the kernel command line of what shall be entered; bootcd-next-root acts on it
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from ..boot.booted import read_cmdline
from ..boot.kargs import differing
from ..errors import BootcdError, Refused, SoftRebootImpossible, UsageError
from ..layout import SOFT_REBOOT
from ..linux import files, systemd
from ..model import SOFT_REBOOTS
from ..store.repository import Repository
from .machine import Machine
from .results import ChangeResult, DeploymentInfo
from .status import status

SYSTEMD = 254
FINALIZE = "bootcd-finalize-staged.service"
_NEXT_ROOT = "bootcd-next-root"
"""What the finalize service runs behind finalizing where the program of the initrd is installed."""
_SELINUX = Path("/sys/fs/selinux/enforce")
_ETC = Path("/etc")


def check_request(machine: Machine, soft_reboot: str) -> None:
    """Raise UsageError for another word than those of SOFT_REBOOTS, Refused when nothing of this installation runs."""
    if soft_reboot not in SOFT_REBOOTS:
        raise UsageError(f"a soft reboot is one of {', '.join(SOFT_REBOOTS)}, not '{soft_reboot}'")
    if machine.booted() is None:
        raise Refused(f"no deployment of {machine.sysroot.path} is running, so there is nothing to reboot",
                      advice="Leave --apply out: what was deployed boots next.")


def reboot(machine: Machine, soft_reboot: str) -> str:
    """Ask for a reboot if it brings another deployment: `reboot`, `soft-reboot`, or nothing when it would not.

    Raises RebootRefused, and SoftRebootImpossible when one is required; what was staged stays so.
    """
    found = status(machine)
    booted, target = found.with_role("booted"), found.awaited()
    if booted is None or target is None:
        return ""
    why = _obstacle(machine, booted, target) if soft_reboot != "no" else ""
    if why and soft_reboot == "required":
        raise SoftRebootImpossible(f"deployment {target.id[:12]} cannot be entered by a soft reboot: {why}")
    if why:
        machine.progress.note(f"No soft reboot, since {why}.")
    soft = soft_reboot != "no" and not why
    try:
        if soft:
            SOFT_REBOOT.parent.mkdir(mode=0o755, exist_ok=True)
            files.atomic_write(SOFT_REBOOT, f"{target.options}\n".encode("utf-8", "surrogateescape"))
        else:
            SOFT_REBOOT.unlink(missing_ok=True)
        systemd.reboot(soft=soft)
    except BaseException:
        with contextlib.suppress(OSError):
            SOFT_REBOOT.unlink(missing_ok=True)
        raise
    return "soft-reboot" if soft else "reboot"


def told(result: ChangeResult, how: str) -> str:
    """The message of a change that a reboot follows."""
    return result.message + {"": "", "reboot": " The machine reboots now.",
                             "soft-reboot": " The machine enters it now, by a soft reboot."}[how]


def _obstacle(machine: Machine, booted: DeploymentInfo, target: DeploymentInfo) -> str:
    """Why a soft reboot would not come to the same as a reboot; empty when it would."""
    running = os.uname().release
    if target.boot_digest != booted.boot_digest:
        return "it has another kernel or initrd"
    if target.kernel_version and target.kernel_version != running:
        return f"its kernel is {target.kernel_version}, and {running} runs"
    if differences := differing(read_cmdline(), target.options):
        return f"it has other kernel arguments ({' '.join(differences)})"
    if _SELINUX.exists() and _policy(_ETC) != _policy(machine.sysroot.deployment(target.id) / "etc"):
        return "it has another SELinux policy, which only a reboot loads"
    with Repository.open(machine.sysroot.repository) as repository:
        try:
            os.close(repository.images.open(bytes.fromhex(target.id)))
        except BootcdError as error:
            return str(error)
    if (version := systemd.version()) < SYSTEMD:
        return f"systemd {version} cannot do that, but {SYSTEMD} and later can"
    service = systemd.properties(FINALIZE, "ActiveState", "ExecStop")
    if service["ActiveState"] != "active":
        return f"{FINALIZE} does not run"
    return "" if _NEXT_ROOT in service["ExecStop"] else f"{_NEXT_ROOT} is not installed"


def _policy(etc: Path) -> list[tuple[str, str]]:
    """What decides which policy is loaded, by name and digest."""
    paths = [etc / "selinux/config", *sorted(etc.glob("selinux/*/policy/policy.*"))]
    with files.translate(f"cannot read the SELinux policy in {etc}"):
        return [(os.fspath(path.relative_to(etc)), hashlib.sha256(path.read_bytes()).hexdigest())
                for path in paths if path.is_file()]
