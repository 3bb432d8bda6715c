# SPDX-License-Identifier: Apache-2.0
"""Results as text for people, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..model import size_text
from ..ops.resultjson import to_json
from ..ops.results import (
    ChangeResult,
    CheckResult,
    CollectResult,
    DeploymentInfo,
    DiskResult,
    Explanation,
    FsckResult,
    ImageInfo,
    PullStats,
    Status,
)
from . import chain_output, etc_output, trust_output
from .jobs import RunningJob
from .table import table
from .text import counted, printable

_SHOWN = 5
"""Paths of /etc that the status of a deployment names."""


def emit_json(value: Any) -> None:
    json.dump(to_json(value), sys.stdout, indent=2, ensure_ascii=True)
    print()


def status(value: Status, running: RunningJob | None = None) -> None:
    if not value.deployments:
        print("No deployments.")
    for info in value.deployments:
        deployment(info)
    if value.chain is not None:
        print("Checks")
        table(chain_output.rows(value.chain))
    left = next((info for info in value.deployments if info.id == value.fell_back_from), None)
    if left is not None:
        print(printable(f"Fell back: version {left.version or left.id[:12]} does not work here: {left.health_reason}"))
    if running is not None:
        print(f"Running: {printable(running.text())}")
    if value.update is not None:
        _known_update(value.update, value.update_time)
    if value.last is not None and value.last.state != "succeeded":
        last = value.last
        print(printable(f"Last operation: '{last.verb}' {last.state} {last.ended}: {last.message}"))
        if last.advice:
            print(f"  {printable(last.advice)}")
    if value.unfinished:
        print(f"Unfinished: '{printable(value.unfinished)}' was cut off; the next command that changes anything "
              "completes it.")
    for warning in value.warnings:
        print(f"Warning: {printable(warning)}")


def _known_update(update: CheckResult, when: str) -> None:
    """What an earlier check found. What is staged already stands among the deployments."""
    version = f"version {update.version}" if update.version else update.manifest_digest
    if update.rejected:
        print(printable(f"Update: {version} is not taken: {update.rejected}."))
    elif update.available:
        print(printable(f"Update: {version} is available, {size_text(update.download_size)} to download "
                        f"(checked {when})."))


def deployment(info: DeploymentInfo) -> None:
    roles = ", ".join(info.roles) or "kept"
    print(f"{info.id[:12]}  {printable(info.title or info.version or 'untitled')}  [{roles}]")
    rows = [("  image", info.image), ("  digest", info.manifest_digest)]
    if info.version:
        rows.append(("  version", info.version + (f" (built {info.created})" if info.created else "")))
    rows += trust_output.verification(info)
    rows.append(("  staged", info.staged))
    if info.generation is not None:
        rows.append(("  generation", str(info.generation)))
    if info.reset:
        rows.append(("  reset", f"at shutdown: {'/etc' if info.reset == 'etc' else '/etc and /var'}"))
    if info.health != "untried":
        rows.append(("  health", f"{info.health}: {info.health_reason}" if info.health_reason else info.health))
    own = [one for one in info.kargs if one.owner not in ("bootcd", "image")]
    if own:
        rows.append(("  arguments", ", ".join(f"{one.argument} ({one.owner})" for one in own)))
    if info.kargs_on_trial:
        rows.append(("  on trial", "these kernel arguments: until they have booted well, those from before are kept"))
    rows += [("  pin", f"{pin.label or '(no label)'}, since {pin.time}") for pin in info.pins]
    decided = list(etc_output.decisions(info.etc))
    rows += [("  /etc", line) for line in decided[:_SHOWN]]
    if decided[_SHOWN:]:
        rows.append(("  /etc", f"and {len(decided) - _SHOWN} more: 'bootcctl etc report {info.id[:12]}'"))
    gone = etc_output.deleted(info.etc)
    if gone:
        rows.append(("  /etc deleted here", ", ".join(gone[:_SHOWN])
                     + (f" and {len(gone) - _SHOWN} more" if gone[_SHOWN:] else "")))
    table(rows)
    print()


def deployments(infos: Sequence[DeploymentInfo]) -> None:
    if not infos:
        print("No deployments.")
        return
    rows = [("ID", "GENERATION", "VERSION", "ROLES", "PINS", "IMAGE")]
    rows += [
        (info.id[:12], str(info.generation or "-"), info.version or "-", ",".join(info.roles) or "-",
         ",".join(pin.label or "(no label)" for pin in info.pins) or "-", info.image)
        for info in infos
    ]
    table(rows)


def explanation(value: Explanation) -> None:
    print(printable(value.summary))
    table((f"  {one.verdict}", one.kind, one.name[:12] if one.kind == "deployment" else one.name[:44],
           size_text(one.size) if one.size else "", one.why) for one in value.reasons)


def check(result: CheckResult) -> None:
    if result.staged:
        print(printable(f"Version {result.current_version or 'unknown'} of {result.image} is staged already."))
        return
    if not result.available:
        print(f"No newer image at {printable(result.image)} "
              f"(version {printable(result.current_version or 'unknown')}).")
        return
    if result.rejected:
        print(printable(f"{result.image} offers an image that this machine does not take: {result.rejected}."))
        return
    print(f"{printable(result.image)} offers version {printable(result.version or 'unknown')}"
          + (f", built {printable(result.created)}" if result.created else "") + f" ({result.manifest_digest}).")
    print(f"To download: {size_text(result.download_size)} in {result.layers_missing} of {result.layers} layers; "
          f"{size_text(result.reused_size)} are here already.")


def pull_stats(stats: PullStats) -> None:
    print(f"Layers: {stats.layers_fetched} of {stats.layers} fetched, {size_text(stats.downloaded)} downloaded, "
          f"{size_text(stats.reused)} not fetched again.")
    reused = f", {stats.objects_reused} with {size_text(stats.object_bytes_reused)} were here already"
    print(f"Files: {counted(stats.objects_written, 'new object')} with {size_text(stats.object_bytes_written)}"
          f"{reused if stats.objects_reused else ''}.")


def change(result: ChangeResult) -> None:
    if result.pull is not None:
        pull_stats(result.pull)
    print(printable(result.message))
    if result.deployment is not None:
        for line in etc_output.decisions(result.deployment.etc):
            print(f"  {line}")
    if result.collected is not None and result.collected.items:
        collected(result.collected)


def disk(result: DiskResult) -> None:
    print(printable(f"Disk {result.disk}, {size_text(result.size)}"))
    for what in result.erased:
        print(printable(f"{'Would erase' if result.dry_run else 'Erased'} {what}"))
    made = "Would make" if result.dry_run else "Made"
    table([(f"{made} partition {number}", one.name, size_text(one.size), one.content)
           for number, one in enumerate(result.partitions, 1)])
    if result.change is not None:
        change(result.change)
    if result.recovery_key:
        print("Recovery key of the root file system, which is kept nowhere and not shown again:")
        print(f"  {result.recovery_key}")


def collected(result: CollectResult) -> None:
    verb = "Would remove" if result.dry_run else "Removed"
    for item in result.items:
        what = f"{item.name[:12]}" if item.kind in ("deployment", "state", "image name") else item.name
        print(f"{verb} {item.kind} {printable(what)}: {item.why}"
              + (f" ({size_text(item.size)})" if item.size else ""))
    if result.dry_run:
        for item in result.kept:
            print(f"Keeps {item.kind} {item.name[:12]}: {item.why}")
    print(f"{verb} {counted(result.objects, 'object')} with {size_text(result.object_bytes)}, "
          f"{counted(result.images, 'image')} and {counted(result.streams, 'stream')}.")


def fsck(result: FsckResult) -> None:
    print(f"Checked {counted(result.objects, 'object')}, {counted(result.streams, 'stream')} and "
          f"{counted(result.images, 'image')}.")
    for finding in result.findings:
        print(f"  {finding.kind}: {printable(finding.what)}: {printable(finding.detail)}")
    if result.repaired:
        print("Damaged objects were removed.")
    for name in result.pull_again:
        print(f"  pull again: {printable(name)}")
    print("The repository is sound." if result.ok else f"{counted(len(result.findings), 'error')}.")


def images(infos: Iterable[ImageInfo]) -> None:
    rows = [("NAME", "DIGEST", "VERSION", "LAYERS", "IMAGE")]
    rows += [(info.name, info.manifest_digest[:19], info.version or "-", str(info.layers), info.id[:12] or "-")
             for info in infos]
    table(rows)


def image(info: ImageInfo) -> None:
    rows = [("name", info.name), ("manifest", info.manifest_digest), ("config", info.config_digest),
            ("image", info.id or "-"), ("boot image", info.boot_id or "-"), ("version", info.version or "-"),
            ("created", info.created or "-"), ("architecture", info.architecture), ("layers", str(info.layers))]
    rows += [(f"label {key}", value) for key, value in sorted(info.labels.items())]
    table(rows)
