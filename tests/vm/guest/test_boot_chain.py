# SPDX-License-Identifier: Apache-2.0
"""The initrd's program where the kernel has fs-verity.

What is not what the command line names does not boot, and what is not what the image names is not read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

from bootcd.boot.booted import booted_id
from bootcd.config import Config
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.linux import verity
from bootcd.model import SilentProgress
from bootcd.ops.direct import DirectHost
from bootcd.store.repository import Repository
from kit.images import File
from kit.os_images import os_image
from kit.setup_root import PROGRAM, Namespace
from vm.guest.conftest import Volume, demand_verity
from vm.guest.test_real_verity import store

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
              pytest.mark.skipif(PROGRAM is None, reason="$BOOTCD_SETUP_ROOT names no program")]

LARGE = os.urandom(16 << 10)
DIGEST = measure(LARGE, Algorithm.SHA512).hex()


@dataclass(frozen=True)
class Installed:
    """A machine whose root file system has fs-verity."""

    volume: Volume
    sysroot: Path
    id: str
    options: str


def install(volume: Volume, directory: Path) -> Installed:
    image = os_image("1.0", [File("usr/lib/large", LARGE), File("usr/lib/other", b"other" * 50)])
    image.write_layout(directory / "layout", "latest")
    sysroot = volume.path / "sysroot"
    host = DirectHost(sysroot, directory / "esp", Config(), SilentProgress())
    deployment = host.install(f"oci:{directory}/layout:latest").deployment
    assert deployment is not None
    return Installed(volume, sysroot, deployment.id, deployment.options)


class Chain:
    """Its initrd's program, and a place for what that mounts."""

    def __init__(self, machine: Installed, directory: Path, stack: ExitStack) -> None:
        self.volume = machine.volume
        self.sysroot = machine.sysroot
        self.id = machine.id
        self.cmdline = f"rw quiet {machine.options}"
        self.directory = directory
        self._stack = stack
        self.target = directory / "new"
        self.target.mkdir()

    @cached_property
    def namespace(self) -> Namespace:
        """From its first use on, the volume cannot be unmounted."""
        return self._stack.enter_context(Namespace())

    def object(self, digest: str) -> Path:
        return self.sysroot / "composefs/objects" / digest[:2] / digest[2:]

    def run(self) -> str:
        """What the program says. It has succeeded exactly when there is a mount."""
        assert PROGRAM is not None
        (self.directory / "cmdline").write_text(self.cmdline)
        done = self.namespace.run(PROGRAM, "--no-kmsg", f"--sysroot={self.sysroot}", f"--target={self.target}",
                                  f"--cmdline={self.directory}/cmdline")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        mounted = [one for one in self.namespace.mounts() if one.place == str(self.target)]
        assert done.returncode == (0 if mounted else 1)
        return done.stderr

    def boot(self) -> Path:
        said = self.run()
        assert " is image " in said, said
        return self.namespace.path(self.target)

    def refuses(self, words: str) -> None:
        said = self.run()
        assert words in said
        assert not self.namespace.path(self.target / "usr").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """On ext4, once for all tests, since it takes long where they run."""
    demand_verity()
    directory = tmp_path_factory.mktemp("installed")
    volume = Volume(directory, "ext4")
    try:
        yield install(volume, directory)
    finally:
        volume.close()


@pytest.fixture
def chain(installed: Installed, tmp_path: Path) -> Iterator[Chain]:
    """A copy of hard links: an object is the same file with its fs-verity, until a test replaces it."""
    sysroot = Path(tempfile.mkdtemp(dir=installed.volume.path), "sysroot")
    shutil.copytree(installed.sysroot, sysroot, symlinks=True, copy_function=os.link)
    with ExitStack() as stack:
        yield Chain(replace(installed, sysroot=sysroot), tmp_path, stack)


@pytest.fixture
def own_chain(volume: Volume, tmp_path: Path) -> Iterator[Chain]:
    """One that has its volume for itself, on ext4 and on btrfs."""
    with ExitStack() as stack:
        yield Chain(install(volume, tmp_path), tmp_path, stack)


def put(path: Path, content: bytes, algorithm: Algorithm | None) -> None:
    """Replace a file, with fs-verity or without."""
    path.unlink()
    path.write_bytes(content)
    if algorithm is not None:
        fd = os.open(path, os.O_RDONLY)
        try:
            verity.enable(fd, algorithm)
        finally:
            os.close(fd)


