# SPDX-License-Identifier: Apache-2.0
"""Finding what an image boots from."""

from __future__ import annotations

import pytest

from bootcd.boot.discover import find_boot_resources, os_release, resolve
from bootcd.errors import NotBootable
from bootcd.formats.tree import Directory, Inode, RegularFile, Symlink


def image(files: dict[str, Inode]) -> Directory:
    root = Directory()
    for path, node in files.items():
        here = root
        *parents, name = path.strip("/").encode().split(b"/")
        for part in parents:
            child = here.entries.setdefault(part, Directory())
            assert isinstance(child, Directory)
            here = child
        here.entries[name] = node
    return root


def file(size: int = 100) -> RegularFile:
    return RegularFile(digest=bytes(64), size=size)


def kernel(kver: str = "6.12.1") -> dict[str, Inode]:
    return {f"/usr/lib/modules/{kver}/vmlinuz": file(10), f"/usr/lib/modules/{kver}/initramfs.img": file(20)}


def test_a_kernel_with_its_initrd() -> None:
    files = kernel() | {"/usr/lib/modules/5.0/modules.dep": file(), "/usr/lib/modules/note": file()}
    found = find_boot_resources(image(files))
    assert found.kver == "6.12.1"
    assert found.vmlinuz is files["/usr/lib/modules/6.12.1/vmlinuz"]
    assert found.initrd is files["/usr/lib/modules/6.12.1/initramfs.img"]
    assert found.uki is None
    assert found.size == 30


def test_a_uki_is_preferred_and_brings_its_addons() -> None:
    files = kernel() | {
        "/boot/EFI/Linux/os.efi": file(1000),
        "/boot/EFI/Linux/os.efi.extra.d/b.addon.efi": file(1),
        "/boot/EFI/Linux/os.efi.extra.d/a.addon.efi": file(2),
        "/boot/EFI/Linux/os.efi.extra.d/secret.cred": file(4),
        "/boot/EFI/Linux/README": file(),
        "/usr/lib/modules/6.12.1/vmlinuz-virt.efi": file(),
    }
    found = find_boot_resources(image(files))
    assert found.uki is not None
    assert found.uki.name == "os.efi"
    assert list(found.uki.addons) == ["a.addon.efi", "b.addon.efi"]
    assert (found.kver, found.vmlinuz, found.size) == ("6.12.1", None, 1003)


@pytest.mark.parametrize(("files", "message"), [
    ({}, "neither a kernel in /usr/lib/modules nor a UKI in /boot/EFI/Linux"),
    (kernel("6.1") | kernel("6.2"), "2 kernels in /usr/lib/modules: 6.1, 6.2"),
    ({"/usr/lib/modules/6.1/vmlinuz": file()}, "no /usr/lib/modules/6.1/initramfs.img"),
    ({"/usr/lib/modules/6.1/vmlinuz": Symlink(target=b"/boot/vmlinuz")}, "6.1/vmlinuz of the image is no regular file"),
    (kernel() | {"/usr/lib/modules/6.12.1/initramfs.img": Directory()}, "initramfs.img of the image is no regular"),
    ({"/boot/EFI/Linux/a.efi": file(), "/boot/EFI/Linux/b.EFI": file()}, "2 UKIs in /boot/EFI/Linux: a.efi, b.EFI"),
    ({"/boot/EFI/Linux/a.efi": Directory()}, "a.efi of the image is no regular file"),
    ({"/boot/EFI/Linux/a.efi": file(), "/boot/EFI/Linux/a.efi.extra.d/?.addon.efi": file()}, "cannot hold"),
])
def test_images_that_do_not_boot(files: dict[str, Inode], message: str) -> None:
    with pytest.raises(NotBootable, match=message):
        find_boot_resources(image(files))


@pytest.mark.parametrize(("path", "target"), [
    (b"/etc/os-release", b"../usr/lib/os-release"), (b"/etc/os-release", b"/usr/lib/os-release"),
    (b"/etc/os-release", b"../../../../usr//./lib/os-release"),
])
def test_os_release_through_links(path: bytes, target: bytes) -> None:
    content = RegularFile(inline=b"PRETTY_NAME='A system'\nVERSION_ID=1\n")
    root = image({"/usr/lib/os-release": content, path.decode(): Symlink(target=target)})
    assert resolve(root, path) is content
    assert os_release(root, lambda node: node.inline or b"").title == "A system"


def test_os_release_that_is_not_there() -> None:
    assert os_release(Directory(), lambda node: b"").title == "Linux"
    loop = image({"/etc/os-release": Symlink(target=b"os-release"), "/usr/lib/os-release": Symlink(target=b"/etc")})
    assert os_release(loop, lambda node: b"").version is None


def test_resolve_does_not_go_through_files() -> None:
    root = image({"/a/file": file(), "/link": Symlink(target=b"a/file")})
    assert resolve(root, b"/link/x") is None
    assert resolve(root, b"/link/..") is None
    assert resolve(root, b"/a/../a/file") is resolve(root, b"/link")
    assert resolve(root, b"/") is root
