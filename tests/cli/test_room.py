# SPDX-License-Identifier: Apache-2.0
"""Little room and none: what does not fit is refused before it is downloaded where that can be known, a download ends
in time, what may go makes way, and on a disk without a free byte or inode everything that frees some works."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.errors import EspFull, RootFull
from bootcd.linux.room import Guard
from cli.conftest import Machine
from kit import deltas, loopback
from kit.deltas import DeltaBuilder, data, tar_diff
from kit.images import File, ImageBuilder, Layer
from kit.os_images import base_layer, os_image
from kit.pulling import serve_image
from kit.scripted_server import ScriptedServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")

INSTALL = ("install", "to-filesystem", "oci:layout:latest")


@contextlib.contextmanager
def ext4(directory: Path, size: str, *options: str) -> Iterator[Path]:
    """A small ext4 file system, all of it for everybody."""
    directory.mkdir(parents=True)
    file = directory / "disk"
    subprocess.run(["truncate", "-s", size, file], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *options, file], check=True)
    with loopback.attached(file) as device, loopback.mounted(device, directory / "mounted") as mounted:
        yield mounted


@pytest.fixture
def small(machine: Machine, tmp_path: Path) -> Iterator[Machine]:
    """A machine of its own on 24 MiB of ext4, with few inodes left: 1.1 is the default, 1.0 the previous one."""
    with ext4(tmp_path / "root", "24M", "-N", "1200") as mounted:
        for name in ("sysroot", "esp", "layout"):
            subprocess.run(["cp", "-a", machine.path / name, mounted], check=True)
        yield Machine(mounted, machine.program)


def fill(directory: Path, left: int = 0) -> None:
    """Leave `left` bytes free."""
    with contextlib.suppress(OSError), (directory / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize - left)
    if left == 0:  # allocated at once it may come short of the last blocks
        with contextlib.suppress(OSError), (directory / "filler2").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(512))


def use_up_inodes(directory: Path) -> None:
    (directory / "names").mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (directory / "names" / str(number)).touch()


def layer(name: str, size: int, *, random: bool = True) -> Layer:
    """One file of `size` bytes, which compresses well unless it is `random`."""
    return Layer([File(name, os.urandom(size) if random else name.encode() + bytes(size - len(name)))])


# --- nothing left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["bytes", "inodes", "both"])
def test_what_frees_space_works_without_any(small: Machine, what: str) -> None:
    """The boot partition is on the same file system, so the new entries need the ballast too."""
    small.publish(os_image("1.2"))
    assert small("upgrade").status == 0
    assert small("pin", "1.1", "--label", "keep").status == 0
    small.publish(os_image("1.3", more=[layer("usr/lib/big", 2_000_000)]))
    for name in ("filler", "filler2"):
        (small.path / name).touch()
    if what != "bytes":
        use_up_inodes(small.path)
    if what != "inodes":
        fill(small.path)
    state = os.statvfs(small.path)
    assert (state.f_bavail == 0, state.f_favail == 0) == (what != "inodes", what != "bytes")
    refused = small("upgrade")
    assert refused.status == RootFull.exit_status, refused.err
    for verb in (("status",), ("list",), ("cleanup", "--dry-run"), ("rollback", "1.1"), ("unpin", "1.1"),
                 ("rollback", "1.2"), ("pin", "1.1"), ("unpin", "1.1"), ("cleanup",), ("fsck", "--repair")):
        done = small(*verb)
        assert done.status == 0, (verb, done.err)
    assert small.versions() == ["1.2", "1.1"]
    for name in ("filler", "filler2"):
        (small.path / name).unlink(missing_ok=True)
    subprocess.run(["rm", "-rf", small.path / "names"], check=True)
    done = small("upgrade")
    assert done.status == 0, done.err
    small.sound()
    assert len(os.listdir(small.path / "sysroot/state/bootcd/ballast")) == 16, "it is there again"


# --- before the download ----------------------------------------------------------------------------------------------


def test_a_first_image_that_cannot_fit_is_refused_before_it_comes(empty: Machine, tmp_path: Path) -> None:
    with ext4(tmp_path / "root", "16M") as mounted:
        small = Machine(mounted, empty.program)
        (mounted / "layout").symlink_to(empty.path / "layout")
        empty.publish(os_image("1.0", more=[layer("usr/lib/big", 20_000_000)]))
        done = small(*INSTALL)
        assert done.status == RootFull.exit_status
        assert "needs at least 20" in done.err
        assert "0 more could be made free" in done.err
        assert "Downloading" not in done.err


def test_what_is_shared_is_no_reason_to_refuse(small: Machine) -> None:
    """The same files in another layer: as much to download as before, and nothing to write."""
    files = [File(f"usr/lib/{number}", os.urandom(100_000)) for number in range(40)]
    small.publish(os_image("1.2", more=[Layer(files)]))
    assert small("upgrade").status == 0
    small.publish(os_image("1.3", more=[Layer([*files, File("usr/lib/new", b"new")])]))
    fill(small.path, left=Guard(small.path).reserve + 300_000)
    done = small("upgrade")
    assert done.status == 0, done.err


# --- while it comes ---------------------------------------------------------------------------------------------------


def test_a_download_ends_before_the_disk_is_full_and_keeps_whole_layers(small: Machine) -> None:
    """Nothing tells beforehand how much a layer grows when it is unpacked."""
    first, second = layer("usr/lib/one", 1_000_000), layer("usr/share/two", 30_000_000, random=False)
    small.publish(os_image("1.2", more=[first, second]))
    done = small("upgrade")
    assert done.status == RootFull.exit_status, done.err
    assert "the download stops" in done.err
    assert "have to stay" in done.err
    assert os.statvfs(small.path).f_bavail * os.statvfs(small.path).f_frsize > Guard(small.path).reserve // 2
    small.sound()
    small.publish(os_image("1.2", more=[first]))
    done = small("upgrade")
    assert done.status == 0, done.err
    assert "Layers: 0 of 3 fetched" in done.out


def test_the_oldest_deployment_makes_way(small: Machine) -> None:
    """1.0 is pinned, 1.1 is not: it goes, while the layers of the new image are already coming."""
    assert small("pin", "1.0").status == 0
    small.publish(os_image("1.2", more=[layer("usr/lib/1.2", 6_000_000, random=False)]))
    assert small("upgrade").status == 0
    small.publish(os_image("1.3", more=[layer("usr/lib/1.3", 5_000_000, random=False)]))
    assert small("upgrade").status == 0
    assert small.versions() == ["1.3", "1.2", "1.0"]
    small.publish(os_image("1.4", more=[layer("usr/lib/1.4", 7_000_000, random=False)]))
    fill(small.path, left=Guard(small.path).reserve + 3_000_000)
    done = small("upgrade")
    assert done.status == 0, done.err
    assert "goes: there is no room for the new one" in done.err
    assert small.versions() == ["1.4", "1.3", "1.0"]
    small.sound()


def test_no_deployment_makes_way_for_what_a_delta_writes(small: Machine) -> None:
    """Anybody who may push can attach one; the image itself fits well."""
    assert small("pin", "1.1").status == 0
    old, new = os_image("1.1"), os_image("1.2", more=[layer("usr/lib/new", 1_500_000)])
    junk = Layer([File(f"usr/lib/{number}", bytes(90_000 + number)) for number in range(220)]).tar
    with ScriptedServer() as server:
        serve_image(server, new)
        deltas.serve(server, DeltaBuilder(old, new, tar_diffs={2: tar_diff([data(junk)])}))
        fill(small.path, left=Guard(small.path).reserve + 6_000_000)
        done = small("switch", f"{server.host}/os:1")
    assert done.status == 0, done.err
    assert "The delta is left aside" in done.err
    assert "no room for the new one" not in done.err
    assert small.versions() == ["1.2", "1.1"]
    small.sound()


# --- the boot partition -----------------------------------------------------------------------------------------------


def test_an_image_that_says_what_it_needs_on_the_esp(empty: Machine) -> None:
    """An image may say how large its kernel is; then nothing is downloaded in vain."""
    def image(version: str, size: int | None = None, digest: str = "", kernel: bytes | None = None) -> ImageBuilder:
        made = os_image(version, base=base_layer(kernel=kernel or version.encode() * 100_000))
        if size is not None:
            made.annotations["org.bootcd.boot-size"] = str(size)
        if digest:
            made.annotations["org.bootcd.boot-digest"] = f"sha256:{digest}"
        return made

    with loopback.mounted(Path("tmpfs"), empty.path / "esp", "-t", "tmpfs", "-o", "size=1M"):
        empty.publish(image("1.0"))
        assert empty(*INSTALL).status == 0
        assert empty("pin", "1.0").status == 0
        layers = len(os.listdir(empty.path / "sysroot/composefs/streams"))
        empty.publish(image("1.1", 900_000))
        done = empty("upgrade")
        assert done.status == EspFull.exit_status, done.err
        assert "lacks" in done.err
        assert "Downloading" not in done.err
        assert len(os.listdir(empty.path / "sysroot/composefs/streams")) == layers
        shared = os.listdir(empty.path / "esp/EFI/bootcd")[0]
        empty.publish(image("1.1", 900_000, shared, b"1.0" * 100_000))
        done = empty("upgrade")
        assert done.status == 0, done.err


def test_a_guess_refuses_nothing(empty: Machine) -> None:
    """Where the image says nothing, another kernel as large as the present one would not fit, but it has the same."""
    kernel = os.urandom(700_000)
    with loopback.mounted(Path("tmpfs"), empty.path / "esp", "-t", "tmpfs", "-o", "size=1M"):
        empty.publish(os_image("1.0", base=base_layer(kernel=kernel)))
        assert empty(*INSTALL).status == 0
        empty.publish(os_image("1.1", base=base_layer(kernel=kernel)))
        done = empty("upgrade")
        assert done.status == 0, done.err
        assert "would not fit" in done.err
        empty.publish(os_image("1.2", base=base_layer(kernel=os.urandom(700_000))))
        done = empty("upgrade")
        assert done.status == EspFull.exit_status
        assert empty.versions() == ["1.1", "1.0"]
        empty.sound()


def test_no_room_for_an_entry(empty: Machine) -> None:
    """Somebody else has filled the boot partition: a kernel that nothing needs makes way for an entry."""
    with loopback.mounted(Path("tmpfs"), empty.path / "esp", "-t", "tmpfs", "-o", "size=1M"):
        empty.publish(os_image("1.0"))
        assert empty(*INSTALL).status == 0
        empty.publish(os_image("1.1"))
        assert empty("upgrade").status == 0
        unneeded = empty.path / "esp/EFI/bootcd" / ("0" * 64)
        unneeded.mkdir()
        (unneeded / "vmlinuz").write_bytes(bytes(4096))
        fill(empty.path / "esp")
        done = empty("rollback")
        assert done.status == 0, done.err
        assert empty.versions()[0] == "1.0"
        assert not unneeded.exists()
