# SPDX-License-Identifier: Apache-2.0
"""What becomes known about a deployment when it runs."""

from __future__ import annotations

from dataclasses import replace

from ..boot.booted import by_soft_reboot, read_cmdline
from ..boot.entries import stop_counting
from ..errors import Refused
from ..formats.bls import EntryName
from . import describe
from .last import now
from .machine import Machine
from .results import ChangeResult
from .session import change


def boot_complete(machine: Machine) -> ChangeResult:
    """The running deployment has come up well: remember that, and have its boots counted no more. After a soft reboot
    they still are: its boot entry has not been tried. Raises Refused when nothing of this installation runs."""
    with change(machine) as session:
        facts = session.facts()
        record = facts.records.get(facts.booted or "")
        if record is None:
            raise Refused(f"no deployment of {machine.sysroot.path} is running")
        loaded = not by_soft_reboot(record.id, read_cmdline())
        counted = [EntryName.parse(entry.file_name) for entry in facts.entries_of(record) if entry.counted and loaded]
        for name in counted:
            stop_counting(session.esp, name)
        if record.health == "good" and not counted:
            return ChangeResult("unchanged", f"Deployment {record.short_id} is known to be good already.",
                                describe.deployment(facts, record))
        session.records.save(replace(record, health="good", health_reason=f"its boot completed at {now()}"))
        after = session.facts()
        return ChangeResult("good", f"Deployment {record.short_id} is good.",
                            describe.deployment(after, after.records[record.id]))
