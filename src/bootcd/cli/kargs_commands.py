# SPDX-License-Identifier: Apache-2.0
"""The verbs about kernel arguments."""

from __future__ import annotations

from argparse import Namespace

from . import output
from .commands import change
from .hosts import host
from .table import table
from .text import printable


def show(options: Namespace) -> int:
    with host(options) as machine:
        result = machine.kargs_show()
    if options.json:
        output.emit_json(result)
        return 0
    version = f" (version {result.version})" if result.version else ""
    print(printable(f"Deployment {result.id[:12]}{version} boots next."))
    table([("OWNER", "ARGUMENT"), *((one.owner, one.argument) for one in result.kargs)])
    if result.kargs_on_trial:
        print("They have not booted well yet. If they do not, those from before are taken again.")
    if result.sealed:
        print("They are sealed into a UKI: only the image can change them.")
    if result.without_effect:
        named = ", ".join(f"{one.argument} ({one.owner})" for one in result.without_effect)
        print(printable(f"The seal forbids what this machine would add: {named}"))
    if result.pending is not None:
        print(printable(f"The files in /etc/bootcd/kargs.d ask for {' '.join(result.pending) or 'nothing'} by now; "
                        "'bootcctl kargs reload' takes that, and so does the next upgrade."))
    if result.problem:
        print(printable(f"The files in /etc/bootcd/kargs.d cannot be used: {result.problem}"))
    if result.running:
        print(printable(f"The kernel runs with {' '.join(result.running)}"))
    return 0


def add(options: Namespace) -> int:
    return change(options, lambda machine: machine.kargs_add(options.arguments))


def remove(options: Namespace) -> int:
    return change(options, lambda machine: machine.kargs_remove(options.arguments))


def replace(options: Namespace) -> int:
    return change(options, lambda machine: machine.kargs_replace(options.old, options.new))


def reload(options: Namespace) -> int:
    return change(options, lambda machine: machine.kargs_reload())
