# SPDX-License-Identifier: Apache-2.0
"""An update in which every fiftieth file changed, from a registry: the whole layer against the files that are new.

On loopback bytes cost nothing, so the time tells what it costs to look for files; by far most machines are behind a
slower line, where the bytes decide.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.image import Shape, write_tar
from benchmarks.pull import pull
from benchmarks.report import Report
from kit.chunked import ChunkedLayer
from kit.images import ImageBuilder, Layer
from kit.push import push
from kit.registry_server import RegistryServer, available

FULL = Shape(20_000, 400 << 20)
QUICK = Shape(5_000, 100 << 20)
ONE_IN = 50


def measure(report: Report, work: Path, repeat: int, quick: bool) -> None:
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
        pull(old, work / "installed")
        pairs = []
        for _ in range(repeat):
            pair = []
            for way in ("by-file", "whole"):
                shutil.rmtree(work / "sysroot", ignore_errors=True)
                shutil.copytree(work / "installed", work / "sysroot", symlinks=True)
                pair.append((pull(new, work / "sysroot", "--way", way, "--bytes", str(work / "bytes")),
                             int((work / "bytes").read_text())))
            pairs.append(pair)
    by_file, whole = (min(column, key=lambda one: one[0].seconds) for column in zip(*pairs, strict=True))
    assert whole[1] == size
    report.line(f"1/{ONE_IN} of {shape.files} files is new, by file: bytes", f"{by_file[1] / size:.3f} x",
                "<= 0.05 x", f"{size / 1e6:.0f} MB", None)
    report.ratio("  time on loopback", by_file[0], whole[0], "", " (whole)")
    report.line("  memory, whole layer", "", "", "", whole[0].memory)
