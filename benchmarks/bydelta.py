# SPDX-License-Identifier: Apache-2.0
"""An update in which every fiftieth file changed here and there, from a registry: by a delta, by file, and whole.

The delta is one of oci-delta where that is installed; else of the small writer that the tests have.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.byfile import FULL, ONE_IN, QUICK
from benchmarks.image import write_tar
from benchmarks.pull import pull
from benchmarks.report import Report
from kit import deltas
from kit.chunked import ChunkedLayer
from kit.deltas import TAR_DIFF, DeltaBuilder
from kit.images import ImageBuilder, Layer
from kit.push import push
from kit.registry_server import RegistryServer, available

WAYS = ("by-delta", "by-file", "whole")


def measure(report: Report, work: Path, repeat: int, quick: bool) -> None:
    """In turns, the fastest counts; not at all without a registry."""
    if not available():
        return
    shape = QUICK if quick else FULL
    work.mkdir(parents=True)
    for name, changed in (("old", 0), ("new", ONE_IN)):
        write_tar(work / name, shape, 1, changed, partly=True)
    with RegistryServer(work / "registry") as registry:
        repository = f"{registry.address}/os"
        old, new = f"{repository}:old", f"{repository}:new"
        size = _publish(work, repository)
        pull(old, work / "installed")
        rounds = []
        for _ in range(repeat):
            one = []
            for way in WAYS:
                shutil.rmtree(work / "sysroot", ignore_errors=True)
                shutil.copytree(work / "installed", work / "sysroot", symlinks=True)
                one.append((pull(new, work / "sysroot", "--way", way, "--bytes", str(work / "bytes")),
                            int((work / "bytes").read_text())))
            rounds.append(one)
    by_delta, by_file, whole = (min(column, key=lambda one: one[0].seconds) for column in zip(*rounds, strict=True))
    assert whole[1] == size
    report.line(f"1/{ONE_IN} of {shape.files} files changed a bit, delta: bytes", f"{by_delta[1] / size:.4f} x",
                "", f"{size / 1e6:.0f} MB", None)
    report.line("  against by file: bytes", f"{by_delta[1] / by_file[1]:.3f} x", "", f"{by_file[1] / 1e6:.1f} MB", None)
    report.ratio("  time on loopback", by_delta[0], whole[0], "", " (whole)")
    report.ratio("  time of by file", by_file[0], whole[0], "", " (whole)")


def _publish(work: Path, repository: str) -> int:
    """Two versions and what leads from one to the other; the size of what is new."""
    before = ImageBuilder([Layer(tar=(work / "old").read_bytes(), compression="zstd")])
    after = ImageBuilder([ChunkedLayer(tar=(work / "new").read_bytes())])
    push(before, f"{repository}:old")
    push(after, f"{repository}:new")
    builder = DeltaBuilder(before, after)
    if deltas.available():
        (work / "tool").mkdir()
        made = deltas.blobs(deltas.oci_delta(work / "tool", before, after), TAR_DIFF)
        builder = DeltaBuilder(before, after, tar_diffs={0: made[0]})
        shutil.rmtree(work / "tool")
    deltas.attach(builder, repository)
    return len(after.layers[0].blob)
