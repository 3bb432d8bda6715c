# SPDX-License-Identifier: Apache-2.0
"""An update in which every fiftieth file changed, from a registry: the whole layer against the files that are new.

On loopback bytes cost nothing, so the time tells what it costs to look for files; by far most machines are behind a
slower line, where the bytes decide. Run as a program it pulls once: `python -m benchmarks.byfile REFERENCE SYSROOT
WAY RESULT`, and writes the number of bytes that came into a file.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.image import Shape, write_tar
from kit.chunked import ChunkedLayer
from kit.images import ImageBuilder, Layer
from kit.push import push
from kit.registry_server import RegistryServer, available

if TYPE_CHECKING:
    from benchmarks.__main__ import Report, Run

FULL = Shape(20_000, 400 << 20)
QUICK = Shape(5_000, 100 << 20)
ONE_IN = 50


def measure(report: Report, work: Path, run: Callable[[list[str]], Run], repeat: int, quick: bool) -> None:
    """In turns, the fastest counts; not at all without a registry."""
    if not available():
        return
    shape = QUICK if quick else FULL
    work.mkdir(parents=True)
    layers = []
    for name, changed in (("old", 0), ("new", ONE_IN)):
        write_tar(work / name, shape, 1, changed)
        layers.append((work / name).read_bytes())
    with RegistryServer(work / "registry") as registry:
        old, new = f"{registry.address}/os:old", f"{registry.address}/os:new"
        push(ImageBuilder([Layer(tar=layers[0], compression="zstd")]), old)
        layer = ChunkedLayer(tar=layers[1])
        push(ImageBuilder([layer]), new)
        size = len(layer.blob)
        del layer
        layers.clear()
        pull(run, old, work / "installed", "by-file", work / "bytes")
        pairs = []
        for _ in range(repeat):
            pair = []
            for way in ("by-file", "whole"):
                shutil.rmtree(work / "sysroot", ignore_errors=True)
                shutil.copytree(work / "installed", work / "sysroot", symlinks=True)
                pair.append((pull(run, new, work / "sysroot", way, work / "bytes"),
                             int((work / "bytes").read_text())))
            pairs.append(pair)
    by_file, whole = (min(column, key=lambda one: one[0].seconds) for column in zip(*pairs, strict=True))
    assert whole[1] == size
    report.line(f"1/{ONE_IN} of {shape.files} files is new, by file: bytes", f"{by_file[1] / size:.3f} x",
                "<= 0.05 x", f"{size / 1e6:.0f} MB", None)
    report.ratio("  time on loopback", by_file[0], whole[0], "", " (whole)")
    report.line("  memory, whole layer", "", "", "", whole[0].memory)


def pull(run: Callable[[list[str]], Run], reference: str, sysroot: Path, way: str, result: Path) -> Run:
    """`way` is by-delta, by-file or whole."""
    return run([sys.executable, "-m", "benchmarks.byfile", reference, str(sysroot), way, str(result)])


def main(reference: str, sysroot: str, way: str, result: str) -> None:
    from bootcd.config import Config
    from bootcd.model import SilentProgress
    from bootcd.ops.direct import DirectHost
    from bootcd.store.repository import Repository

    Repository.init(Path(sysroot) / "composefs").close()
    config = Config(pull_by_file=way == "by-file", pull_deltas=way == "by-delta")
    host = DirectHost(Path(sysroot), None, config, SilentProgress())
    Path(result).write_text(str(host.image_pull(reference, name="bench").stats.downloaded))


if __name__ == "__main__":
    main(*sys.argv[1:])
