# SPDX-License-Identifier: Apache-2.0
"""The Containerfiles of examples/ are built by buildah, and our own tools find nothing wrong with what comes out.

Takes many minutes, needs root and the network of packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.formats.fsverity import Algorithm
from bootcd.ops.inspect import inspect
from bootcd.ops.lint import lint
from bootcd.ops.lints.subject import Subject
from bootcd.ops.rootfs import Rootfs
from bootcd.ops.tools import canonical_tree
from bootcd.ops.trees import canonical
from kit import guest
from kit.debian import DebianError, mirror
from kit.machine_images import kept
from kit.rootfs import Keys

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "linux-image-cloud-amd64"
LEFT_OUT = ("sysusers", "buildah-injected")
"""Lints that the Containerfile leaves out as well, for reasons that its README tells."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: buildah makes containers by chroot"),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
]


class Buildah:
    """buildah with a store of its own, so that nothing of this machine is seen or left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            ["buildah", "--root", self.directory / "store", "--runroot", self.directory / "run", "--storage-driver",
             "vfs", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {arguments}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def build(self, name: str, *options: str) -> None:
        self("build", "--layers", "--isolation", "chroot", "--build-arg", "BASE=localhost/base", *options,
             "--file", f"examples/{name}/Containerfile", "--tag", f"localhost/{name}", ".")

    def push(self, name: str) -> str:
        reference = f"oci:{self.directory}/{name}:latest"
        self("push", f"localhost/{name}", reference)
        return reference

    def mounted(self, name: str) -> Path:
        return Path(self("mount", self("from", f"localhost/{name}")))


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """With an image localhost/base of Debian as its registry has it."""
    def bootstrap(fresh: Path) -> None:
        guest.call(["mmdebstrap", "--quiet", "--variant=minbase", '--aptopt=APT::Install-Recommends "false"',
                    "--include=ca-certificates", "--format=tar", guest.SUITE, fresh / "base.tar", mirror()])

    try:
        base = kept("container", (guest.SUITE, "minbase"), bootstrap) / "base.tar"
    except (DebianError, guest.GuestError) as error:
        pytest.skip(f"there is no base image: {error}")
    directory = tmp_path_factory.mktemp("buildah")
    run = Buildah(directory)
    container = run("from", "scratch")
    run("add", container, base, "/")
    run("commit", "--rm", container, "localhost/base")
    try:
        yield run
    finally:
        run("rm", "--all")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def bls(buildah: Buildah) -> Buildah:
    buildah.build("debian-bls", "--build-arg", f"KERNEL={KERNEL}")
    return buildah


def test_the_image_of_debian_is_clean(bls: Buildah) -> None:
    root = Rootfs(bls.mounted("debian-bls"))
    assert lint(Subject(root), skip=LEFT_OUT).findings == ()
    report = inspect(Subject(root))
    assert (report.boots, report.initrd_program, report.sealed) == ("split", "bootcd", None)


def test_the_sealed_image_names_its_tree(bls: Buildah, tmp_path: Path) -> None:
    if not Keys.available():
        pytest.skip("sbsigntool is not installed")
    keys = Keys(tmp_path)
    bls.build("debian-sealed", "--build-arg", "IMAGE=localhost/debian-bls", "--secret", f"id=key,src={keys.key}",
              "--secret", f"id=certificate,src={keys.certificate}")
    path = bls.mounted("debian-sealed")
    root = Rootfs(path)
    assert lint(Subject(root), skip=LEFT_OUT).findings == ()
    report = inspect(Subject(root))
    assert report.uki is not None
    assert (report.boots, report.sealed) == ("uki", True)
    assert (report.uki.signature.state, report.uki.signature.signer) == ("valid", "CN=key")
    # What is pushed, what is mounted, and what the dump says are one tree.
    image = bls.push("debian-sealed")
    for one, other in ((image, str(path)), (image, str(path / "boot/debian.dump"))):
        done = subprocess.run([sys.executable, "-m", "bootcd.cli", "container", "compute-digest", "--explain", one,
                               other], capture_output=True, text=True, check=False,
                              env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
        assert done.returncode == 0, done.stdout
    assert canonical(image, Algorithm.SHA512).entries.keys() == canonical_tree(path, Algorithm.SHA512).entries.keys()
