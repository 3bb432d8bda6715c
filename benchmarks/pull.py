# SPDX-License-Identifier: Apache-2.0
"""One pull into an empty repository: `python -m benchmarks.pull REFERENCE SYSROOT PARALLEL KEEP`.

A program without the tools of the tests, which take longer to load than a small image takes to pull.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bootcd.config import Config
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.registry import partial
from bootcd.store.repository import Repository


def pull(reference: str, sysroot: Path, parallel: int, keep: bool) -> None:
    """So many layers at a time; `keep` says whether the bytes of a broken download would be kept."""
    if not keep:
        partial.SMALL = 1 << 62
    Repository.init(sysroot / "composefs").close()
    DirectHost(sysroot, None, Config(pull_parallel=parallel), SilentProgress()).image_pull(reference)


if __name__ == "__main__":
    pull(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")
