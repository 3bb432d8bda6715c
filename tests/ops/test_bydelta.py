# SPDX-License-Identifier: Apache-2.0
"""Layers that are made by deltas: the same result for fewer bytes; or the whole layer, or the reason why not."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootcd.config import Config
from bootcd.errors import BlobMismatch, BootcdError, DeltaUnusable, DiffIdMismatch, LayerTooLarge, OciError
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.ops.direct import DirectHost
from bootcd.ops.trees import canonical
from bootcd.store import fsck
from bootcd.store.layers import has_layer
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from kit import artifacts, deltas
from kit.chunked import ChunkedLayer
from kit.deltas import PREFIX, DeltaBuilder, copied, data, opened, sought, tar_diff
from kit.images import Dir, Entry, File, Hardlink, ImageBuilder, Layer, Whiteout, sha256
from kit.pull_machine import Machine, Notes, State
from kit.pulling import serve_image
from kit.push import push
from kit.registry_server import RegistryServer, available
from kit.scripted_server import Reply, ScriptedServer, Seen


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def files(version: int) -> list[Entry]:
    """About 1.3 MB that do not compress; with each version, a bit of some files is another."""
    large = bytearray(noise(1, 800_000))
    large[500_000:500_020] = noise(version, 20)
    return [Dir("usr"), Dir("run"), File("usr/large", bytes(large)), File("usr/same", noise(2, 400_000)),
            File("usr/longer", bytes(version) + noise(3, 100_000)), File("usr/small", b"version %d" % version),
            File("run/kept", noise(4, 5000)), Hardlink("usr/linked", "usr/same")]


SAME = Layer([Dir("usr"), Dir("etc"), File("etc/same", noise(5, 20_000))], compression="zstd")
OLD = ImageBuilder([SAME, Layer(files(1)), Layer([File("usr/gone", noise(6, 100_000))]), Layer([Whiteout("usr/gone")])])
NEW = ImageBuilder([SAME, Layer(files(2)), Layer([File("usr/new", noise(7, 50_000))])])


def lacks(machine: Machine, image: ImageBuilder) -> bool:
    """Whether there is nothing of an image but what was there, and all of that is sound."""
    with Repository.open(machine.path / "composefs") as repository:
        assert fsck.check(repository).findings == []
        return not OciImages(repository).has(image.manifest_digest) and not has_layer(
            repository, image.layers[1].diff_id)


def made(directory: Path, *images: ImageBuilder) -> Machine:
    """A machine that has pulled all of these, byte for byte."""
    Repository.init(directory / "sysroot" / "composefs").close()
    machine = Machine(directory / "sysroot")
    for number, image in enumerate(images):
        image.write_layout(directory / "layout", str(number))
        machine.pull(f"oci:{directory}/layout:{number}", "it" if number == len(images) - 1 else str(number))
    return machine


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("old"), OLD).path


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> State:
    """What the whole of `NEW` makes."""
    return made(tmp_path_factory.mktemp("new"), NEW).state(NEW)


@pytest.fixture
def machine(old: Path, tmp_path: Path) -> Machine:
    shutil.copytree(old, tmp_path / "sysroot", symlinks=True)
    return Machine(tmp_path / "sysroot")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


class TestInPlaceOfAnImage:
    @pytest.mark.parametrize("form", ["archive", "directory", "typed", "named"])
    def test_result(self, machine: Machine, tmp_path: Path, same: State, form: str) -> None:
        builder = DeltaBuilder(OLD, NEW)
        place = f"oci:{tmp_path}/stick"
        if form == "archive":
            builder.write_archive(tmp_path / "stick")
            place = f"oci-archive:{tmp_path}/stick"
        elif form == "typed":
            builder.write_layout(tmp_path / "stick", artifactType=deltas.DELTA)
        elif form == "named":
            builder.write_layout(tmp_path / "stick", annotations={"org.opencontainers.image.ref.name": "update"})
            place += ":update"
        else:
            builder.write_layout(tmp_path / "stick")
        stats = machine.pull(place)
        assert machine.state(NEW) == same
        assert stats.downloaded == builder.size < 200_000
        assert stats.downloaded + stats.reused == sum(len(layer.blob) for layer in NEW.layers)
        assert machine.progress.done == machine.progress.total
        assert stats.objects_written == 3  # large, longer, new

    @pytest.mark.skipif(not deltas.available(), reason="oci-delta is not installed")
    def test_made_by_oci_delta(self, machine: Machine, tmp_path: Path, same: State) -> None:
        place = deltas.oci_delta(tmp_path, OLD, NEW)
        stats = machine.pull(f"oci-archive:{place}")
        assert machine.state(NEW) == same
        assert stats.downloaded < 200_000

    def test_by_its_digest(self, machine: Machine, tmp_path: Path, same: State) -> None:
        """Of the image that it leads to."""
        DeltaBuilder(OLD, NEW).write_layout(tmp_path / "stick")
        machine.pull(f"oci:{tmp_path}/stick@{NEW.manifest_digest}")
        assert machine.state(NEW) == same
        with pytest.raises(BootcdError, match="the layout has no image"):
            machine.pull(f"oci:{tmp_path}/stick@{OLD.manifest_digest}")

    def test_an_image_beside_it_goes_first(self, machine: Machine, tmp_path: Path, same: State) -> None:
        builder = DeltaBuilder(OLD, NEW)
        builder.write_layout(tmp_path / "stick")
        (tmp_path / "stick/index.json").unlink()
        NEW.write_layout(tmp_path / "stick", "1")
        artifacts.ArtifactBuilder(NEW, deltas.DELTA).write_layout(tmp_path / "stick")
        assert machine.pull(f"oci:{tmp_path}/stick").downloaded > 1_000_000
        assert machine.state(NEW) == same

    def test_layers_that_are_whole(self, machine: Machine, tmp_path: Path, same: State) -> None:
        """As they are, or compressed in another way: the diff ID tells that they are the same."""
        builder = DeltaBuilder(OLD, NEW, whole=[1])
        again = Layer(files(2), compression=None)
        for layer in builder.manifest["layers"]:
            if layer["annotations"].get(PREFIX + "to") == NEW.layers[1].digest:
                layer.update(mediaType="application/vnd.oci.image.layer.v1.tar", size=len(again.blob),
                             digest=builder._blob(again.blob))
        builder.write_layout(tmp_path / "stick")
        machine.pull(f"oci:{tmp_path}/stick")
        assert machine.state(NEW) == same

    def test_what_is_here_need_not_be_in_it(self, tmp_path: Path, same: State) -> None:
        """All layers are here, under other images; the old image is not."""
        machine = made(tmp_path, ImageBuilder([*NEW.layers, SAME]))
        builder = DeltaBuilder(OLD, NEW)
        builder.manifest["layers"] = builder.manifest["layers"][:2]
        builder.write_layout(tmp_path / "stick")
        assert machine.pull(f"oci:{tmp_path}/stick").downloaded == 0
        assert machine.state(NEW) == same

    def test_the_old_image_by_its_manifest_alone(self, machine: Machine, tmp_path: Path, same: State) -> None:
        builder = DeltaBuilder(OLD, NEW)
        del builder.manifest["annotations"][PREFIX + "source-config"]
        builder.write_layout(tmp_path / "stick")
        machine.pull(f"oci:{tmp_path}/stick")
        assert machine.state(NEW) == same

    @pytest.mark.parametrize("change", [
        lambda m: m["annotations"].update({PREFIX + "source-config": sha256(b"x"), PREFIX + "source": sha256(b"y")}),
        lambda m: m.pop("annotations"),
        lambda m: m["layers"].pop(2),
    ], ids=["another image", "nothing is said", "no such layer"])
    def test_what_does_not_lead_from_here_is_refused(self, machine: Machine, tmp_path: Path,
                                                     change: Callable[[dict[str, Any]], object]) -> None:
        builder = DeltaBuilder(OLD, NEW)
        change(builder.manifest)
        builder.write_layout(tmp_path / "stick")
        with pytest.raises(DeltaUnusable, match=f"oci:{tmp_path}/stick: the delta to image {NEW.manifest_digest}"):
            machine.pull(f"oci:{tmp_path}/stick")
        assert lacks(machine, NEW)

    def test_an_empty_machine_needs_the_whole_image(self, tmp_path: Path) -> None:
        machine = made(tmp_path, ImageBuilder([SAME]))
        DeltaBuilder(OLD, NEW).write_layout(tmp_path / "stick")
        with pytest.raises(DeltaUnusable, match=f"made from image {OLD.manifest_digest}, which is not here") as caught:
            machine.pull(f"oci:{tmp_path}/stick")
        assert "Take the whole image" in caught.value.hint

    @pytest.mark.parametrize(("wrong", "kind", "why"), [
        (b"junk", OciError, "no tar-diff"),
        (tar_diff([data(b"x" * 5000)])[:-9], OciError, "zstd data ends"),
        (tar_diff([opened("usr/none"), copied(1)]), DeltaUnusable, "needs the file 'usr/none'"),
        (tar_diff([opened("usr"), copied(1)]), DeltaUnusable, "needs the file 'usr'"),
        (tar_diff([opened("usr/gone"), copied(1)]), DeltaUnusable, "needs the file 'usr/gone'"),
        (tar_diff([opened("../../../../etc/passwd"), copied(1)]), DeltaUnusable, "needs the file"),
        (tar_diff([opened("usr/same"), sought(1 << 40), copied(1)]), OciError, "of 'usr/same', which has 400000"),
        (tar_diff([opened("usr/same"), copied(1 << 60)]), OciError, "of 'usr/same', which has 400000"),
        (tar_diff([data(bytes(10_240))]), DiffIdMismatch, "has diff ID"),
        (tar_diff([opened("usr/large"), *[sought(0), copied(800_000)] * 100]), BootcdError, "tar|diff ID"),
    ], ids=range(10))
    def test_lies(self, machine: Machine, tmp_path: Path, wrong: bytes, kind: type[BootcdError], why: str) -> None:
        DeltaBuilder(OLD, NEW, tar_diffs={1: wrong}).write_layout(tmp_path / "stick")
        with pytest.raises(kind, match=why):
            machine.pull(f"oci:{tmp_path}/stick")
        assert lacks(machine, NEW)
        NEW.write_layout(tmp_path / "whole", "1")
        machine.pull(f"oci:{tmp_path}/whole:1")

    def test_a_bomb(self, machine: Machine, tmp_path: Path) -> None:
        tar = Layer([*files(2), File("usr/zeros", bytes(40 << 20))]).tar
        start = len(tar) - (40 << 20) - 1024
        bomb = tar_diff([data(tar[:start]), data(bytes(40 << 20)), data(bytes(1024))])
        assert len(bomb) < len(tar) // 10
        DeltaBuilder(OLD, NEW, tar_diffs={1: bomb}).write_layout(tmp_path / "stick")
        machine.config = Config(pull_max_layer_size=16 << 20)
        with pytest.raises(LayerTooLarge):
            machine.pull(f"oci:{tmp_path}/stick")
        assert lacks(machine, NEW)

    def test_a_blob_that_was_changed(self, machine: Machine, tmp_path: Path) -> None:
        builder = DeltaBuilder(OLD, NEW)
        builder.write_layout(tmp_path / "stick")
        part = builder.manifest["layers"][2]
        path = tmp_path / "stick/blobs" / part["digest"].replace(":", "/")
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(BlobMismatch):
            machine.pull(f"oci:{tmp_path}/stick")
        assert lacks(machine, NEW)

    @pytest.mark.parametrize("what", ["image-manifest", "image-config"])
    def test_documents_that_were_changed(self, machine: Machine, tmp_path: Path, what: str) -> None:
        builder = DeltaBuilder(OLD, NEW)
        builder.write_layout(tmp_path / "stick")
        part = builder.manifest["layers"][what == "image-config"]
        path = tmp_path / "stick/blobs" / part["digest"].replace(":", "/")
        path.write_bytes(path.read_bytes().replace(b"layers", b"lAyers"))
        with pytest.raises(BlobMismatch):
            machine.pull(f"oci:{tmp_path}/stick")

    def test_an_archive_that_is_cut_off(self, machine: Machine, tmp_path: Path) -> None:
        path = tmp_path / "update.oci-delta"
        DeltaBuilder(OLD, NEW).write_archive(path)
        with tarfile.open(path) as archive:
            last = archive.getmembers()[-3]
        with path.open("r+b") as file:
            file.truncate(last.offset_data + 10)
        with pytest.raises(OciError):
            machine.pull(f"oci-archive:{path}")


class TestElsewhere:
    def test_doctor_tells_what_it_is(self, machine: Machine, tmp_path: Path) -> None:
        DeltaBuilder(OLD, NEW).write_layout(tmp_path / "stick")
        found = DirectHost(machine.path, None, Config(), Notes()).doctor(f"oci:{tmp_path}/stick")
        said = [line for step in found.steps for line in step.says]
        assert f"it is a delta, made from image {OLD.manifest_digest}, which has to be in the repository" in said
        assert next(step for step in found.steps if step.step == "manifest").facts["digest"] == NEW.manifest_digest

    def test_doctor_tells_that_the_old_image_is_not_here(self, tmp_path: Path) -> None:
        machine = made(tmp_path, ImageBuilder([SAME]))
        DeltaBuilder(OLD, NEW).write_layout(tmp_path / "stick")
        found = DirectHost(machine.path, None, Config(), Notes()).doctor(f"oci:{tmp_path}/stick")
        with pytest.raises(DeltaUnusable) as caught:
            machine.pull(f"oci:{tmp_path}/stick")
        assert (found.works, found.message) == (False, str(caught.value))
        assert (found.steps[-1].step, found.steps[-1].state) == ("layers", "failed")

    def test_it_has_no_tree(self, tmp_path: Path) -> None:
        DeltaBuilder(OLD, NEW).write_layout(tmp_path / "stick")
        with pytest.raises(DeltaUnusable, match="it is a delta"):
            canonical(f"oci:{tmp_path}/stick", Algorithm.SHA512)


def offered(server: ScriptedServer, *builders: DeltaBuilder, image: ImageBuilder = NEW) -> str:
    """An image at a registry, with deltas."""
    serve_image(server, image)
    if builders:
        deltas.serve(server, *builders)
    return f"{server.host}/os:1"


def asked(server: ScriptedServer, what: str) -> int:
    return sum(what in seen.path for seen in server.seen)


class TestAttached:
    def test_result(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        builder = DeltaBuilder(OLD, NEW)
        stats = machine.pull(offered(server, builder))
        assert machine.state(NEW) == same
        assert stats.downloaded == builder.manifest["layers"][2]["size"] + len(NEW.layers[2].blob)
        assert [seen for seen in server.seen if deltas.DELTA in seen.query.get("artifactType", ())]
        assert stats.downloaded + stats.reused == sum(len(layer.blob) for layer in NEW.layers)
        assert machine.progress.done == machine.progress.total
        assert "is made with a delta" in str(machine.progress)

    @pytest.mark.skipif(not available(), reason="docker-registry is not installed")
    def test_a_registry_without_a_list_of_referrers(self, machine: Machine, tmp_path: Path, same: State) -> None:
        builder = DeltaBuilder(OLD, NEW)
        with RegistryServer(tmp_path / "registry") as registry:
            name = f"{registry.address}/os"
            push(NEW, f"{name}:1")
            deltas.attach(builder, name)
            stats = machine.pull(f"{name}:1")
        assert machine.state(NEW) == same
        assert stats.downloaded < 100_000

    def test_the_best_one_is_taken(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        stranger = DeltaBuilder(ImageBuilder([SAME]), NEW)
        worse = DeltaBuilder(OLD, NEW, tar_diffs={1: tar_diff([data(NEW.layers[1].tar[:500_000])])})
        best = DeltaBuilder(OLD, NEW)
        broken = DeltaBuilder(OLD, NEW)
        broken.manifest["layers"].pop(0)
        machine.pull(offered(server, broken, worse, stranger, best))
        assert machine.state(NEW) == same
        assert asked(server, best.manifest["layers"][2]["digest"]) == 1

    def test_only_layers_of_which_it_saves_something(self, machine: Machine, server: ScriptedServer, same: State,
                                                     ) -> None:
        machine.pull(offered(server, DeltaBuilder(OLD, NEW)))
        assert machine.state(NEW) == same
        assert [asked(server, layer.digest) for layer in NEW.layers] == [0, 0, 1]

    def test_instead_of_by_file(self, machine: Machine, server: ScriptedServer) -> None:
        """A delta has parts of files."""
        image = ImageBuilder([SAME, ChunkedLayer(files(2))])
        machine.pull(offered(server, DeltaBuilder(OLD, image), image=image))
        assert asked(server, image.layers[1].digest) == 0
        assert "is made with a delta" in str(machine.progress)

    @pytest.mark.parametrize("wrong", [
        b"junk", tar_diff([data(b"x" * 5000)])[:-9], tar_diff([opened("usr/none"), copied(1)]),
        tar_diff([opened("usr/same"), copied(1 << 60)]), tar_diff([data(bytes(10_240))]),
    ], ids=range(5))
    def test_lies(self, machine: Machine, server: ScriptedServer, same: State, wrong: bytes) -> None:
        machine.pull(offered(server, DeltaBuilder(OLD, NEW, tar_diffs={1: wrong})))
        assert machine.state(NEW) == same
        assert "is fetched otherwise after all" in str(machine.progress)
        assert machine.progress.done == machine.progress.total
        assert asked(server, NEW.layers[1].digest) == 1

    def test_a_delta_that_is_gone(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        builder = DeltaBuilder(OLD, NEW)
        name = offered(server, builder)
        server.serve(f"/v2/os/blobs/{builder.manifest['layers'][2]['digest']}", Reply(404))
        machine.pull(name)
        assert machine.state(NEW) == same

    @pytest.mark.parametrize("answer", [
        Reply(404), Reply(403), Reply(body=b"{"), Reply(body=b'{"schemaVersion": 2, "manifests": [{}]}'),
    ], ids=range(4))
    def test_a_list_that_is_none(self, machine: Machine, server: ScriptedServer, same: State, answer: Reply) -> None:
        name = offered(server)
        server.serve(f"/v2/os/referrers/{NEW.manifest_digest}", answer)
        machine.pull(name)
        assert machine.state(NEW) == same

    def test_not_asked_for(self, machine: Machine, server: ScriptedServer, tmp_path: Path) -> None:
        """When that is not wanted, and when little is missing."""
        name = offered(server, DeltaBuilder(OLD, NEW))
        machine.config = Config(pull_deltas=False)
        machine.pull(name)
        machine.config = Config()
        little = ImageBuilder([*NEW.layers, Layer([File("etc/new", b"new")])])
        serve_image(server, little)
        machine.pull(name)
        assert not [seen for seen in server.seen if deltas.DELTA in seen.query.get("artifactType", ())]
        assert "delta" not in str(machine.progress)

    def test_manifests_that_are_large_are_left_out(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        """A hundred of 4 MiB would be more than most updates."""
        large, small = DeltaBuilder(OLD, NEW), DeltaBuilder(OLD, NEW)
        large.manifest["annotations"]["org.example.padding"] = "x" * (1 << 20)
        machine.pull(offered(server, large, small))
        assert machine.state(NEW) == same
        assert "is made with a delta" in str(machine.progress)
        assert [asked(server, one.manifest_digest) for one in (large, small)] == [0, 1]

    def test_no_more_than_max_download_even_in_vain(self, machine: Machine, server: ScriptedServer, same: State,
                                                    ) -> None:
        size = sum(len(layer.blob) for layer in NEW.layers[1:])
        wrong = tar_diff([data(noise(9, 600_000))])
        name = offered(server, DeltaBuilder(OLD, NEW, tar_diffs={1: wrong}))
        machine.config = Config(pull_max_download=size + 500_000)
        host = DirectHost(machine.path, None, machine.config, machine.progress, unattended=True)
        stats = host.image_pull(name, name="it").stats
        assert machine.state(NEW) == same
        assert stats.downloaded == size
        assert "it would be more than max-download" in str(machine.progress)

    def test_more_than_the_layer_can_have(self, machine: Machine, server: ScriptedServer, same: State) -> None:
        """What a delta gives is bounded by the size of the layer, long before it is by max-layer-size."""
        endless = tar_diff([data(Layer([File("usr/zeros", bytes(30_000_000))]).tar)])
        machine.pull(offered(server, DeltaBuilder(OLD, NEW, tar_diffs={1: endless})))
        assert machine.state(NEW) == same
        assert f"has more than {16 * len(NEW.layers[1].blob)} bytes when decompressed" in str(machine.progress)


class TestDoctor:
    """What it tells of layers is what a pull does then."""

    def told(self, machine: Machine, name: str) -> tuple[dict[str, str], str]:
        before = sorted(machine.path.rglob("*"))
        found = DirectHost(machine.path, None, machine.config, Notes()).doctor(name)
        assert found.works
        assert sorted(machine.path.rglob("*")) == before
        step = found.steps[-1]
        assert (step.step, step.state) == ("layers", "ok")
        return step.facts, "\n".join(step.says)

    def test_which_delta_and_what_it_is_for(self, machine: Machine, server: ScriptedServer) -> None:
        stranger, best = DeltaBuilder(ImageBuilder([SAME]), NEW), DeltaBuilder(OLD, NEW)
        name = offered(server, stranger, best)
        facts, said = self.told(machine, name)
        part = best.manifest["layers"][2]["size"]
        one, other = NEW.layers[1:]
        assert "2 of 3 layers are not here" in said
        assert f"delta {stranger.manifest_digest}: " in said
        assert f"is made from image {stranger.old.manifest_digest}, which is not here" in said
        assert f"delta {best.manifest_digest} would be used" in said
        assert f"layer {one.digest} would come by delta: {part} B in place of 1.3 MB" in said
        assert f"layer {other.digest} would come whole: 50.2 kB: the delta saves nothing of it" in said
        assert (facts["by-delta"], facts["by-file"], facts["whole"]) == ("1", "0", "1")
        assert facts["delta"] == best.manifest_digest
        assert facts["download-size"] == str(machine.pull(name).downloaded)
        facts, said = self.told(machine, name)
        assert said == "all layers are here"
        assert facts["missing"] == "0"

    def test_why_none_is_used(self, machine: Machine, server: ScriptedServer) -> None:
        chunked = ImageBuilder([SAME, ChunkedLayer(files(2))])
        name = offered(server, image=chunked)
        facts, said = self.told(machine, name)
        assert "no delta to the image is attached to it" in said
        assert facts["by-file"] == "1"
        machine.config = Config(pull_deltas=False, pull_by_file=False)
        facts, said = self.told(machine, name)
        assert "deltas is false in bootcd.toml" in said
        assert "by-file is false in bootcd.toml" in said
        assert facts["whole"] == "1"
        machine.config = Config()
        offered(server, image=NEW)
        server.serve(f"/v2/os/referrers/{NEW.manifest_digest}", Reply(403))
        facts, said = self.told(machine, name)
        assert "no deltas are looked for any more: " in said
        assert "or not in the format zstd:chunked" in said
        kept = machine.path / "state/bootcd/downloads" / NEW.layers[1].digest
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"x" * 1000)
        facts, said = self.told(machine, name)
        assert "an earlier pull has left 1.0 kB of its 1.3 MB" in said


class TestOldFilesThatChange:
    """While they are read, or before."""

    @pytest.mark.parametrize("how", ["gone", "cut", "changed", "link", "directory"])
    def test_the_layer_comes_whole(self, machine: Machine, server: ScriptedServer, how: str) -> None:
        name = offered(server, builder := DeltaBuilder(OLD, NEW))
        part = builder.manifest["layers"][2]
        with Repository.open(machine.path / "composefs") as repository:
            path = Path(repository.objects.path(measure(noise(2, 400_000), repository.algorithm)))

        def answer(seen: Seen) -> Reply:
            path.chmod(0o644)
            if how == "cut":
                os.truncate(path, 100_000)
            elif how == "changed":
                path.write_bytes(bytes(400_000))
            else:
                path.unlink()
            if how == "link":
                path.symlink_to("/etc/passwd")
            elif how == "directory":
                path.mkdir()
            return Reply(body=builder.blobs()[part["digest"]])

        server.serve(f"/v2/os/blobs/{part['digest']}", answer)
        if how == "directory":  # the object cannot be written either
            with pytest.raises(BootcdError, match="cannot write object"):
                machine.pull(name)
        else:
            machine.pull(name)
            with Repository.open(machine.path / "composefs") as repository:
                assert fsck.check(repository).findings == []
        assert "is fetched otherwise after all" in str(machine.progress)


PAD = noise(20, 10_000_000)
LARGE = ImageBuilder([SAME, Layer([*files(2), File("usr/pad", PAD), File("usr/zeros", bytes(20_000_000))],
                                  compression=None)])
"""Its delta is larger than what is fetched again as soon."""


class TestKept:
    def kept(self, machine: Machine) -> dict[str, int]:
        directory = machine.path / "state/bootcd/downloads"
        return {path.name: path.stat().st_size for path in directory.iterdir()} if directory.exists() else {}

    def complete(self, machine: Machine, image: ImageBuilder) -> bool:
        with Repository.open(machine.path / "composefs") as repository:
            return fsck.check(repository).ok and all(has_layer(repository, one.diff_id) for one in image.layers)

    def test_the_next_process_fetches_only_the_rest(self, machine: Machine, server: ScriptedServer) -> None:
        builder = DeltaBuilder(OLD, LARGE)
        name = offered(server, builder, image=LARGE)
        part = builder.manifest["layers"][2]
        path, content = f"/v2/os/blobs/{part['digest']}", builder.blobs()[part["digest"]]
        server.serve(path, Reply(body=content, cut_after=6_000_000, stall=60))
        command = [sys.executable, "-m", "bootcd.cli", "--sysroot", os.fspath(machine.path), "--quiet", "image", "pull",
                   name, "--name", "it"]
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as process:
            deadline = time.monotonic() + 30
            while sum(self.kept(machine).values()) < 4_000_000 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.kill()
        kept = self.kept(machine)
        assert list(kept) == [part["digest"]]
        assert kept[part["digest"]] >= 4_000_000
        server.sent.clear()
        server.serve(path, Reply(body=content))
        stats = machine.pull(name)
        assert server.sent[path] == stats.downloaded == len(content) - kept[part["digest"]]
        assert asked(server, LARGE.layers[1].digest) == 0
        assert machine.progress.done == machine.progress.total
        assert self.complete(machine, LARGE)
        assert self.kept(machine) == {}

    @pytest.mark.parametrize("kept", [bytes(6_000_000), b"x" * 100, b"", None],
                             ids=["zeros", "few", "none", "directory"])
    def test_what_is_wrong_is_fetched_anew(self, machine: Machine, server: ScriptedServer, kept: bytes | None) -> None:
        """As a power cut may leave it."""
        name = offered(server, builder := DeltaBuilder(OLD, LARGE), image=LARGE)
        part = builder.manifest["layers"][2]
        file = machine.path / "state/bootcd/downloads" / part["digest"]
        file.parent.mkdir(parents=True)
        if kept is None:
            file.mkdir()
        else:
            file.write_bytes(kept)
        machine.pull(name)
        assert ("it is fetched anew" in str(machine.progress)) == bool(kept)
        assert asked(server, LARGE.layers[1].digest) == 0
        assert machine.progress.done == machine.progress.total
        assert self.complete(machine, LARGE)

    def test_a_delta_that_does_not_do_is_not_kept(self, machine: Machine, server: ScriptedServer) -> None:
        wrong = tar_diff([data(noise(9, 9_000_000))])
        machine.pull(offered(server, DeltaBuilder(OLD, LARGE, tar_diffs={1: wrong}), image=LARGE))
        assert "is fetched otherwise after all" in str(machine.progress)
        assert self.complete(machine, LARGE)
        assert self.kept(machine) == {}
