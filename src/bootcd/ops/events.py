# SPDX-License-Identifier: Apache-2.0
"""What an administrator looks for after a boot: entries in the journal that are there without a daemon, too.

`daemon.events` has those of the daemon, and says how to look for them.
"""

from __future__ import annotations

from ..deploy.records import Record
from ..linux.journal import ERROR, WARNING, send

FELL_BACK = "93963de2ee944fbf9721700e1455d713"
BOOT_FAILED = "dea5068dfbba4b5580d1c24585605a8b"
KARGS_REVERTED = "a96fd2148cb44cb49b8fe2151715bae1"
HOOK_FAILED = "405ac4b5f3a540738e00dbca7ae6c976"


def fell_back(record: Record, message: str, reason: str) -> None:
    """An older deployment runs than `record`, which is bad for `reason`."""
    send(FELL_BACK, WARNING, message, reason=reason, **_about(record))


def boot_failed(record: Record, message: str, reason: str, reaction: str) -> None:
    """The boot of the running deployment failed, and `reaction` is what follows."""
    send(BOOT_FAILED, ERROR, message, reason=reason, reaction=reaction, **_about(record))


def kargs_reverted(record: Record, message: str, arguments: str) -> None:
    """The running deployment did not boot with other kernel arguments, which are forgotten."""
    send(KARGS_REVERTED, WARNING, message, kargs=arguments, **_about(record))


def hook_failed(hook: str, notice: str, reason: str) -> None:
    """A hook was told of `notice`, and failed."""
    send(HOOK_FAILED, WARNING, f"The hook {hook} failed: {reason}.", hook=hook, notice=notice, reason=reason)


def _about(record: Record) -> dict[str, str]:
    return {"deployment": record.id, "image": record.image, "image_version": record.version,
            "image_digest": record.manifest_digest}
