# SPDX-License-Identifier: Apache-2.0
"""What becomes known about a deployment when it runs: that it was started, that its boot completed, or that it did not.

Units call these, one each at its moment of the boot; bootcd-health(7) tells the whole story. The decisions are in
`deploy.verdict`.
"""

from __future__ import annotations

from dataclasses import replace

from ..boot.booted import by_soft_reboot, read_cmdline
from ..boot.entries import stop_counting
from ..boot.loader import read_variables
from ..deploy import plan, trial, verdict
from ..deploy.facts import Facts
from ..deploy.records import Record
from ..deploy.rejected import Rejected, Rejection
from ..deploy.verdict import Reaction
from ..errors import BootcdError, Refused, Unhealthy
from ..formats.bls import EntryName
from ..linux.process import boot_id
from . import describe, events, last
from .last import now
from .machine import Machine
from .results import ChangeResult
from .session import Session, change


def boot_started(machine: Machine) -> ChangeResult:
    """The running deployment is coming up: count that until it is known to be good, also with the kernel arguments that
    it is on trial with, and give the verdict on those that should have come up instead. Raises Refused when nothing of
    this installation runs."""
    with change(machine) as session:
        facts = session.facts()
        record = _running(session, facts)
        boot, cmdline = boot_id(), read_cmdline()
        loader = read_variables()
        if not by_soft_reboot(record.id, cmdline):  # which asks no boot loader
            for other, reason in verdict.passed_over(facts, boot, loader_counts=loader.systemd_boot is not None):
                _condemn(session, other, reason)
        unproven = record.health != "good" or trial.is_running(facts, record, cmdline)
        if unproven and boot not in record.attempts:
            session.records.save(replace(record, attempts=(*record.attempts, boot)))
        after = session.facts()
        info = describe.deployment(after, after.records[record.id])
        left = verdict.fell_back_from(after)
        if left is None:
            return ChangeResult("started", f"Deployment {record.short_id} was started.", info)
        reason = describe.deployment(after, left).health_reason
        message = f"The machine runs {_name(record)}, because {_name(left)} is bad: {reason}."
        events.fell_back(left, message, reason)
        return ChangeResult("started", message, info)


def boot_complete(machine: Machine, by: str = "") -> ChangeResult:
    """The running deployment has come up well: remember that, and have its boots counted no more. After a soft reboot
    they still are: its boot entry has not been tried. The trial of kernel arguments ends if this boot tells how.
    Raises Refused when nothing of this installation runs."""
    with change(machine) as session:
        facts = session.facts()
        record = _running(session, facts)
        loaded = not by_soft_reboot(record.id, read_cmdline())
        outcome = _settle(session, facts, record, by) if loaded else trial.Outcome.OPEN
        if outcome is not trial.Outcome.OPEN:
            facts = session.facts()
            record = _running(session, facts)
        on_trial = facts.trial(record)
        counted = [EntryName.parse(entry.file_name) for entry in facts.entries_of(record)
                   if entry.counted and loaded and (on_trial is None or entry != on_trial[1])]
        if counted:
            session.boot.each(lambda esp: [stop_counting(esp, name) for name in counted])
        last.settle(machine, "boot")
        if record.health == "good" and not counted and outcome is not trial.Outcome.GOOD:
            return ChangeResult("unchanged", f"Deployment {record.short_id} is known to be good already.",
                                describe.deployment(facts, record))
        if record.health == "bad":  # it came up after all
            Rejected(machine.sysroot.rejected).discard(record.manifest_digest)
        session.records.save(replace(record, health="good", health_reason=f"its boot completed at {now()}",
                                     attempts=()))
        after = session.facts()
        told = ", and so are its new kernel arguments" if outcome is trial.Outcome.GOOD else ""
        return ChangeResult("good", f"Deployment {record.short_id} is good{told}.",
                            describe.deployment(after, after.records[record.id]))


