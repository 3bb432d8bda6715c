# SPDX-License-Identifier: Apache-2.0
"""Looks through the root directory of an image for what would keep it from working (`ops.lints.table`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import Refused, UsageError
from .lints.subject import Found, Lint, Subject, text
from .lints.table import LINTS
from .rootfs import Rootfs


@dataclass(frozen=True, slots=True)
class Finding:
    """What a lint has found: `path` as in the image, `level` is fatal or warning, `fixed` says that it was."""

    lint: str
    level: str
    path: str
    message: str
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class LintReport:
    """Everything that was found, and the names of the lints that were made."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]

    def fails(self, *, warnings: bool) -> bool:
        """Whether anything fatal is left, or anything at all where `warnings` count."""
        return any(not one.fixed and (warnings or one.level == "fatal") for one in self.findings)


def lint(subject: Subject, *, skip: Iterable[str] = (), fix: bool = False) -> LintReport:
    """Make every lint but those of `skip`; with `fix`, take away what can be without harm, and look again.

    Raises UsageError for a name that no lint has, or an image that is to be mended, Refused where mending would break a
    seal, and BootcdError for what cannot be read or changed, or changes meanwhile.
    """
    left_out = set(skip)
    unknown = sorted(left_out - {one.name for one in LINTS})
    if unknown:
        raise UsageError(f"there is no lint '{unknown[0]}'", advice="'bootcctl container lint --list' has their names.")
    wanted = [one for one in LINTS if one.name not in left_out]
    if fix and not isinstance(subject.root, Rootfs):
        raise UsageError("an image is not mended", advice="Unpack it, name the directory, and make a new image of it.")
    fixed = _fix(subject, wanted) if fix else []
    if fixed:
        assert isinstance(subject.root, Rootfs)
        subject = replace(subject, root=Rootfs(subject.root.path))
    found = [_finding(one, what) for one in wanted for what in one.check(subject)]
    left = {(one.lint, one.path) for one in found}
    mended = [replace(_finding(one, what), fixed=True) for one, what in fixed]
    return LintReport((*(one for one in mended if (one.lint, one.path) not in left), *found),
                      tuple(one.name for one in wanted))


def _fix(subject: Subject, wanted: list[Lint]) -> list[tuple[Lint, Found]]:
    found = [(one, what) for one in wanted if one.fix is not None for what in one.check(subject)]
    if found and subject.ukis:
        raise Refused("the image has a UKI, whose digest would no longer be that of the tree",
                      advice="Run it with --fix before the UKI is made.")
    for one, what in found:
        assert one.fix is not None
        one.fix(subject, what)
    return found


def _finding(one: Lint, found: Found) -> Finding:
    return Finding(one.name, "fatal" if one.fatal else "warning", text(found.path), found.what)
