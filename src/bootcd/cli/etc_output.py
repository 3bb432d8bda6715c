# SPDX-License-Identifier: Apache-2.0
"""What is told about /etc, as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops.results import EtcChanges, EtcDecision, EtcDiff, EtcReport, EtcReset, EtcRules
from .table import table
from .text import printable

_TAKEN = {"local": "the local version was kept", "image": "the image's version was taken",
          "both": "the local version was kept, the image's is beside it as"}
_SUFFIX = ".bootcd.rpmnew"


def decision(one: EtcDecision) -> str:
    """A path that both sides had changed, in one line."""
    if not one.taken:
        return printable(one.path)  # so many more
    both = f"{one.here} here" + (" and in the image" if one.here == one.image else f", {one.image} in the image")
    taken = _TAKEN.get(one.taken, one.taken) + (f" {name(one.path)}{_SUFFIX}" if one.taken == "both" else "")
    if one.taken == "local" and one.here == "deleted":
        taken = "it stays deleted"
    elif one.taken == "image" and one.image == "deleted":
        taken = "it is gone"
    return printable(f"{name(one.path)}: {both}; {taken}{f' ({one.rule})' if one.rule else ''}")


def decisions(changes: EtcChanges) -> Iterator[str]:
    """A line for each path that both sides had changed."""
    if changes.decisions:
        yield from map(decision, changes.decisions)
    else:  # made by a version that did not note them
        yield from (printable(f"{name(path)}: changed here and in the image; {_TAKEN['local']}")
                    for path in changes.both_changed)


def deleted(changes: EtcChanges) -> list[str]:
    """What is deleted here, while the image left it as it was."""
    decided = {one.path for one in changes.decisions}
    return [path for path in changes.deleted if path not in decided]


def name(path: str) -> str:
    """A path below /etc as people write it. What only says how many more there are stays as it is."""
    return "/etc" if path == "." else path if path.startswith("…") else f"/etc/{path}"


def report(value: EtcReport) -> None:
    print(_of(value.id, value.version))
    changes = value.etc
    told = False
    for title, lines in (
        ("Changed here and in the image:", list(decisions(changes))),
        ("Changed only here:", [printable(name(path)) for path in _only_here(changes)]),
        ("Added here:", [printable(name(path)) for path in changes.added]),
        ("Deleted here:", [printable(name(path)) for path in deleted(changes)]),
    ):
        if lines:
            told = True
            print(title)
            for line in lines:
                print(f"  {line}")
    if not told:
        print("Nothing was changed here when it was merged.")


def _only_here(changes: EtcChanges) -> list[str]:
    decided = {one.path for one in changes.decisions}
    return [path for path in changes.kept_local if path not in decided]


def diff(value: EtcDiff) -> None:
    if not value.differences:
        print(f"{_of(value.id, value.version)}: /etc is as the image has it.")
        return
    if not any(one.text for one in value.differences):
        table((one.kind, name(one.path), ", ".join(one.what)) for one in value.differences)
        return
    for one in value.differences:
        print(printable(f"{one.kind} {name(one.path)}" + (f": {', '.join(one.what)}" if one.what else "")))
        for line in one.text.splitlines():
            print(printable(line.expandtabs()))


def reset(value: EtcReset) -> None:
    words = {"replaced": "would be set back", "restored": "would be restored", "removed": "would be moved away"}
    done = {"replaced": "is set back", "restored": "is restored", "removed": "is moved away, since the image has none"}
    for one in value.items:
        if one.outcome == "unchanged":
            print(printable(f"{name(one.path)} is as the image has it."))
            continue
        what = (words if value.dry_run else done).get(one.outcome, one.outcome)
        print(printable(f"{name(one.path)} {what}" + (f"; old version: {name(one.aside)}" if one.aside else "") + "."))


def rules(value: EtcRules) -> None:
    for warning in value.warnings:
        print(printable(f"Warning: {warning}"))
    if not value.rules:
        print(printable(f"No rule is about {name(value.path)}." if value.path else "There are no rules."))
        print("Local changes win; a file on one side and a directory on the other stop the upgrade.")
        return
    rows = [("MERGE", "PATTERN", "FROM", "WHY")]
    table(rows + [(one.merge, one.pattern, one.source, one.why) for one in value.rules])
    if value.path and len(value.rules) > 1:
        print("The first rule decides.")


def _of(deployment_id: str, version: str) -> str:
    return printable(f"Deployment {deployment_id[:12]}" + (f" (version {version})" if version else ""))
