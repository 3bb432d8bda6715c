# SPDX-License-Identifier: Apache-2.0
"""What a distribution gets: the project as meson installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def meson_install(build: Path, *options: str, destination: Path | None = None) -> None:
    """Install into `destination`, or where the options (meson's) say, by way of a build directory of its own.

    Without what is written in C, which takes long: the extension, and what belongs to the initrd. Raises
    CalledProcessError.
    """
    def meson(*arguments: str | Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for ninja
        environment = os.environ | {"PATH": path, "DESTDIR": str(destination or "")}
        subprocess.run([sys.executable, "-m", "mesonbuild.mesonmain", *arguments], env=environment, check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)

    meson("setup", build, ROOT, "-Dfsverity=disabled", "-Dsetup_root=disabled", *options)
    meson("install", "-C", build)