def loop_files() -> set[str]:
    return {path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")}


def test_a_good_image(own_chain: Chain) -> None:
    chain = own_chain
    assert "=?" not in chain.cmdline
    before = loop_files()
    root = chain.boot()
    mount = next(one for one in chain.namespace.mounts() if one.place == str(chain.target))
    assert "verity=require" in mount.filesystem_options
    assert booted_id(f"1 0 0:1 / / ro - overlay {mount.source} ro", "") == chain.id
    assert loop_files() == before, "a loop device where EROFS takes files"
    assert (root / "usr/lib/large").read_bytes() == LARGE
    assert (root / "usr/lib/other").read_bytes() == b"other" * 50
    assert (root / "etc/version.conf").read_text() == "version = 1.0\n"
    with pytest.raises(OSError, match="Read-only"):
        (root / "usr/new").touch()


@pytest.mark.parametrize("algorithm", Algorithm)
def test_both_hashes(chain: Chain, algorithm: Algorithm) -> None:
    other = chain.sysroot.parent / "other"
    other.mkdir()
    with Repository.init(other / "composefs", algorithm) as repo:
        chain.id = store(repo, os_image("1.0", [File("usr/lib/large", LARGE)])).hex()
    for name in ("etc", "var"):
        (other / "state/deploy" / chain.id / name).mkdir(parents=True)
    chain.sysroot = other
    chain.cmdline = f"composefs.digest=v1-{algorithm.suffix}:{chain.id}"
    assert (chain.boot() / "usr/lib/large").read_bytes() == LARGE


@pytest.mark.parametrize(("change", "algorithm", "words"), [
    (lambda data: data, None, "has no fs-verity, and the kernel command line demands it"),
    (lambda data: data[:-4096], None, "has no fs-verity, and the kernel command line demands it"),
    (lambda data: data[:-1] + b"\x01", Algorithm.SHA512, "has other content"),
    (lambda data: data + bytes(4096), Algorithm.SHA512, "has other content"),
    (lambda data: data, Algorithm.SHA256, "has an fs-verity digest of another algorithm"),
], ids=["no-verity", "truncated", "changed", "longer", "other-hash"])
@pytest.mark.parametrize("mark", ["", "?"])
def test_an_image_that_was_replaced(chain: Chain, mark: str, change: Callable[[bytes], bytes],
                                    algorithm: Algorithm | None, words: str) -> None:
    path = chain.object(chain.id)
    data = change(path.read_bytes())
    same = measure(data, Algorithm.SHA512).hex() == chain.id
    put(path, data, algorithm)
    chain.cmdline = chain.cmdline.replace("=v1-", f"={mark}v1-")
    if mark and algorithm is None and same:
        # The command line permits it, and the content was measured by the program itself.
        assert "fs-verity absent" in chain.run()
    else:
        chain.refuses("has other content" if mark and algorithm is None else words)


@pytest.mark.parametrize(("content", "algorithm"), [
    (LARGE, None), (LARGE, Algorithm.SHA256), (LARGE[:-1] + b"!", Algorithm.SHA512), (b"", None),
], ids=["no-verity", "other-hash", "changed", "empty"])
@pytest.mark.parametrize("mark", ["", "?"])
def test_an_object_that_was_replaced(chain: Chain, mark: str, content: bytes, algorithm: Algorithm | None) -> None:
    """Where the image itself has fs-verity, its files need it too, with the question mark or without."""
    put(chain.object(DIGEST), content, algorithm)
    chain.cmdline = chain.cmdline.replace("=v1-", f"={mark}v1-")
    root = chain.boot()
    with pytest.raises(OSError, match="Input/output error"):
        (root / "usr/lib/large").read_bytes()
    assert (root / "usr/lib/other").read_bytes() == b"other" * 50


def test_a_link_to_another_image(chain: Chain) -> None:
    """One that the repository has, with fs-verity: an older version with known holes, say."""
    with Repository.open(chain.sysroot / "composefs") as repo:
        other = store(repo, os_image("0.9")).hex()
    link = chain.sysroot / "composefs/images" / chain.id
    link.unlink()
    link.symlink_to(f"../objects/{other[:2]}/{other[2:]}")
    chain.refuses(f"has other content: its digest is {other[:12]}...")


@pytest.mark.parametrize("what", ["image", "object"])
def test_damage_of_the_disk(own_chain: Chain, what: str) -> None:
    """The kernel's digest stays right; the first look at the block that changed fails."""
    chain = own_chain
    data = chain.object(chain.id).read_bytes()
    chain.volume.damage(LARGE[4096:8192] if what == "object" else data[len(data) // 8192 * 4096 :][:4096])
    with pytest.raises(OSError, match="Input/output error"):  # noqa: PT012
        said = chain.run()
        if " is image " not in said:
            raise OSError(said)
        for path in chain.namespace.path(chain.target).rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.read_bytes()
