# SPDX-License-Identifier: Apache-2.0
"""The verbs for those who watch machines: numbers, and the programs that are told what happens."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from pathlib import Path

from ..errors import BootcdError
from ..layout import Sysroot
from ..ops import hooks
from ..ops import metrics as numbers
from ..ops.last import load_told
from .hosts import host
from .text import printable


def metrics(options: Namespace) -> int:
    with host(options) as machine:
        status = machine.status()
    told = None
    with contextlib.suppress(BootcdError):  # it was counted by the daemon, which complains
        told = load_told(Sysroot(Path(status.sysroot)))
    sys.stdout.write(numbers.collect(status, told))
    return 0


def run_hooks(options: Namespace) -> int:
    hooks.run_waiting(lambda line: print(printable(line), flush=True), Path(options.notices))
    return 0
