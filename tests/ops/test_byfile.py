# SPDX-License-Identifier: Apache-2.0
"""Layers that are pulled by file: the same result for fewer bytes, or the whole layer."""

from __future__ import annotations

import base64
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.errors import BlobNotFound, BootcdError, DiffIdMismatch, LayerTooLarge
from bootcd.formats.fsverity import measure
from bootcd.store import fsck
from bootcd.store.layers import layer_name
from bootcd.store.repository import Repository
from kit.chunked import PREFIX, ChunkedLayer
from kit.images import Dir, Entry, File, ImageBuilder, Layer, Symlink, sha256
from kit.pull_machine import Machine, State
from kit.pulling import serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen

FILES = 150
ZEROS = base64.b64encode(bytes(1 << 20)).decode()


@cache
def files(changed: int = 0) -> tuple[Entry, ...]:
    """About 4 MB that do not compress; `changed` of the small files have another content of the same size."""
    rng, other = random.Random(1), random.Random(changed)
    sizes = [rng.choice((0, 20, 60, 300, 4000, 9000, 40_000)) for _ in range(FILES - 2)] + [1_500_000, 300_000]
    touched = set(random.Random(7).sample([number for number in range(FILES - 2) if sizes[number]], changed))
    entries: list[Entry] = [Dir("usr"), Dir("usr/lib"), Symlink("usr/link", "lib")]
    for number, size in enumerate(sizes):
        content = rng.randbytes(size)
        entries.append(File(f"usr/lib/{number:03}", other.randbytes(size) if number in touched else content,
                            xattrs={"user.n": b"%d" % number} if number % 9 == 0 else {}))
    return tuple(entries)


OLD = ImageBuilder([Layer(files())])
"""What is here already came as gzip."""


