# SPDX-License-Identifier: Apache-2.0
"""UKIs whose digest is of another format than ours, that are sealed for another tree, and images made for bootc."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bootcd.errors import SealMismatch
from bootcd.formats.dump import format_dump
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.transform import XattrMode, transform_for_boot
from bootcd.formats.tree import Directory
from bootcd.store.ociimages import OciImages
from bootcd.store.repository import Repository
from kit.images import Dir, Entry, File, ImageBuilder
from kit.os_images import os_image
from kit.pefiles import make_pe
from kit.world import World

TAGGED = File("usr/lib/tagged", b"x" * 100, xattrs={"user.note": b"a note"})
"""Its xattr is a part of some digests and not of others."""


def sealed(version: str, cmdline: str, extra: Iterable[Entry] = ()) -> ImageBuilder:
    uki = make_pe({".linux": b"kernel", ".initrd": b"initrd", ".cmdline": f"quiet {cmdline}".encode()})
    directories = [Dir("boot/EFI"), Dir("boot/EFI/Linux")]
    return os_image(version, [*directories, File("boot/EFI/Linux/os.efi", uki), TAGGED, *extra])


def digest_of(tree: Directory, version: Version = Version.V1) -> str:
    return measure(write_image(tree, version), Algorithm.SHA512).hex()


def tree_of(world: World, image: ImageBuilder, mode: XattrMode = XattrMode.ALLOWLIST_ONLY) -> Directory:
    """The tree of an image as it boots."""
    world.publish(image, "probe")
    world.host.image_pull(f"oci:{world.directory}/layout:probe", name="probe")
    with Repository.open(world.sysroot / "composefs") as repository:
        images = OciImages(repository)
        tree = images.tree(images.inspect("probe").config_digest, mode)
        transform_for_boot(tree, images.read_file)
        return tree


@pytest.mark.parametrize(("version", "mode", "key"), [
    (Version.V2, XattrMode.ALLOWLIST_ONLY, "composefs=?"),
    (Version.V2, XattrMode.KEEP_USER, "composefs.digest=?v2-sha512-12:"),
    (Version.V0, XattrMode.ALLOWLIST_ONLY, "composefs.digest=?v1-sha512-12:"),
    (Version.V1, XattrMode.KEEP_USER, "composefs.digest=?v1-sha512-12:"),
    (Version.V1, XattrMode.ALLOWLIST_ONLY, "composefs=?"),  # cfsctl's prepare-boot writes that, by mistake
])
def test_a_uki_of_any_format_is_taken(world: World, version: Version, mode: XattrMode, key: str) -> None:
    world.install(os_image("0.9"))
    digest = digest_of(tree_of(world, sealed("1.0", ""), mode), version)

    deployment = world.upgrade(sealed("1.0", f"{key}{digest}"))

    assert (deployment.id, deployment.boot_type) == (digest, "uki")
    assert (world.esp / f"EFI/bootcd/{digest}.efi").exists()
    with Repository.open(world.sysroot / "composefs") as repository:
        assert repository.images.has(bytes.fromhex(digest))
    world.host.image_remove("probe")
    world.host.cleanup()
    assert world.host.fsck().ok
    assert world.host.status().warnings == ()


def test_a_uki_of_another_tree_is_explained_path_by_path(world: World) -> None:
    world.install(os_image("0.9"))
    meant = tree_of(world, sealed("1.0", "", [File("usr/lib/gone", b"1"), File("etc/mode", b"", mode=0o600)]))
    digest = digest_of(meant)
    dump = File("boot/os.dump", b"".join(format_dump(meant)))

    world.publish(sealed("1.0", f"composefs.digest=?v1-sha512-12:{digest}", [
        dump, File("etc/mode", b"", mode=0o644), File("usr/lib/new", b"1")]))
    with pytest.raises(SealMismatch) as caught:
        world.host.upgrade()

    said = str(caught.value)
    assert f"os.efi names {digest[:12]}, but the image has the digest" in said
    assert said.endswith("compared with /boot/os.dump: /etc/mode: mode 644 instead of 600; /usr/lib/gone: missing; "
                         "/usr/lib/new: added")
    assert [info.version for info in world.host.status().deployments] == ["0.9"]


@pytest.mark.parametrize(("dump", "message"), [
    (b"nonsense\n", r"\(/boot/os\.dump cannot be read: line 1: "), (None, r"has the digest [0-9a-f]{12}$"),
])
def test_a_dump_that_is_of_no_use(world: World, dump: bytes | None, message: str) -> None:
    world.install(os_image("0.9"))
    world.publish(sealed("1.0", f"composefs=?{'ab' * 64}", [File("boot/os.dump", dump)] if dump else []))
    with pytest.raises(SealMismatch, match=message):
        world.host.upgrade()


def test_an_image_made_for_bootc_gets_the_argument_that_its_initrd_knows(world: World) -> None:
    world.install(os_image("0.9"))
    theirs = [Dir("usr/lib/bootc"), File("usr/lib/bootc/initramfs-setup", b"bootc's program", mode=0o755)]
    digest = digest_of(tree_of(world, os_image("1.0", theirs)), Version.V2)

    deployment = world.upgrade(os_image("1.0", theirs))

    assert deployment.id == digest
    with Repository.open(world.sysroot / "composefs") as repository:
        optional = "" if repository.secure else "?"
    assert deployment.options.split()[-1] == f"composefs={optional}{digest}"
    state = world.sysroot / "state/deploy" / digest
    assert (state / "etc/version.conf").exists()
    assert (state / "var/lib/seed").exists()

    both = [*theirs, Dir("usr/lib/bootcd"), File("usr/lib/bootcd/bootcd-setup-root", b"our program", mode=0o755)]
    assert f"composefs.digest={optional}v1-sha512-12:" in world.upgrade(os_image("1.1", both)).options
    assert world.host.fsck().ok
