# SPDX-License-Identifier: Apache-2.0
"""The verbs about deployments: call the host, show what it answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from ..errors import ConnectionMetered, NotProven, Refused, UsageError
from ..ops.host import Host
from ..ops.results import ChangeResult
from . import names, output
from .hosts import host, the_daemon
from .text import printable

NO_UPDATE = 77
"""Exit status of `upgrade --check` when there is nothing newer, as rpm-ostree has it."""


def status(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.status()
        as_text = options.format == "text" and not options.json
        running = getattr(machine, "running", lambda: None)() if as_text else None
    if options.format == "bootc-v1":
        from . import bootc_output

        output.emit_json(bootc_output.document(result, bootc_output.Machine.current()))
    elif as_text:
        output.status(result, running)
    else:
        output.emit_json(result)
    return 0


def list_deployments(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.status().deployments
    output.emit_json(result) if options.json else output.deployments(result)
    return 0


def explain(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.explain(options.topic)
    output.emit_json(result) if options.json else output.explanation(result)
    return 0


def doctor(options: Namespace) -> int:
    from . import doctor_output

    with host(options, direct=True) as machine:
        result = machine.doctor(options.image, offline=options.offline)
    output.emit_json(result) if options.json else doctor_output.diagnosis(result)
    return result.exit_status


def upgrade(options: Namespace) -> int:
    if options.check and options.take_from:
        raise UsageError("--check asks the source of the tracked image", advice="Leave one of --check and --from out; "
                         "'bootcctl image verify' tells what a place has.")
    for option, value in (("--from", options.take_from), ("--download-only", options.download_only),
                          ("--check", options.check)):
        if options.from_downloaded and value:
            raise UsageError("what is downloaded already comes from nowhere else",
                             advice=f"Leave one of --from-downloaded and {option} out.")
    if options.check:
        try:
            with host(options) as machine:
                found = machine.check()
        except ConnectionMetered as error:  # by nature a run that nobody waits for
            print(printable(f"Nothing is done this time: {error}."))
            return NO_UPDATE
        output.emit_json(found) if options.json else output.check(found)
        return 0 if found.available and not found.rejected else NO_UPDATE
    for option in ("allow_rejected", "allow_downgrade"):
        if options.download_only and getattr(options, option):
            raise UsageError("an image that is only downloaded is not taken yet",
                             advice=f"Leave one of --download-only and --{option.replace('_', '-')} out.")
    try:
        return change(options, lambda machine: machine.upgrade(
            download_only=options.download_only, allow_rejected=options.allow_rejected,
            allow_untried=options.allow_untried, allow_downgrade=options.allow_downgrade,
            take_from=options.take_from, from_downloaded=options.from_downloaded, apply=options.apply,
            soft_reboot=options.soft_reboot, max_rate=options.max_rate, max_download=options.max_download))
    except NotProven as error:
        if not options.background:
            raise
        print(printable(f"Nothing is done this time: {error}."))  # the timer comes again
        return 0


def switch(options: Namespace) -> int:
    return change(options, lambda machine: machine.switch(
        names.whole(options), download_only=options.download_only, allow_untried=options.allow_untried,
        take_from=options.take_from, apply=options.apply, soft_reboot=options.soft_reboot,
        max_rate=options.max_rate, max_download=options.max_download))


def rollback(options: Namespace) -> int:
    return change(options, lambda machine: machine.rollback(
        options.deployment, apply=options.apply, soft_reboot=options.soft_reboot))


def pin(options: Namespace) -> int:
    return change(options, lambda machine: machine.pin(options.deployment, options.label))


def unpin(options: Namespace) -> int:
    return change(options, lambda machine: machine.unpin(options.deployment, options.label))


def unstage(options: Namespace) -> int:
    return change(options, lambda machine: machine.unstage())


def reset(options: Namespace) -> int:
    return change(options, lambda machine: machine.reset("state" if options.state else "etc", dry_run=options.dry_run))


def finalize(options: Namespace) -> int:
    return change(options, lambda machine: machine.finalize())


def adopt(options: Namespace) -> int:
    return change(options, lambda machine: machine.adopt(dry_run=options.dry_run), direct=True)


def install(options: Namespace) -> int:
    return change(options, lambda machine: machine.install(
        names.whole(options), kargs=options.karg, take_from=options.take_from), direct=True)


def install_to_disk(options: Namespace) -> int:
    from ..deploy.disk import DiskOptions
    if options.sysroot is not None or options.esp is not None:
        raise UsageError("a new disk has its own sysroot and boot partition", advice="Leave --sysroot and --esp out.")
    with host(options, direct=True) as machine:
        result = machine.install_to_disk(options.disk, names.whole(options), DiskOptions(
            wipe=options.wipe, dry_run=options.dry_run, filesystem=options.filesystem, encrypt=options.encrypt,
            esp_size=options.esp_size, root_size=options.root_size, image_size=options.image_size,
            kargs=tuple(options.karg), root_ssh_keys=options.root_ssh_authorized_keys),
            take_from=options.take_from)
    output.emit_json(result) if options.json else output.disk(result)
    return 0


def cleanup(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.cleanup(dry_run=options.dry_run)
    output.emit_json(result) if options.json else output.collected(result)
    return 0


def fsck(options: Namespace) -> int:
    from ..errors import RepositoryDamaged

    with host(options) as machine:
        result = machine.fsck(repair=options.repair, metadata_only=options.metadata_only)
    output.emit_json(result) if options.json else output.fsck(result)
    return 0 if result.ok else RepositoryDamaged.exit_status


def cancel(options: Namespace) -> int:
    with host(options) as machine:
        job = the_daemon(machine, "only its work can be stopped from here",
                         "Ctrl-C stops a bootcctl that does the work itself.").cancel()
    if job is None:
        raise Refused("the daemon does nothing that could be stopped")
    print(f"Stopping '{printable(job.kind)}', started by {printable(job.by)}; what it had finished is kept.")
    return 0


def change(options: Namespace, request: Callable[[Host], ChangeResult], *, direct: bool = False) -> int:
    """Do what `request` asks of the host, and show what it answers."""
    with host(options, direct=direct) as machine:
        result = request(machine)
    output.emit_json(result) if options.json else output.change(result)
    return 0
