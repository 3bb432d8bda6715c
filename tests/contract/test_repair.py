# SPDX-License-Identifier: Apache-2.0
"""fsck finds what is damaged, repairs what it can without the network, and tells the truth about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.errors import ObjectMismatch, Refused, SealMismatch
from bootcd.formats.tree import RegularFile
from bootcd.layout import Sysroot
from bootcd.ops.results import DeploymentInfo
from bootcd.store.repository import Repository
from kit.images import Dir, File, ImageBuilder
from kit.os_images import KERNEL_VERSION, base_layer, os_image
from kit.pefiles import make_pe
from kit.world import World

POLICY = b"password-policy strict\n" * 40


def sealed(version: str, cmdline: str) -> ImageBuilder:
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline": cmdline.encode()})
    return os_image(version, [Dir("boot/EFI"), Dir("boot/EFI/Linux"), File("boot/EFI/Linux/os.efi", uki),
                              Dir("boot/EFI/Linux/os.efi.extra.d"),
                              File("boot/EFI/Linux/os.efi.extra.d/debug.addon.efi", make_pe({".cmdline": b"debug"}))])


def karg(digest: str) -> str:
    return f"composefs.digest=?v1-sha512-12:{digest}"


def digest_of(world: World) -> str:
    """The digest that a UKI in such an image must name; /boot does not count for it."""
    world.publish(sealed("1.0", karg("0" * 128)))
    return world.host.image_pull(world.image, name="probe", bootable=True).image.boot_id


def object_of(world: World, deployment: DeploymentInfo, path: bytes) -> Path:
    """Where the content of a file of a deployment lies."""
    with Repository.open(Sysroot(world.sysroot).repository) as repository:
        node = repository.images.read(bytes.fromhex(deployment.id)).root().lookup(path)
        assert isinstance(node, RegularFile)
        assert node.digest is not None
        return Path(repository.objects.path(node.digest))


def spoil(path: Path) -> None:
    """Other content of the same size, as a disk leaves it; without fs-verity nobody would notice."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def with_policy(version: str) -> ImageBuilder:
    return os_image(version, [File("etc/policy.conf", POLICY)])


def test_a_kernel_that_cannot_be_replaced_stays_where_it_is(world: World) -> None:
    """Removed first, it would be what keeps the machine from booting."""
    first = world.install(os_image("1.0"))
    second = world.upgrade(os_image("1.1", base=base_layer(kernel=b"kernel two")))
    good, stuck = (world.esp / f"EFI/bootcd/{one.boot_digest}" for one in (first, second))
    (good / "vmlinuz").write_bytes(b"kernel 0ne")
    (stuck / "vmlinuz").unlink()
    (stuck / "vmlinuz/in the way").mkdir(parents=True)

    found = world.host.fsck(repair=True)
    assert not found.ok
    assert found.repaired
    assert {item.what for item in found.findings} == {first.boot_digest, second.boot_digest}
    assert (good / "vmlinuz").read_bytes() == b"kernel one"
    assert (stuck / "initrd").exists()
    assert [item.what for item in world.host.fsck().findings] == [second.boot_digest]


def test_a_kernel_whose_image_is_damaged_stays_where_it_is(world: World) -> None:
    deployment = world.install(os_image("1.0", base=base_layer(kernel=b"long enough for an object" * 9)))
    kernel = world.esp / f"EFI/bootcd/{deployment.boot_digest}/vmlinuz"
    kernel.write_bytes(b"damaged")
    spoil(object_of(world, deployment, f"/usr/lib/modules/{KERNEL_VERSION}/vmlinuz".encode()))

    found = world.host.fsck(repair=True)
    assert not found.ok
    assert found.pull_again == (world.image,)
    assert kernel.read_bytes() == b"damaged"


def test_a_repair_that_repairs_nothing_says_so(world: World) -> None:
    world.install(os_image("1.0"))
    (world.sysroot / "composefs/streams/no-symlink").write_text("")
    found = world.host.fsck(repair=True)
    assert (found.ok, found.repaired) == (False, False)
    assert [item.kind for item in found.findings] == ["entry-not-symlink"]


def test_what_is_to_be_pulled_again_can_be_pulled(world: World) -> None:
    world.install(os_image("1.0"))
    spoil(object_of(world, world.upgrade(with_policy("1.1")), b"/etc/policy.conf"))

    found = world.host.fsck(repair=True)
    assert (found.ok, found.repaired, found.pull_again) == (False, True, (world.image,))
    world.host.image_pull(found.pull_again[0], name="", bootable=True)
    assert world.host.fsck().ok


@pytest.mark.parametrize("victim", ["", ".extra.d/debug.addon.efi"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_uki_is_compared_with_its_image(world: World, victim: str, damage: str) -> None:
    world.install(os_image("0.9"))
    deployment = world.upgrade(sealed("1.0", karg(digest_of(world))))
    path = world.esp / f"EFI/bootcd/{deployment.id}.efi{victim}"
    before = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "cut" else bytes([before[0] ^ 1]) + before[1:])

    found = world.host.fsck()
    assert [(item.kind, item.what) for item in found.findings] == [("kernel-damaged", f"{deployment.id}.efi")]
    assert world.host.fsck(repair=True).ok
    assert path.read_bytes() == before


def test_a_uki_whose_initrd_would_take_another_image_is_refused(world: World) -> None:
    world.install(os_image("0.9"))
    digest = digest_of(world)
    world.publish(sealed("1.0", f"{karg('ab' * 64)} {karg(digest)}"))
    with pytest.raises(SealMismatch, match="abababababab"):
        world.host.upgrade()
    assert world.upgrade(sealed("1.0", f"{karg(digest)} {karg('ab' * 64)}")).id == digest


def test_etc_never_gets_damaged_content(world: World) -> None:
    first = world.install(with_policy("1.0"))
    spoil(object_of(world, first, b"/etc/policy.conf"))
    world.publish(with_policy("1.1"))
    try:
        second = world.host.upgrade().deployment
    except ObjectMismatch:
        return
    assert second is not None
    assert (world.etc(second) / "policy.conf").read_bytes() == POLICY


def test_an_etc_that_is_gone_is_not_taken_for_an_untouched_one(world: World) -> None:
    first = world.install(os_image("1.0"))
    world.etc(first).rename(world.etc(first).with_name("elsewhere"))
    world.publish(os_image("1.1"))
    with pytest.raises(Refused, match="/etc"):
        world.host.upgrade()
    assert world.versions() == ["1.0"]


def test_an_image_that_says_much_about_itself(world: World) -> None:
    world.install(os_image("1.0"))
    long = os_image("1.1")
    long.config["config"]["Labels"]["org.opencontainers.image.version"] = "1.1\n\x1b[2J" + "x" * 1_200_000
    assert len(world.upgrade(long).version) == 256
    assert len(world.upgrade(os_image("1.2")).version) == 3
    world.host.cleanup()


def test_many_local_files_in_etc(world: World) -> None:
    home = world.etc(world.install(os_image("1.0")))
    for number in range(3000):
        (home / f"{number}-{'a-long-name' * 15}").touch()
    second = world.upgrade(os_image("1.1"))
    assert second.etc.added[-1].startswith("… and ")
    assert len(second.etc.added) <= 1001
    assert len(list(world.etc(second).glob("*-a-long-name*"))) == 3000
