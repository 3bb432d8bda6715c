# SPDX-License-Identifier: Apache-2.0
"""The verbs about /etc, which need the trees of images and therefore work in this process."""

from __future__ import annotations

from argparse import Namespace

from . import etc_output, output
from .hosts import host


def diff(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.etc_diff(options.deployment, text=options.text)
    output.emit_json(result) if options.json else etc_output.diff(result)
    return 0


def report(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.etc_report(options.deployment)
    output.emit_json(result) if options.json else etc_output.report(result)
    return 0


def reset(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.etc_reset(options.paths, dry_run=options.dry_run)
    output.emit_json(result) if options.json else etc_output.reset(result)
    return 0


def rules(options: Namespace) -> int:
    with host(options, direct=True) as machine:
        result = machine.etc_rules(options.path)
    output.emit_json(result) if options.json else etc_output.rules(result)
    return 0
