# SPDX-License-Identifier: Apache-2.0
"""Makes a program believe that the machine runs the deployment BOOTED, whose id is read from that file.

A directory with this module in PYTHONPATH does it for the daemon and its workers: what runs is otherwise told by the
kernel, and a test cannot boot.
"""

import os
from pathlib import Path

from bootcd.boot import booted

booted.read_booted = lambda sysroot: Path(os.environ["BOOTED"]).read_text()
