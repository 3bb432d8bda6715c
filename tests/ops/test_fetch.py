# SPDX-License-Identifier: Apache-2.0
"""Downloads that arrive: after a kill, several layers at a time, within limits, on a disk that gets full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import BlobMismatch, BlobNotFound, DownloadTooLarge, Interrupted, RootFull
from bootcd.layout import Sysroot
from bootcd.ops.direct import DirectHost
from bootcd.ops.results import PullResult
from bootcd.registry import partial
from bootcd.store.layers import has_layer
from bootcd.store.repository import Repository
from kit import loopback
from kit.images import Dir, File, ImageBuilder, Layer
from kit.pulling import serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen

LAYERS = [Layer([Dir("usr"), File(f"usr/{number}", random.Random(number).randbytes(9_500_000 + number))],
                compression=kind) for number, kind in enumerate(("zstd", "gzip", None, "zstd"))]
IMAGE = ImageBuilder(LAYERS)
SIZE = sum(len(layer.blob) for layer in LAYERS)
ONE = ImageBuilder(LAYERS[:1])
FIRST = LAYERS[0]
PATIENCE = 20.0


class Watcher:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.notes: list[str] = []

    def begin(self, stage: str, total: int = 0) -> None:
        if total:
            self.total, self.done = total, 0

    def advance(self, count: int) -> None:
        self.done += count

    def note(self, message: str) -> None:
        self.notes.append(message)


@dataclass
class Place:
    """A sysroot with an empty repository, and a server."""

    sysroot: Sysroot
    server: ScriptedServer
    elsewhere: str = ""
    config: Config = field(default_factory=Config)
    progress: Watcher = field(default_factory=Watcher)
    unattended: bool = False

    @property
    def host(self) -> DirectHost:
        return DirectHost(self.sysroot.path, None, self.config, self.progress, unattended=self.unattended)

    @property
    def reference(self) -> str:
        return f"{self.elsewhere or self.server.host}/os:1"

    def pull(self, max_rate: int | None = None, max_download: int | None = None) -> PullResult:
        return self.host.image_pull(self.reference, name="os", max_rate=max_rate, max_download=max_download)

    def kept(self) -> dict[str, int]:
        directory = self.sysroot.downloads
        return {path.name: path.stat().st_size for path in directory.iterdir()} if directory.exists() else {}

    def check(self, image: ImageBuilder = IMAGE) -> None:
        """All layers are in, sound, and nothing is left over."""
        with Repository.open(self.sysroot.repository) as repository:
            assert all(has_layer(repository, layer.diff_id) for layer in image.layers)
        found = self.host.image_inspect("os")
        assert (found.manifest_digest, found.layers) == (image.manifest_digest, len(image.layers))
        assert self.kept() == {}

    def deployments(self) -> DirectHost:
        """A host that has a boot partition as well."""
        esp = self.sysroot.path.parent / "esp"
        (esp / "EFI").mkdir(parents=True, exist_ok=True)
        return DirectHost(self.sysroot.path, esp, self.config, self.progress)

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """`bootcctl image pull` on its own."""
        command = [sys.executable, "-m", "bootcd.cli", "--sysroot", os.fspath(self.sysroot.path), "--quiet",
                   "image", "pull", self.reference, "--name", "os", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as process:
            try:
                yield process
            finally:
                process.kill()

    def until_kept(self, size: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while sum(self.kept().values()) < size:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    Repository.init(tmp_path / "sysroot/composefs").close()
    with ScriptedServer() as server:
        serve_image(server, IMAGE)
        yield Place(Sysroot(tmp_path / "sysroot"), server)


def path(layer: Layer) -> str:
    return f"/v2/os/blobs/{layer.digest}"


def slow(layer: Layer) -> Reply:
    """As much as is kept within a moment, and then next to nothing."""
    return Reply(body=layer.blob, cut_after=6_000_000, stall=60)


class TestParallel:
    def test_three_at_a_time(self, place: Place) -> None:
        together = threading.Barrier(3)

        def answer(seen: Seen) -> Reply:
            together.wait(PATIENCE)
            return Reply(body=IMAGE.blobs()[seen.path.rpartition("/")[2]])

        for layer in LAYERS[:3]:
            place.server.serve(path(layer), answer)
        stats = place.pull().stats
        assert (stats.layers_fetched, stats.downloaded) == (4, SIZE)
        assert (place.progress.done, place.progress.total) == (SIZE, SIZE)
        place.check()

    def test_one_at_a_time(self, place: Place) -> None:
        place.config = Config(pull_parallel=1)
        place.pull()
        place.check()
        blobs = [asked for asked in place.server.paths() if asked in map(path, LAYERS)]
        assert blobs == [path(layer) for layer in LAYERS]

    @pytest.mark.parametrize("bad", [Reply(404), Reply(body=bytes(len(FIRST.blob)))], ids=["missing", "wrong"])
    def test_the_first_error_ends_the_others(self, place: Place, bad: Reply) -> None:
        for layer in LAYERS[1:]:
            place.server.serve(path(layer), slow(layer))

        def answer(seen: Seen) -> Reply:
            place.until_kept(10_000_000)
            return bad

        place.server.serve(path(FIRST), answer)
        began = time.monotonic()
        with pytest.raises((BlobNotFound, BlobMismatch), match=FIRST.digest):
            place.pull()
        assert time.monotonic() - began < 10
        kept = sum(place.kept().values())
        assert kept >= 10_000_000, "what came of the others is kept"
        place.server.sent.clear()
        serve_image(place.server, IMAGE)
        stats = place.pull().stats
        assert stats.downloaded == SIZE - kept
        assert sum(place.server.sent[path(layer)] for layer in LAYERS) == SIZE - kept
        place.check()

    def test_a_layer_that_another_one_has_too(self, place: Place) -> None:
        """The same file in all layers, so that several threads make the same object."""
        same = File("usr/same", random.Random(9).randbytes(2_000_000))
        image = ImageBuilder([Layer([Dir("usr"), same, File(f"usr/{number}", b"x" * 100)]) for number in range(6)])
        serve_image(place.server, image)
        stats = place.pull().stats
        assert stats.objects_written + stats.objects_reused == 12
        place.check(image)
        assert place.host.fsck().ok


class TestKilled:
    def test_the_next_process_fetches_only_the_rest(self, place: Place) -> None:
        for layer in LAYERS:
            place.server.serve(path(layer), slow(layer))
        with place.process() as process:
            place.until_kept(15_000_000)
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = place.kept()
        assert len(kept) == 3
        place.server.sent.clear()
        serve_image(place.server, IMAGE)
        stats = place.pull().stats
        assert stats.downloaded == SIZE - sum(kept.values())
        for layer in LAYERS:
            assert place.server.sent[path(layer)] == len(layer.blob) - kept.get(layer.digest, 0)
        place.check()
        assert place.host.fsck().ok

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(self, place: Place, number: signal.Signals) -> None:
        for layer in LAYERS:
            place.server.serve(path(layer), slow(layer))
        with place.process() as process:
            place.until_kept(15_000_000)
            began = time.monotonic()
            process.send_signal(number)
            _, said = process.communicate(timeout=PATIENCE)
            assert time.monotonic() - began < PATIENCE / 2
        assert process.returncode in (Interrupted.exit_status, -number), said
        assert "Traceback" not in said
        assert sum(place.kept().values()) >= 15_000_000

    @pytest.mark.skipif(not available(), reason="docker-registry is not installed")
    def test_a_real_registry(self, place: Place, tmp_path: Path) -> None:
        with RegistryServer(tmp_path / "registry") as registry:
            push(ONE, f"{registry.address}/os:1")
            place.elsewhere = registry.address
            with place.process("--max-rate", "2M") as process:
                place.until_kept(2_000_000)
                process.kill()
                process.wait()
            (kept,) = place.kept().values()
            stats = place.pull().stats
            assert stats.downloaded == len(FIRST.blob) - kept
            place.check(ONE)


class TestNothingIsTrusted:
    def keep(self, place: Place, data: bytes, layer: Layer = FIRST) -> None:
        place.sysroot.downloads.mkdir(parents=True)
        (place.sysroot.downloads / layer.digest).write_bytes(data)

    @pytest.mark.parametrize("layer", LAYERS[:3], ids=["zstd", "gzip", "plain"])
    @pytest.mark.parametrize("place_of_error", [0, 300, 4_000_000, -1])
    def test_a_file_with_wrong_bytes(self, place: Place, layer: Layer, place_of_error: int) -> None:
        data = bytearray(layer.blob[:6_000_000])
        data[place_of_error] ^= 0xFF
        self.keep(place, bytes(data), layer)
        image = ImageBuilder([layer])
        serve_image(place.server, image)
        place.pull()
        assert any("is wrong; it is fetched anew" in note for note in place.progress.notes)
        assert (place.progress.done, place.progress.total) == (len(layer.blob), len(layer.blob))
        place.check(image)

    @pytest.mark.parametrize("data", [b"", bytes(6_000_000), bytes(20_000_000), FIRST.blob + b"x"],
                             ids=["empty", "zeros", "too many zeros", "too long"])
    def test_a_file_after_a_power_cut(self, place: Place, data: bytes) -> None:
        self.keep(place, data)
        serve_image(place.server, ONE)
        place.pull()
        place.check(ONE)

    def test_the_server_has_other_bytes_now(self, place: Place) -> None:
        self.keep(place, FIRST.blob[:6_000_000])
        serve_image(place.server, ONE)
        place.server.serve(path(FIRST), Reply(body=bytes(len(FIRST.blob))))
        with pytest.raises(BlobMismatch):
            place.pull()
        assert place.kept() == {}

    def test_a_server_that_knows_no_ranges(self, place: Place) -> None:
        self.keep(place, FIRST.blob[:6_000_000])
        serve_image(place.server, ONE)
        place.server.serve(path(FIRST), Reply(body=FIRST.blob, ranges=False))
        place.pull()
        place.check(ONE)


class TestLeftovers:
    def test_cleanup_takes_what_nobody_goes_on_with(self, place: Place) -> None:
        TestNothingIsTrusted().keep(place, b"12345")
        told = place.deployments().cleanup(dry_run=True)
        assert [(item.kind, item.name, item.size) for item in told.items] == [("download", FIRST.digest, 5)]
        assert place.kept()
        assert place.deployments().cleanup().items == told.items
        assert place.kept() == {}

    def test_another_image_leaves_it_for_a_while(self, place: Place) -> None:
        other = LAYERS[3]
        TestNothingIsTrusted().keep(place, b"12345", other)
        serve_image(place.server, ONE)
        place.pull()
        assert place.kept() == {other.digest: 5}
        file = place.sysroot.downloads / other.digest
        os.utime(file, (time.time() - partial.OLD - 60,) * 2)
        place.pull()
        assert place.kept() == {}


class TestLimits:
    def test_rate_for_all_layers_together(self, place: Place) -> None:
        began = time.monotonic()
        place.pull(max_rate=16_000_000)
        assert time.monotonic() - began > SIZE / 16_000_000 - 0.7
        place.check()

    def test_a_run_that_nobody_waits_for(self, place: Place) -> None:
        place.config = Config(pull_max_download=SIZE - 1)
        place.unattended = True
        with pytest.raises(DownloadTooLarge, match=rf"{SIZE} bytes in 4 of 4 layers .* may download {SIZE - 1}"):
            place.pull()
        assert not {path(layer) for layer in LAYERS} & set(place.server.paths())
        place.unattended = False
        place.pull()
        place.check()

    def test_one_that_asks_for_it(self, place: Place) -> None:
        with pytest.raises(DownloadTooLarge):
            place.pull(max_download=1_000_000)
        place.pull(max_download=SIZE)

    def test_what_is_kept_counts_as_here(self, place: Place) -> None:
        TestNothingIsTrusted().keep(place, FIRST.blob[:6_000_000])
        with pytest.raises(DownloadTooLarge):
            place.pull(max_download=SIZE - 6_000_001)
        assert place.pull(max_download=SIZE - 6_000_000).stats.downloaded == SIZE - 6_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")
class TestRoom:
    @contextmanager
    def tight(self, place: Place, directory: Path, size: int) -> Iterator[Place]:
        with loopback.mounted(Path("tmpfs"), directory, "-t", "tmpfs", "-o", f"size={size}"):
            Repository.init(directory / "composefs").close()
            yield replace(place, sysroot=Sysroot(directory))

    def test_what_is_kept_gives_way(self, place: Place, tmp_path: Path) -> None:
        with self.tight(place, tmp_path / "tight", SIZE + 12_000_000) as tight:
            TestNothingIsTrusted().keep(tight, bytes(9_000_000), Layer([File("a", b"gone")]))
            tight.pull()
            tight.check()

    def test_no_room_at_all(self, place: Place, tmp_path: Path) -> None:
        with self.tight(place, tmp_path / "tight", SIZE) as tight:
            with pytest.raises(RootFull, match="still to come"):
                tight.pull()
            assert tight.host.fsck().ok