@pytest.fixture
def empty(tmp_path: Path) -> Machine:
    Repository.init(tmp_path / "sysroot" / "composefs").close()
    return Machine(tmp_path / "sysroot")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sysroot with `OLD` in it."""
    directory = tmp_path_factory.mktemp("old")
    Repository.init(directory / "sysroot" / "composefs").close()
    OLD.write_layout(directory / "layout", "1")
    Machine(directory / "sysroot").pull(f"oci:{directory}/layout:1")
    return directory / "sysroot"


@pytest.fixture
def machine(old: Path, tmp_path: Path) -> Machine:
    shutil.copytree(old, tmp_path / "sysroot", symlinks=True)
    return Machine(tmp_path / "sysroot")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> State:
    """What a pull of all bytes makes of `files(changed=6)`."""
    return whole(tmp_path_factory.mktemp("whole"), ImageBuilder([Layer(files(changed=6))]))


def whole(directory: Path, image: ImageBuilder) -> State:
    """What a pull of all bytes makes of an image."""
    Repository.init(directory / "other" / "composefs").close()
    image.write_layout(directory / "layout", "1")
    other = Machine(directory / "other")
    other.pull(f"oci:{directory}/layout:1")
    return other.state(image)


def offered(server: ScriptedServer, layer: Layer) -> tuple[ImageBuilder, str]:
    image = ImageBuilder([layer])
    serve_image(server, image)
    return image, f"{server.host}/os:1"


def parts(server: ScriptedServer) -> list[str]:
    return [seen.headers["range"] for seen in server.seen if "range" in seen.headers]


class TestTheSame:
    @pytest.mark.parametrize("tar_split", [True, False])
    def test_result(self, machine: Machine, server: ScriptedServer, same: State, tar_split: bool) -> None:
        layer = ChunkedLayer(files(changed=6), tar_split=tar_split)
        image, name = offered(server, layer)
        stats = machine.pull(name)
        assert machine.state(image) == same
        assert "is fetched by file" in str(machine.progress)
        assert machine.progress.done == machine.progress.total == len(layer.blob)
        assert stats.downloaded + stats.reused == len(layer.blob)
        blobs = [seen for seen in server.seen if layer.digest in seen.path]
        sent = sum(int(last) - int(first) + 1 for first, last in
                   (seen.headers["range"].removeprefix("bytes=").split("-") for seen in blobs))
        assert stats.downloaded == sent
        # Without tar-split, headers lie between the files, and most files are smaller than what is not worth a request.
        assert sent < len(layer.blob) * (0.1 if tar_split else 0.75)
        assert stats.objects_written <= 6

    def test_nothing_is_new(self, machine: Machine, server: ScriptedServer, tmp_path: Path) -> None:
        """Another order, another mode: no content has to come."""
        layer = ChunkedLayer([Dir("usr"), *(File(f"usr/{n}", e.content, mode=0o600)
                                            for n, e in enumerate(reversed(files())) if isinstance(e, File))])
        image, name = offered(server, layer)
        stats = machine.pull(name)
        assert machine.state(image) == whole(tmp_path, image)
        assert (len(parts(server)), stats.objects_written) == (2, 0)

    def test_files_that_are_there_twice(self, machine: Machine, server: ScriptedServer, tmp_path: Path) -> None:
        twice = [File(f"usr/{n}", b"new" * 300_000) for n in range(2)]
        image, name = offered(server, ChunkedLayer([*files(), *twice, File("usr/lib/000", b"again")]))
        machine.pull(name)
        assert machine.state(image) == whole(tmp_path, image)

    @pytest.mark.skipif(not available(), reason="docker-registry is not installed")
    def test_a_real_registry(self, machine: Machine, tmp_path: Path, same: State) -> None:
        layer = ChunkedLayer(files(changed=6))
        image = ImageBuilder([layer])
        with RegistryServer(tmp_path / "registry") as registry:
            push(image, f"{registry.address}/os:1")
            stats = machine.pull(f"{registry.address}/os:1")
        assert machine.state(image) == same
        assert stats.downloaded < len(layer.blob) // 10

    def test_through_a_mirror(self, machine: Machine, server: ScriptedServer, tmp_path: Path, same: State) -> None:
        layer = ChunkedLayer(files(changed=6))
        image, _ = offered(server, layer)
        registries = tmp_path / "registries.conf"
        registries.write_text(
            f'[[registry]]\nlocation = "127.0.0.1:1/os"\n[[registry.mirror]]\nlocation = "{server.host}/os"\n')
        machine.config = Config(registry_registries_file=str(registries))
        stats = machine.pull("127.0.0.1:1/os:1")
        assert machine.state(image) == same
        assert stats.downloaded < len(layer.blob) // 10

    @pytest.mark.skipif(not available() or shutil.which("skopeo") is None, reason="no docker-registry, or no skopeo")
    def test_pushed_by_skopeo(self, machine: Machine, tmp_path: Path) -> None:
        image = ImageBuilder([Layer(files(changed=6), compression=None)])
        image.write_layout(tmp_path / "plain", "1")
        with RegistryServer(tmp_path / "registry") as registry:
            name = f"{registry.address}/os:1"
            done = subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
                                   "--dest-compress-format", "zstd:chunked", f"oci:{tmp_path}/plain:1",
                                   f"docker://{name}"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            stats = machine.pull(name)
            assert "is fetched by file" in str(machine.progress)
            assert stats.reused > stats.downloaded / 2
            with Repository.open(machine.path / "composefs") as repository:
                assert fsck.check(repository).ok
                assert repository.streams.has(layer_name(image.layers[0].diff_id))


class TestWhole:
    """When the whole layer is fetched at once, or after all."""

    def test_nothing_is_here(self, empty: Machine, server: ScriptedServer) -> None:
        _, name = offered(server, ChunkedLayer(files()))
        empty.pull(name)
        assert parts(server) == []

    def test_not_wanted(self, machine: Machine, server: ScriptedServer) -> None:
        machine.config = Config(pull_by_file=False)
        layer = ChunkedLayer(files(changed=6))
        _, name = offered(server, layer)
        assert machine.pull(name).downloaded == len(layer.blob)
        assert parts(server) == []

    def test_most_is_new(self, machine: Machine, server: ScriptedServer) -> None:
        layer = ChunkedLayer([Dir("usr"), File("usr/a", os.urandom(1 << 20))])
        _, name = offered(server, layer)
        stats = machine.pull(name)
        table = int(layer.annotations[PREFIX + "manifest-position"].split(":")[1])
        assert stats.downloaded == len(layer.blob) + table
        assert "most of it is new" in str(machine.progress)
        assert machine.progress.done == machine.progress.total

    @pytest.mark.parametrize(("reply", "why"), [
        (Reply(ranges=False), "sends all of it when asked for a part"),
        (Reply(416), "has less than"),
        (Reply(206), "sends another part"),
        (Reply(206, headers={"Content-Range": "bytes 0-9/10"}), "sends another part"),
    ])
    def test_no_parts(self, machine: Machine, server: ScriptedServer, same: State, reply: Reply, why: str) -> None:
        layer = ChunkedLayer(files(changed=6))
        image, name = offered(server, layer)

        def answer(seen: Seen) -> Reply:
            return replace(reply, body=layer.blob) if "range" in seen.headers else Reply(body=layer.blob)

        server.serve(f"/v2/os/blobs/{layer.digest}", answer)
        machine.pull(name)
        assert why in str(machine.progress)
        assert machine.progress.done == machine.progress.total
        assert machine.state(image) == same

    @pytest.mark.parametrize(("change", "why"), [
        (lambda layer: layer.annotations.update({PREFIX + "manifest-checksum": sha256(b"")}), "has digest sha256:"),
        (lambda layer: layer.annotations.update({PREFIX + "manifest-position": "9:9:9:9"}), "makes no sense"),
        (lambda layer: layer.annotations.update({PREFIX + "manifest-position": "9:99999999999:9:1"}), "makes no sense"),
        (lambda layer: layer.contents.update(tarSplitDigest=sha256(b"")), "has digest sha256:"),
        (lambda layer: layer.contents.update(version=2), "expected 1"),
        (lambda layer: swapped(layer, "digest"), "diff ID"),
        (lambda layer: swapped(layer, "size"), "differ on the size"),
        (lambda layer: changed(layer)[-1].update(endOffset=changed(layer)[-1]["endOffset"] - 1), "zstd data ends"),
        (lambda layer: changed(layer)[0].update(offset=changed(layer)[0]["offset"] + 1), "not valid zstd"),
        (lambda layer: changed(layer)[0].update(offset=1), "overlap"),
        (lambda layer: layer.contents["entries"].remove(changed(layer)[0]), "differ on the size"),
        (lambda layer: layer.lines.pop(-2), "files of the table of contents"),
        (lambda layer: layer.lines.pop(-1), "diff ID"),
        (lambda layer: layer.lines.insert(0, {"type": 2, "payload": ZEROS}), "diff ID"),
        (lambda layer: layer.lines.insert(0, {"type": 7}), "not known"),
    ], ids=range(15))
    def test_lies(
        self, machine: Machine, server: ScriptedServer, same: State, change: Callable[[ChunkedLayer], object],
        why: str,
    ) -> None:
        layer = ChunkedLayer(files(changed=6))
        change(layer)
        image, name = offered(server, layer)
        stats = machine.pull(name)
        assert "is fetched whole" in str(machine.progress)
        assert machine.progress.done == machine.progress.total == len(layer.blob)
        assert stats.downloaded >= len(layer.blob)
        assert machine.state(image) == same
        assert why in str(machine.progress)

    def test_an_image_that_is_wrong_itself(self, machine: Machine, server: ScriptedServer) -> None:
        image = ImageBuilder([ChunkedLayer(files(changed=6))])
        image.config["rootfs"]["diff_ids"] = [sha256(b"")]
        serve_image(server, image)
        with pytest.raises(DiffIdMismatch):
            machine.pull(f"{server.host}/os:1")
        assert "whole after all" in str(machine.progress)
        with Repository.open(machine.path / "composefs") as repository:
            assert not repository.streams.has(layer_name(sha256(b"")))
            assert fsck.check(repository).ok

    def test_a_bomb(self, machine: Machine, server: ScriptedServer) -> None:
        _, name = offered(server, ChunkedLayer([*files(), File("usr/bomb", bytes(64 << 20))]))
        machine.config = Config(pull_max_layer_size=16 << 20)
        with pytest.raises(LayerTooLarge):
            machine.pull(name)


class TestTrouble:
    def test_a_run_that_breaks_off(self, machine: Machine, server: ScriptedServer, tmp_path: Path) -> None:
        layer = ChunkedLayer([*files(), File("usr/new", os.urandom(300_000))])
        image, name = offered(server, layer)
        answers = iter([Reply(body=layer.blob)] * 2 + [Reply(body=layer.blob, cut_after=100_000)])
        server.serve(f"/v2/os/blobs/{layer.digest}", lambda seen: next(answers, Reply(body=layer.blob)))
        stats = machine.pull(name)
        assert machine.state(image) == whole(tmp_path, image)
        first, again = parts(server)[2:]
        assert first.split("-")[1] == again.split("-")[1]
        assert int(again[6:].split("-")[0]) > int(first[6:].split("-")[0])
        assert stats.downloaded < len(layer.blob) // 4

    def test_an_object_that_is_damaged(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        large = files()[-2]
        assert isinstance(large, File)
        with Repository.open(machine.path / "composefs") as repository:
            path = repository.objects.path(measure(large.content, repository.algorithm))
        with open(path, "r+b") as stream:
            stream.write(b"????")
        layer = ChunkedLayer(files(changed=6))
        image, name = offered(server, layer)
        stats = machine.pull(name)
        assert len(large.content) < stats.downloaded < len(layer.blob) * 0.7
        assert machine.state(image) == same  # it was written anew

    def test_one_that_is_gone_in_the_middle(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        """Found, and not there when it is needed."""
        large = files()[-1]
        assert isinstance(large, File)
        with Repository.open(machine.path / "composefs") as repository:
            path = repository.objects.path(measure(large.content, repository.algorithm))
        layer = ChunkedLayer(files(changed=6))
        image, name = offered(server, layer)

        def answer(seen: Seen) -> Reply:
            if len(parts(server)) == 2:  # tar-split, after the look for what is here
                os.unlink(path)
            return Reply(body=layer.blob)

        server.serve(f"/v2/os/blobs/{layer.digest}", answer)
        machine.pull(name)
        assert "whole after all" in str(machine.progress)
        assert "is missing" in str(machine.progress)
        assert machine.state(image) == same

    @pytest.mark.parametrize("silent", [True, False])
    def test_a_look_ends_with_the_pull(self, machine: Machine, server: ScriptedServer, silent: bool) -> None:
        """A server that does not send the table of one layer keeps nobody from ending because of another one."""
        slow, missing = ChunkedLayer(files(changed=6)), Layer([File("usr/new", os.urandom(5000))])
        serve_image(server, ImageBuilder([slow, missing]))
        asked = threading.Event()

        def stall(seen: Seen) -> Reply:
            asked.set()
            if silent:
                server.sleep(60)
            return Reply(body=slow.blob, cut_after=0, stall=60)

        def refuse(seen: Seen) -> Reply:
            assert asked.wait(10)
            return Reply(404)

        server.serve(f"/v2/os/blobs/{slow.digest}", stall)
        server.serve(f"/v2/os/blobs/{missing.digest}", refuse)
        began = time.monotonic()
        with pytest.raises(BlobNotFound):
            machine.pull(f"{server.host}/os:1")
        assert time.monotonic() - began < 15

    def test_the_registry_is_gone_in_the_middle(self, machine: Machine, server: ScriptedServer) -> None:
        layer = ChunkedLayer(files(changed=6))
        _, name = offered(server, layer)
        answers = iter([Reply(body=layer.blob)] * 3)
        server.serve(f"/v2/os/blobs/{layer.digest}", lambda seen: next(answers, Reply(404)))
        with pytest.raises(BootcdError, match="does not have it"):
            machine.pull(name)
        with Repository.open(machine.path / "composefs") as repository:
            assert not repository.streams.has(layer_name(layer.diff_id))
            assert fsck.check(repository).ok


def changed(layer: ChunkedLayer) -> list[dict[str, object]]:
    """Entries of the table of contents whose files are not in `OLD`."""
    known = {sha256(entry.content) for entry in files() if isinstance(entry, File)}
    return [entry for entry in layer.contents["entries"] if entry.get("digest", None) not in (None, *known)]


def swapped(layer: ChunkedLayer, key: str) -> None:
    """Let two files that are here say of themselves what is true of the other."""
    known = {sha256(entry.content) for entry in files() if isinstance(entry, File)}
    small = [entry for entry in layer.contents["entries"] if entry.get("digest") in known and entry["size"] <= 9000]
    one, other = small[0], next(entry for entry in small if entry[key] != small[0][key]
                                and (key == "size" or entry["size"] == small[0]["size"]))
    one[key], other[key] = other[key], one[key]
