# SPDX-License-Identifier: Apache-2.0
"""The Containerfiles of examples/ are built by buildah, our own tools find nothing wrong with what comes out, and it
boots: from a registry onto a disk, the sealed one under Secure Boot. Directory, image and machine have one digest.

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
from kit.machine_images import LOADER, MASKED, kept
from kit.room_of_machines import Room, deployment, settle, status
from kit.rootfs import Keys

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "linux-image-cloud-amd64"
DISK_BYTES = 6 << 30
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

    def publish(self, name: str, room: Room) -> None:
        """To the registry of virtual machines, where the tag is the name."""
        self("push", "--tls-verify=false", f"localhost/{name}", f"docker://{room.published_as(name)}")

    def derive(self, image: str, name: str, files: dict[str, bytes]) -> None:
        """The image with what tests of machines need, and these files, as a new one."""
        container = self("from", f"localhost/{image}")
        self("copy", container, "tests/vm/image/", "/")
        root = Path(self("mount", container))
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        self("run", "--isolation", "chroot", container, "systemctl", "enable", "--quiet", "test-agent.service")
        self("run", "--isolation", "chroot", container, "systemctl", "mask", "--quiet", *MASKED)
        self("commit", "--rm", container, f"localhost/{name}")

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
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    with Room(tmp_path_factory.mktemp("room")) as room:
        yield room


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


def computed(what: str | Path) -> str:
    """The digest that a machine will have as the id of its deployment."""
    done = subprocess.run([sys.executable, "-m", "bootcd.cli", "container", "compute-digest", str(what)], check=True,
                          capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    return done.stdout.strip()


def test_the_image_of_debian_boots(bls: Buildah, room: Room) -> None:
    bls.derive("debian-bls", "bls", {})
    bls.publish("bls", room)
    with room.machine(room.install("bls", "bls", size=DISK_BYTES)) as machine:
        machine.wait()
        settle(machine)
        booted = deployment(machine, "booted")
        assert (booted["boot-type"], booted["health"]) == ("bls", "good")
        assert booted["id"] == computed(bls.mounted("bls")) == computed(bls.push("bls"))
        assert machine.check("systemctl --failed --no-legend --plain") == ""


def test_the_sealed_image_boots_with_secure_boot(bls: Buildah, room: Room, tmp_path: Path) -> None:
    signing = room.workshop.secure_boot
    ours = signing.make_keys("ours")
    loader = signing.sign(ours, (room.workshop.tools / LOADER).read_bytes())
    bls.derive("debian-bls", "to-seal", {f"{LOADER}.signed": loader, **{
        f"usr/lib/bootcd/keys/auto/{name}": content for name, content in signing.enrolment(ours).items()}})
    for name, content in (("key", ours.key), ("certificate", ours.certificate)):
        (tmp_path / name).write_bytes(content)
    bls.build("debian-sealed", "--build-arg", "IMAGE=localhost/to-seal", "--secret", f"id=key,src={tmp_path}/key",
              "--secret", f"id=certificate,src={tmp_path}/certificate")
    bls.publish("debian-sealed", room)
    with room.machine(room.install("sealed", "debian-sealed", size=DISK_BYTES)) as machine:
        machine.wait()
        settle(machine)
        chain = status(machine)["chain"]
        assert (chain["secure-boot"], chain["sealed"], chain["image-verity"]) == (True, True, True)
        assert (chain["signature"]["state"], chain["signature"]["signer"]) == ("valid", "CN=ours")
        booted = deployment(machine, "booted")
        assert (booted["boot-type"], booted["health"]) == ("uki", "good")
        assert booted["id"] == computed(bls.mounted("debian-sealed")) == computed(bls.push("debian-sealed"))
