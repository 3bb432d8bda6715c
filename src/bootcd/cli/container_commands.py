# SPDX-License-Identifier: Apache-2.0
"""`bootcctl container`: tools for who builds images. They need neither a daemon nor an installation."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..errors import LintFailed
from . import container_output, output


def lint(options: Namespace) -> int:
    from ..ops import lint as linting
    from ..ops.lints.subject import Subject
    from ..ops.rootfs import Rootfs

    if options.list:
        container_output.lints()
        return 0
    previous = Rootfs(Path(options.previous)).tree if options.previous is not None else None
    subject = Subject(Rootfs(Path(options.rootfs)), options.esp_budget, previous, tuple(options.allow_setuid))
    report = linting.lint(subject, skip=options.skip, fix=options.fix)
    if options.json:
        output.emit_json(report)
    elif options.sarif:
        container_output.sarif(report)
    else:
        container_output.lint_report(report)
    return LintFailed.exit_status if report.fails(warnings=options.fatal_warnings) else 0


def inspect(options: Namespace) -> int:
    from ..ops import inspect as inspecting
    from ..ops.lints.subject import Subject
    from ..ops.rootfs import Rootfs

    report = inspecting.inspect(Subject(Rootfs(Path(options.rootfs))))
    output.emit_json(report) if options.json else container_output.rootfs(report)
    return 0
