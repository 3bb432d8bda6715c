# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks of the whole daemon need: an installation, its process, and a source that never answers."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from kit.images import File, ImageBuilder, Layer
from kit.os_images import os_image
from kit.world import World

PATIENCE = 30.0


def install(directory: Path, version: str = "1.0") -> World:
    """An installation with one deployment, in which the administrator has changed something."""
    world = World(directory, lambda it: DirectHost(it.sysroot, it.esp, it.config, SilentProgress()), directory)
    info = world.install(os_image(version))
    (world.etc(info) / "hostname").write_text("machine\n")
    return world


def bulky(version: str, megabytes: float, files: int = 200) -> ImageBuilder:
    """An image whose import takes its time: nothing of it is in another version."""
    rng = Random(version)
    size = int(megabytes * 1e6 / files)
    return os_image(version, more=[Layer([File(f"usr/lib/{number}", rng.randbytes(size)) for number in range(files)])])


@contextmanager
def silent_source() -> Iterator[str]:
    """An image reference whose server accepts connections and says nothing: a job that reads it waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        yield f"docker://127.0.0.1:{server.getsockname()[1]}/os:latest"


def until(condition: Callable[[], object], what: str = "it", seconds: float = PATIENCE) -> None:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:g} seconds"
        time.sleep(0.01)


# --- a process, as /proc tells ----------------------------------------------------------------------------------------


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def children(pid: int) -> list[int]:
    """Its children, zombies included."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether it runs: it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def memory(pid: int, field: str = "Rss") -> int:
    """Kilobytes: Rss, Pss, Private_Dirty, …"""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)
