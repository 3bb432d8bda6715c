# SPDX-License-Identifier: Apache-2.0
"""What the tools for building images show."""

from __future__ import annotations

import json

from .. import __version__
from ..formats import sarif as documents
from ..ops.lint import LintReport
from ..ops.lints.table import LINTS
from .text import printable


def lints() -> None:
    """Every lint there is."""
    for one in LINTS:
        print(f"{one.name} ({'fatal' if one.fatal else 'warning'}{', can be fixed' if one.fix else ''})")
        print(f"    {one.what[0].upper()}{one.what[1:]}.")
        print(f"    {one.why}")


def lint_report(report: LintReport) -> None:
    """One line for each finding, and how many there are."""
    for one in report.findings:
        print(printable(f"{'fixed' if one.fixed else one.level}: {one.lint}: {one.path} {one.message}"))
    left = [one for one in report.findings if not one.fixed]
    fatal = sum(one.level == "fatal" for one in left)
    print(f"{len(report.checked)} lints, {fatal} fatal findings, {len(left) - fatal} warnings, "
          f"{len(report.findings) - len(left)} fixed.")


def sarif(report: LintReport) -> None:
    """What is left, for CI systems."""
    rules = [documents.Rule(one.name, "error" if one.fatal else "warning", one.what, one.why) for one in LINTS
             if one.name in report.checked]
    results = [documents.Result(one.lint, one.path.encode(), one.message) for one in report.findings if not one.fixed]
    print(json.dumps(documents.document("bootcctl container lint", __version__, rules, results), indent=2))
