# SPDX-License-Identifier: Apache-2.0
"""The command line of `bootcctl container`: tools for who builds images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Verb = Callable[[str, str, str, Any], argparse.ArgumentParser]
"""Makes a verb of its name, its function, its help and the group that it belongs to."""


def add_verbs(container: Any, verb: Verb, size: Callable[[str], int]) -> None:
    """Add the verbs to the group."""
    lint = verb("lint", "container_commands:lint", "look for what would keep an image from working", container)
    _rootfs(lint)
    lint.add_argument("--fatal-warnings", action="store_true", help="fail for warnings as well")
    lint.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave a lint out; may be repeated")
    lint.add_argument("--esp-budget", type=size, default=0, metavar="SIZE",
                      help="how much of the boot partition the image may take")
    lint.add_argument("--previous", metavar="DIR", help="root directory of the image that comes before this one")
    lint.add_argument("--allow-setuid", action="append", default=[], metavar="PATTERN",
                      help="paths of programs that may be setuid; may be repeated")
    lint.add_argument("--fix", action="store_true", help="take away what can be without harm, and look again")
    how = lint.add_mutually_exclusive_group()
    how.add_argument("--list", action="store_true", help="only tell which lints there are, and why")
    how.add_argument("--json", action="store_true", help="print the result as JSON")
    how.add_argument("--sarif", action="store_true", help="print the result as SARIF 2.1.0, for CI systems")

    inspect = verb("inspect", "container_commands:inspect", "show what the image would make a machine boot", container)
    _rootfs(inspect)
    inspect.add_argument("--json", action="store_true", help="print the result as JSON")


def _rootfs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rootfs", default="/", metavar="DIR",
                        help="root directory of the image (default: %(default)s)")