def boot_failed(machine: Machine, reason: str, by: str) -> ChangeResult:
    """The boot of the running deployment failed, for `reason`. Gives the verdict, and prepares what follows: the
    outcome is stay, or reboot, or rollback when another deployment was made the default and a reboot has to follow.
    Raises Refused when nothing of this installation runs."""
    with change(machine) as session:
        facts = session.facts()
        record = _running(session, facts)
        boot = boot_id()
        tried = trial.is_running(facts, record, read_cmdline())
        if (record.health != "good" or tried) and boot not in record.attempts:
            record = replace(record, attempts=(*record.attempts, boot))
        if tried:
            return _trial_failed(session, facts, record, reason, by)
        found = verdict.judge(facts, record, on_failure=session.config.health_on_failure,
                              tries=session.config.boot_tries)
        reaction, why = found.reaction, found.why
        if reaction is Reaction.ROLLBACK:
            try:
                target = next(one for one in facts.deployed() if one.id != record.id and not facts.is_bad(one))
                session.run(plan.plan_rollback(facts, target, tries=session.config.boot_tries, time=now()))
            except BootcdError as error:
                reaction, why = Reaction.STAY, f"the rollback failed: {error}"
        if found.bad:  # after the rollback, which rejects the image as well, but does not know why
            _condemn(session, record, reason)
        elif record.health != "good":
            session.records.save(replace(record, health_reason=f"{why}: {reason}"))
        after = session.facts()
        message = f"The boot of {_name(record)} failed: {reason}. {_FOLLOWS[reaction]} ({why})."
        events.boot_failed(record, message, reason, reaction)
        last.failed(machine, "boot", by, Unhealthy(message))
        return ChangeResult(reaction, message, describe.deployment(after, after.records[record.id]))


def _trial_failed(session: Session, facts: Facts, record: Record, reason: str, by: str) -> ChangeResult:
    """The same for a boot with kernel arguments that are on trial: the deployment is not to blame."""
    found = trial.judge(facts, record, on_failure=session.config.health_on_failure, tries=session.config.boot_tries)
    reaction, why, over = found.reaction, found.why, found.bad
    follows = "It reboots with those from before" if over else _FOLLOWS[reaction]
    try:
        if over:
            session.run(plan.plan_settle(facts, record, good=False))
        else:
            session.records.save(record)
    except BootcdError as error:  # what cannot be counted cannot be bounded
        reaction, why, over = Reaction.STAY, f"it cannot be noted: {error}", False
        follows = _FOLLOWS[reaction]
    message = f"The boot of {_name(record)} with other kernel arguments failed: {reason}. {follows} ({why})."
    events.boot_failed(record, message, reason, reaction)
    last.failed(session.machine, "kargs" if over else "boot", by, Unhealthy(message))
    after = session.facts()
    return ChangeResult(reaction, message, describe.deployment(after, after.records[record.id]))


def _settle(session: Session, facts: Facts, record: Record, by: str) -> trial.Outcome:
    """End the trial of kernel arguments if there is one and this boot tells how."""
    counts = read_variables().systemd_boot is not None
    outcome = trial.outcome(facts, record, read_cmdline(), boot_id(), loader_counts=counts)
    found = facts.trial(record)
    if outcome is trial.Outcome.OPEN or found is None:
        return trial.Outcome.OPEN
    tried, _ = found
    session.run(plan.plan_settle(facts, record, good=outcome is trial.Outcome.GOOD))
    if outcome is trial.Outcome.BAD:
        message = f"Other kernel arguments of {_name(record)} did not boot, so those from before are in force again"
        lasting = "" if tried.own.local == record.own.local else (
            "The files in /etc/bootcd/kargs.d still ask for others, and so will the next upgrade: correct them.")
        events.kargs_reverted(record, f"{message}.", " ".join(tried.own.all))
        last.failed(session.machine, "kargs", by, Unhealthy(message, advice=lasting))
    return outcome


_FOLLOWS = {Reaction.STAY: "The machine stays as it is", Reaction.REBOOT: "It reboots",
            Reaction.ROLLBACK: "It reboots into the deployment before"}


def _running(session: Session, facts: Facts) -> Record:
    record = facts.records.get(facts.booted or "")
    if record is None:
        raise Refused(f"no deployment of {session.machine.sysroot.path} is running")
    return record


def _condemn(session: Session, record: Record, reason: str) -> None:
    """The verdict bad, and its image is not taken again by itself. In this order: a record that says bad is not looked
    at again."""
    rejected = Rejected(session.machine.sysroot.rejected)
    rejected.add(record.manifest_digest, Rejection(f"version {record.version or record.short_id} did not come up: "
                                                   f"{reason}", now()))
    session.records.save(replace(record, health="bad", health_reason=reason))


def _name(record: Record) -> str:
    return f"version {record.version}" if record.version else f"deployment {record.short_id}"
