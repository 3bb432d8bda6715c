# SPDX-License-Identifier: Apache-2.0
"""Installation to a disk, by the program itself: to a file and to a device, and all that is refused.

What mounts a FAT file system is skipped where the kernel has none; in the virtual machine it does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.config import Config
from bootcd.deploy.disk import ESP_TYPE, ROOT_TYPES
from bootcd.errors import BootcdError, UsageError
from bootcd.layout import Sysroot
from bootcd.linux.files import CRASH_STATUS
from bootcd.linux.mount import FsContext
from bootcd.model import SilentProgress
from bootcd.ops import images, update
from bootcd.ops.machine import Machine
from kit import loopback
from kit.deltas import DeltaBuilder
from kit.images import Dir, File, ImageBuilder, Whiteout
from kit.loopback import MIB
from kit.os_images import KERNEL_VERSION, base_layer, os_image
from kit.pefiles import make_pe

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("sfdisk") is None, reason="sfdisk is not installed"),
]
ROOT = Path(__file__).resolve().parents[2]
KEYS = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@home\n"
SIZE = 256 * MIB


@pytest.fixture(autouse=True)
def leaves_the_kernel_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No mount and no loop device stays, whatever happened."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    deadline = time.monotonic() + 5
    while (left := _left(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _left(directory: Path) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line]
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return mounts + [path for path in loops if str(directory) in path]


def why_no_fat() -> str:
    """What the kernel says to FAT; nothing where it has it."""
    try:
        with FsContext("vfat"):
            return ""
    except BootcdError as error:
        return str(error)


def needs_fat() -> None:
    why = why_no_fat()
    if why:
        pytest.skip(why)


@pytest.fixture
def image(tmp_path: Path) -> str:
    return publish(tmp_path, os_image("1.0", base=base_layer(extra=[
        Dir("usr/lib/bootcd"), Dir("usr/lib/bootcd/keys"), Dir("usr/lib/bootcd/keys/auto"),
        File("usr/lib/bootcd/keys/auto/PK.auth", b"a signed variable" * 10)])))


def publish(directory: Path, image: ImageBuilder) -> str:
    image.write_layout(directory / "layout", "latest")
    return f"oci:{directory}/layout:latest"


def bootcctl(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bootcd.cli", *words], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | (env or {}))


def to_disk(*words: str | Path) -> str:
    done = bootcctl("install", "to-disk", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(status: int, *words: str | Path) -> str:
    done = bootcctl("install", "to-disk", *words)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    return done.stderr


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blank(path: Path, size: int = SIZE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


# --- nothing is written -----------------------------------------------------------------------------------------------


def test_a_dry_run_tells_all_and_does_nothing(tmp_path: Path, image: str) -> None:
    disk = blank(tmp_path / "disk")
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    before = digest(disk)
    out = to_disk("--dry-run", "--filesystem", "btrfs", disk, image)
    assert digest(disk) == before
    assert [re.sub(" +", " ", line) for line in out.splitlines()] == [
        f"Disk {disk}, 268.4 MB", "Would erase ext4 signature",
        "Would make partition 1 esp 67.1 MB FAT32", "Would make partition 2 root 199.2 MB btrfs"]

    found = json.loads(to_disk("--dry-run", "--json", "--image-size", "1G", tmp_path / "new", image))
    assert not (tmp_path / "new").exists()
    assert (found["dry-run"], found["size"], found["erased"], found["change"]) == (True, 1 << 30, [], None)
    assert [one["type"] for one in found["partitions"]] == [ESP_TYPE, ROOT_TYPES[os.uname().machine]]


def test_a_dry_run_asks_the_place_that_the_bytes_come_from(tmp_path: Path, image: str) -> None:
    nowhere = "registry.invalid/team/os:1"
    found = json.loads(to_disk("--dry-run", "--json", "--from", image, "--image-size", "1G", tmp_path / "new", nowhere))
    assert found["size"] == 1 << 30
    assert "at a registry" in refused(2, "--from", nowhere, "--image-size", "1G", tmp_path / "new", nowhere)


def test_a_new_disk_has_nothing_that_a_delta_leads_from(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk")
    before = digest(disk)
    old, new = os_image("1.0"), os_image("1.1")
    DeltaBuilder(old, new).write_archive(tmp_path / "delta")
    said = refused(9, disk, f"oci-archive:{tmp_path}/delta")
    assert f"it is a delta, made from image {old.manifest_digest}, and not a whole image" in said
    assert digest(disk) == before


def test_a_disk_with_contents_is_refused(tmp_path: Path, image: str) -> None:
    disk = blank(tmp_path / "disk")
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    before = digest(disk)
    said = refused(11, disk, image)
    assert f"{disk} is not empty: ext4 signature" in said
    assert "--wipe" in said
    assert digest(disk) == before


def test_a_disk_in_use_is_refused(tmp_path: Path, image: str) -> None:
    disk = blank(tmp_path / "disk")
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with loopback.disk(disk) as device:
        assert f"{disk} is in use: attached to {device}" in refused(11, "--wipe", disk, image)
        with loopback.mounted(device, tmp_path / "mnt"):
            said = refused(11, "--wipe", device, image)
            assert f"{device} is in use: mounted at {tmp_path}/mnt" in said
            assert refused(11, "--wipe", "--dry-run", device, image) == said


@pytest.mark.parametrize(("words", "status", "message"), [
    (("",), 3, "there is no ''"),
    (("/dev/nothing",), 3, "there is no /dev/nothing"),
    (("/dev/null",), 2, "/dev/null is neither a block device nor a file"),
    (("/proc",), 2, "/proc is a directory"),
    (("--esp-size", "10M", "disk"), 2, "boot partition of 10 MiB is too small for FAT32"),
    (("--esp-size", "600M", "disk"), 8, "has 256 MiB, and 763 MiB are needed: 600 MiB for the boot partition"),
    (("--root-size", "10M", "disk"), 8, "root partition of 10 MiB is too small"),
    (("--image-size", "1G", "disk"), 2, "disk exists"),
    (("--image-size", "1G", "absent/disk"), 3, "there is no directory absent"),
    (("--image-size", "20M", "small"), 8, "small has 20 MiB"),
    (("--image-size", "1X", "disk"), 2, "'1X' is no size"),
    (("--karg", "composefs=1", "disk"), 2, "cannot be taken"),
    (("--encrypt", "tpm2", "disk"), 2, "TPM2 is that of this one"),
    (("--root-ssh-authorized-keys", "/dev/null", "disk"), 13, "/dev/null"),
    (("--filesystem", "xfs", "disk"), 2, "xfs"),
])
def test_bad_requests(
    words: tuple[str, ...], status: int, message: str, tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    disk = blank(tmp_path / "disk")
    assert message in refused(status, *words, image)
    assert disk.stat().st_blocks == 0
    assert not (tmp_path / "small").exists()


def test_an_image_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    disk = blank(tmp_path / "disk")
    refused(7, disk, f"oci:{tmp_path}/absent")
    assert disk.stat().st_blocks == 0


def test_no_installation_can_be_meant(tmp_path: Path, image: str) -> None:
    done = bootcctl("--sysroot", tmp_path, "install", "to-disk", tmp_path / "disk", image)
    assert done.returncode == 2


def test_a_kernel_without_fat_is_told_before_anything_is_erased(tmp_path: Path, image: str) -> None:
    why = why_no_fat()
    if not why:
        pytest.skip("the kernel has FAT")
    disk = blank(tmp_path / "disk")
    assert why in refused(13, disk, image)
    assert disk.stat().st_blocks == 0
    refused(13, "--image-size", "1G", tmp_path / "new", image)
    assert not (tmp_path / "new").exists(), "what could not be used is removed again"


def test_a_sealed_image_is_not_told_where_its_root_is(tmp_path: Path) -> None:
    """It finds that by the type of the partition. But an image with a kernel of its own may follow."""
    def sealed(digest: str) -> ImageBuilder:
        uki = make_pe({".linux": b"kernel", ".initrd": b"initrd",
                       ".cmdline": f"composefs.digest=?v1-sha512-12:{digest}".encode()})
        return os_image("1.0", [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki)])

    def machine(name: str) -> Machine:
        return Machine(Sysroot(tmp_path / name), tmp_path / f"{name}-esp", Config(), SilentProgress())

    other = machine("other")
    update.install(other, publish(tmp_path, os_image("0.9")), ())
    probe = images.image_pull(other, publish(tmp_path, sealed("0" * 128)), name="probe", bootable=True)
    image = publish(tmp_path, sealed(probe.image.boot_id))

    with pytest.raises(UsageError, match="sealed"):
        update.install(machine("one"), image, ("quiet",), ("root=UUID=1", "rw"))
    done = update.install(machine("two"), image, (), ("root=UUID=1", "rw"))
    assert done.outcome == "deployed"
    (entry,) = (tmp_path / "two-esp/loader/entries").glob("*.conf")
    assert "options" not in entry.read_text()
    (record,) = (tmp_path / "two/state/bootcd/deployments").iterdir()
    assert json.loads(record.read_text())["machine-kargs"] == ["root=UUID=1", "rw"]


# --- installed --------------------------------------------------------------------------------------------------------


def check(disk: Path, directory: Path, *, filesystem: str = "ext4") -> dict[str, bytes]:
    """Check partitions and file systems of an installed file; the files of the boot partition."""
    esp, root = loopback.parts(disk)
    assert (esp.name, esp.type) == ("esp", ESP_TYPE)
    assert (root.name, root.type) == ("root", ROOT_TYPES[os.uname().machine])
    with loopback.part(disk, esp) as device:
        subprocess.run(["fsck.fat", "-n", device], check=True, capture_output=True)
        with loopback.mounted(device, directory / "esp", "-o", "ro") as path:
            files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with loopback.part(disk, root) as device:
        fsck = ["e2fsck", "-fn"] if filesystem == "ext4" else ["btrfs", "check"]
        subprocess.run([*fsck, device], check=True, capture_output=True)
        uuid = subprocess.run(["blkid", "-p", "-s", "UUID", "-o", "value", device], check=True, capture_output=True,
                              text=True).stdout.strip()
        with loopback.mounted(device, directory / "root") as path:
            (directory / "esp-copy").mkdir()
            for name, content in files.items():
                (directory / "esp-copy" / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / "esp-copy" / name).write_bytes(content)
            there: list[str | Path] = ["--sysroot", path, "--esp", directory / "esp-copy"]
            done = bootcctl(*there, "status", "--json")
            assert done.returncode == 0, done.stderr
            status = json.loads(done.stdout)
            assert bootcctl(*there, "fsck").returncode == 0
            (deployment,) = status["deployments"]
            assert f"root=UUID={uuid} rw" in deployment["options"]
            assert status["warnings"] == []
            assert (status["last"]["verb"], status["last"]["state"]) == ("install", "succeeded")
            if Path("/sys/fs/ext4/features/verity").exists():
                assert status["chain"]["image-verity"]
                assert "?" not in deployment["options"]
            keys = path / "state/deploy" / deployment["id"] / "etc/tmpfiles.d/bootcd-root-ssh.conf"
            if keys.exists():
                files["SSH keys"] = keys.read_bytes()
            shutil.rmtree(directory / "esp-copy")
    return files


@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_installation_into_a_new_file(filesystem: str, tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = tmp_path / "disk"
    (tmp_path / "keys").write_bytes(KEYS)
    out = to_disk("--image-size", "256M", "--filesystem", filesystem, "--karg", "quiet",
                  "--root-ssh-authorized-keys", tmp_path / "keys", disk, image)
    assert "boots next" in out
    assert "Recovery" not in out
    assert disk.stat().st_size == SIZE
    assert disk.stat().st_mode & 0o777 == 0o600
    assert disk.stat().st_blocks * 512 < 160 * MIB, "the file is sparse"
    files = check(disk, tmp_path, filesystem=filesystem)
    (entry,) = [content.decode() for name, content in files.items() if name.startswith("loader/entries/bootcd-")]
    options = re.search("^options (.*)$", entry, re.MULTILINE)
    assert options
    assert options[1].split()[0].startswith("root=UUID=") or "root=UUID=" in options[1]
    assert "quiet" in options[1].split()
    assert b"loader for x86-64" in files["EFI/BOOT/BOOTX64.EFI"]
    assert files["EFI/systemd/systemd-bootx64.efi"] == files["EFI/BOOT/BOOTX64.EFI"]
    assert files["loader/keys/auto/PK.auth"] == b"a signed variable" * 10
    assert files["loader/loader.conf"] == b"timeout 3\n"
    assert b"authorized_keys" in files["SSH keys"]


def test_installation_to_a_device_over_another(tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = blank(tmp_path / "disk")
    with loopback.disk(disk) as device:
        to_disk(device, image)
        assert "is not empty: gpt signature, partition 1 'esp' of 64 MiB, vfat" in refused(11, device, image)
        out = to_disk("--wipe", "--root-size", "180M", device, image)
        assert "Erased partition 2 'root' of 190 MiB, ext4" in out
    assert loopback.parts(disk)[1].size == 180 * MIB
    check(disk, tmp_path)


def test_a_root_of_ones_own(tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = tmp_path / "disk"
    to_disk("--image-size", "256M", "--karg", "root=LABEL=mine", disk, image)
    esp = loopback.parts(disk)[0]
    with loopback.part(disk, esp) as device, loopback.mounted(device, tmp_path / "esp") as path:
        (entry,) = (path / "loader/entries").glob("bootcd-*")
        assert "root=UUID" not in entry.read_text()
        assert "root=LABEL=mine" in entry.read_text()


def test_an_installation_that_was_cut_off_leaves_nothing_and_begins_anew(tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = blank(tmp_path / "disk")
    for point in ("disk-partitioned", "disk-formatted", "esp-before-rename", "after-write-entry"):
        cut_off(point, disk, image)
    to_disk("--wipe", disk, image)
    check(disk, tmp_path)


def cut_off(point: str, *words: str | Path) -> None:
    done = bootcctl("install", "to-disk", "--wipe", *words, env={"BOOTCD_CRASH_AT": point})
    assert done.returncode == CRASH_STATUS, f"{point}: {done.stderr}"


def test_installation_to_a_disk_with_large_sectors(tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = blank(tmp_path / "a disk", 512 * MIB)
    with loopback.attached(disk, "--partscan", "--sector-size", "4096") as device:
        to_disk(device, image)
        check(device, tmp_path)
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)


def test_an_installation_that_fails_tells_what_became_of_the_disk(tmp_path: Path) -> None:
    needs_fat()
    image = publish(tmp_path, os_image("1.0", [Whiteout(f"usr/lib/modules/{KERNEL_VERSION}/vmlinuz")]))
    disk = blank(tmp_path / "disk")
    said = refused(9, disk, image)
    assert "the image has neither a kernel" in said
    assert f"{disk} is erased and holds no whole installation" in said
    assert "/usr/lib/modules/<version>/{vmlinuz,initramfs.img}" in said
    said = refused(9, "--image-size", "256M", tmp_path / "new", image)
    assert "is erased" not in said
    assert not (tmp_path / "new").exists()


def test_an_installation_that_was_interrupted(tmp_path: Path, image: str) -> None:
    needs_fat()
    disk = tmp_path / "disk"
    command: list[str | Path] = [sys.executable, "-m", "bootcd.cli", "install", "to-disk", "--image-size", "512M",
                                 disk, image]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT / "src")}) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("Downloading"):
                run.send_signal(signal.SIGTERM)
                break
        said = run.stderr.read()
    assert run.returncode == 130, said
    assert f"{disk} is removed" in said
    assert not disk.exists()


def test_a_boot_partition_that_is_too_small(tmp_path: Path) -> None:
    needs_fat()
    image = publish(tmp_path, os_image("1.0", base=base_layer(kernel=os.urandom(50 * MIB))))
    said = refused(8, "--image-size", "512M", "--esp-size", "48M", tmp_path / "disk", image)
    assert re.search("the ESP lacks [0-9]+ bytes for the kernel of the new deployment: it needs 52[0-9]+ bytes", said)
    assert "larger --esp-size" in said
    assert not (tmp_path / "disk").exists()
    done = bootcctl("install", "to-disk", "--image-size", "512M", "--esp-size", "80M", tmp_path / "disk", image)
    assert done.returncode == 0
    assert "has room for 1 kernels of this size" in done.stderr


def test_an_encrypted_root(tmp_path: Path, image: str) -> None:
    needs_fat()
    if not Path("/dev/mapper/control").exists() or shutil.which("systemd-cryptenroll") is None:
        pytest.skip("no device-mapper, or no systemd-cryptenroll")
    disk = blank(tmp_path / "disk", 512 * MIB)
    for point in ("disk-formatted", "disk-bound"):
        cut_off(point, "--encrypt", "recovery-key", disk, image)
    out = to_disk("--wipe", "--encrypt", "recovery-key", disk, image)
    key = out.splitlines()[-1].strip()
    esp, root = loopback.parts(disk)
    with loopback.part(disk, esp) as device, loopback.mounted(device, tmp_path / "esp") as path:
        (entry,) = (path / "loader/entries").glob("bootcd-*")
        options = entry.read_text()
    with loopback.part(disk, root) as device:
        luks = subprocess.run(["cryptsetup", "luksUUID", device], check=True, capture_output=True, text=True)
        assert f"rd.luks.name={luks.stdout.strip()}=root" in options
        subprocess.run(["cryptsetup", "open", "--key-file", "-", device, "bootcd-check"], input=key.encode(),
                       check=True)
        try:
            plain = Path("/dev/mapper/bootcd-check")
            subprocess.run(["e2fsck", "-fn", plain], check=True, capture_output=True)
            uuid = subprocess.run(["blkid", "-p", "-s", "UUID", "-o", "value", plain], check=True, capture_output=True,
                                  text=True).stdout.strip()
            assert f"root=UUID={uuid} rw" in options
            with loopback.mounted(plain, tmp_path / "root") as path:
                assert (path / "composefs/meta.json").is_file()
                assert not [file for file in path.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]
        finally:
            subprocess.run(["cryptsetup", "close", "bootcd-check"], check=True)
