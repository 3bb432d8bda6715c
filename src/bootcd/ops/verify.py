# SPDX-License-Identifier: Apache-2.0
"""Check the repository, and repair what can be repaired without the network."""

from __future__ import annotations

from ..store import fsck
from .machine import Machine
from .results import FsckItem, FsckResult
from .session import change, look


def verify(machine: Machine, *, repair: bool, metadata_only: bool) -> FsckResult:
    """Run fsck; with `repair`, remove what is damaged and name what has to be pulled again."""
    if not repair:
        with look(machine) as session:
            report = fsck.check(session.repository, metadata_only=metadata_only, progress=session.progress)
            return _result(report, repaired=False, pull_again=())
    with change(machine) as session:
        report = fsck.check(session.repository, metadata_only=metadata_only, progress=session.progress)
        pull_again: tuple[str, ...] = ()
        if not report.ok:
            pull_again = tuple(fsck.repair(session.repository, report))
        return _result(report, repaired=not report.ok, pull_again=pull_again)


def _result(report: fsck.FsckReport, *, repaired: bool, pull_again: tuple[str, ...]) -> FsckResult:
    return FsckResult(
        ok=report.ok or (repaired and not pull_again),
        objects=report.objects, streams=report.streams, images=report.images,
        findings=tuple(FsckItem(finding.kind, finding.what, finding.detail) for finding in report.findings),
        repaired=repaired, pull_again=pull_again,
    )
