# SPDX-License-Identifier: Apache-2.0
"""One pull: what others measure. As a program, without the tools of the tests, which take longer to load than a small
image takes to pull.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.runs import Run, run


def pull(reference: str, sysroot: Path, *options: str) -> Run:
    """How long it takes, and how much memory. `options` are those of the program."""
    return run([sys.executable, "-m", "benchmarks.pull", *options, reference, str(sysroot)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pull", description=__doc__)
    parser.add_argument("reference")
    parser.add_argument("sysroot", type=Path, help="with a repository or without")
    parser.add_argument("--parallel", type=int, default=3, help="layers at a time (%(default)s)")
    parser.add_argument("--forget", action="store_true", help="do not keep the bytes of a broken download")
    parser.add_argument("--way", choices=("by-delta", "by-file", "whole"), default="whole")
    parser.add_argument("--bytes", type=Path, help="a file for the number of bytes that came")
    options = parser.parse_args()

    from bootcd.config import Config
    from bootcd.model import SilentProgress
    from bootcd.ops.direct import DirectHost
    from bootcd.registry import partial
    from bootcd.store.repository import Repository

    if options.forget:
        partial.SMALL = 1 << 62
    config = Config(pull_parallel=options.parallel, pull_by_file=options.way == "by-file",
                    pull_deltas=options.way == "by-delta")
    Repository.init(options.sysroot / "composefs").close()
    host = DirectHost(options.sysroot, None, config, SilentProgress())
    found = host.image_pull(options.reference, name="bench")
    if options.bytes is not None:
        options.bytes.write_text(str(found.stats.downloaded))


if __name__ == "__main__":
    main()
