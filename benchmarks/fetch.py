# SPDX-License-Identifier: Apache-2.0
"""Downloads from a registry: what keeping the bytes of a broken download costs one that does not break, and what
several layers at a time gain, on loopback and over a link that gives each connection so much and no more.

Run as a program it is that link: `python -m benchmarks.fetch DIRECTORY`, which prints its port.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.pull import pull
from benchmarks.report import Report
from benchmarks.runs import Run, fresh, run
from kit.debian import PROGRAMS
from kit.images import Dir, File, ImageBuilder, Layer
from kit.push import push
from kit.registry_server import RegistryServer, available

LAYERS = 4
RATE = 8 << 20
"""Bytes that the slow link gives a connection in a second."""
DELAY = 0.05
"""Seconds that it takes to answer."""
_PIECE = 64 << 10


def measure(report: Report, work: Path, repeat: int, quick: bool) -> None:
    """All of it, in turns, the fastest of each counts."""
    made = image(4 << 20 if quick else 48 << 20)
    size = sum(len(layer.blob) for layer in made.layers)

    def compare(reference: str, *ways: tuple[str, ...]) -> list[Run]:
        runs = [[pull(reference, fresh(work / "sysroot"), *way) for way in ways] for _ in range(repeat)]
        return [min(column, key=lambda one: one.seconds) for column in zip(*runs, strict=True)]

    os.environ["PATH"] += os.pathsep + str(PROGRAMS)
    what = f"{LAYERS} layers, {size / 1e6:.0f} MB"
    if available():
        with RegistryServer(work / "registry") as registry:
            push(made, f"{registry.address}/os:1")
            kept, without, alone = compare(f"{registry.address}/os:1", (), ("--forget",), ("--parallel", "1"))
            others = list(peers(registry.address, work, repeat))
        report.ratio(f"loopback, {what}: bytes are kept", kept, without, "<= 1.05 x", " (not)")
        report.ratio("  three at a time", kept, alone, "<= 1.0 x", " (one)")
        for name, theirs in others:
            report.ratio(f"  against {name}", kept, theirs, "<= 1.0 x", f" ({name.split()[0]})")
    with link(made, work / "link") as address:
        together, alone = compare(f"{address}/os:1", (), ("--parallel", "1"))
    report.ratio(f"{RATE >> 20} MiB/s for a connection: three at a time", together, alone, "<= 0.6 x", " (one)")


def peers(address: str, work: Path, repeat: int) -> Iterator[tuple[str, Run]]:
    """What others take for the same image: skopeo stores the layers as they come, cfsctl does what we do."""
    reference = f"docker://{address}/os:1"
    if shutil.which("skopeo"):
        copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", reference, f"dir:{work}/copy"]
        yield "skopeo copy to dir:", _fastest(lambda: fresh(work / "copy"), copy, repeat)
    if shutil.which("cfsctl"):
        def begin() -> None:
            fresh(work / "cfsctl")
            subprocess.run(["cfsctl", "--repo", work / "cfsctl", "init", "--insecure"], check=True, capture_output=True)

        # It has skopeo fetch, which looks there for whom it may talk to without TLS.
        registries = work / ".config/containers/registries.conf"
        registries.parent.mkdir(parents=True, exist_ok=True)
        registries.write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        theirs = ["env", f"HOME={work}", "cfsctl", "--repo", str(work / "cfsctl"), "oci", "pull", reference, "bench"]
        yield "cfsctl oci pull", _fastest(begin, theirs, repeat)


def _fastest(begin: Callable[[], object], command: list[str], repeat: int) -> Run:
    runs = []
    for _ in range(repeat):
        begin()
        runs.append(run(command))
    return min(runs, key=lambda one: one.seconds)


def image(size: int) -> ImageBuilder:
    """Layers that hold so many bytes each, in files as they are in a system, half of them compressible."""
    layers = []
    for number in range(LAYERS):
        rng = random.Random(number)
        files: list[Dir | File] = [Dir("usr"), Dir(f"usr/{number}")]
        left = size
        while left > 0:
            count = min(left, int(rng.lognormvariate(9.5, 1.9)) + 1)
            files.append(File(f"usr/{number}/{len(files)}", (rng.randbytes(count // 2 + 1) + bytes(count))[:count]))
            left -= count
        layers.append(Layer(files, compression="zstd"))
    return ImageBuilder(layers)


@contextmanager
def link(made: ImageBuilder, directory: Path) -> Iterator[str]:
    """The address of a server of that image, a process of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in {**{digest: data for digest, (_, data) in made.manifests().items()}, **made.blobs(),
                       "1": made.manifest_bytes}.items():
        (directory / name).write_bytes(data)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.fetch", str(directory)],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def serve(directory: Path) -> None:
    """Answer slowly, until somebody ends this process."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = directory / self.path.rpartition("/")[2]
            data = path.read_bytes() if path.is_file() else b"{}"
            time.sleep(DELAY)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            if "manifests" in self.path:
                self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            self.end_headers()
            began = time.monotonic()
            for start in range(0, len(data), _PIECE):
                self.wfile.write(data[start : start + _PIECE])
                time.sleep(max(began + (start + _PIECE) / RATE - time.monotonic(), 0))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
