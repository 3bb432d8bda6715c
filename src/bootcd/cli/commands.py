# SPDX-License-Identifier: Apache-2.0
"""The verbs about deployments: call the host, show what it answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import config
from ..errors import ConfigError
from ..ops.direct import DirectHost
from ..ops.host import Host
from ..ops.results import ChangeResult
from . import output
from .progress import watching

NO_UPDATE = 77
"""Exit status of `upgrade --check` when there is nothing newer, as rpm-ostree has it."""


@contextmanager
def host(options: Namespace) -> Iterator[Host]:
    """The machine that the options are about."""
    if options.config is not None and not Path(options.config).exists():
        raise ConfigError(f"{options.config}: no such file")
    settings = config.load([Path(options.config)]) if options.config is not None else config.load()
    with watching(options.quiet) as progress:
        yield DirectHost(Path(options.sysroot), Path(options.esp) if options.esp else None, settings, progress)


def status(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.status()
    output.emit_json(result) if options.json else output.status(result)
    return 0


def list_deployments(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.status().deployments
    output.emit_json(result) if options.json else output.deployments(result)
    return 0


def upgrade(options: Namespace) -> int:
    if options.check:
        with host(options) as machine:
            found = machine.check()
        output.emit_json(found) if options.json else output.check(found)
        return 0 if found.available and not found.rejected else NO_UPDATE
    return _change(options, lambda machine: machine.upgrade(
        download_only=options.download_only, allow_rejected=options.allow_rejected))


def switch(options: Namespace) -> int:
    return _change(options, lambda machine: machine.switch(options.image, download_only=options.download_only))


def rollback(options: Namespace) -> int:
    return _change(options, lambda machine: machine.rollback(options.deployment))


def pin(options: Namespace) -> int:
    return _change(options, lambda machine: machine.pin(options.deployment, options.label))


def unpin(options: Namespace) -> int:
    return _change(options, lambda machine: machine.unpin(options.deployment, options.label))


def unstage(options: Namespace) -> int:
    return _change(options, lambda machine: machine.unstage())


def finalize(options: Namespace) -> int:
    return _change(options, lambda machine: machine.finalize())


def install(options: Namespace) -> int:
    return _change(options, lambda machine: machine.install(options.image, kargs=options.karg))


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


def _change(options: Namespace, request: Callable[[Host], ChangeResult]) -> int:
    with host(options) as machine:
        result = request(machine)
    output.emit_json(result) if options.json else output.change(result)
    return 0
