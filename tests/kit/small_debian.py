# SPDX-License-Identifier: Apache-2.0
"""Three versions of a small bootable image, from Debian's own packages.

Each has a kernel with its modules, systemd-boot and busybox; about 120 MB unpacked. Awkward on purpose: hard links,
setuid and setgid, file capabilities, user xattrs, owners other than root, symlinks that lead nowhere, names that are
longer than 255 bytes or not ASCII, a whiteout and an opaque directory, and gzip, zstd and plain layers.

    layer      compression   1.0   1.1   2.0
    base       gzip           x     x     x     busybox, base-files, the directories of a root file system
    kernel     zstd           x     x     x     kernel, modules, systemd-boot
    initramfs  none           x     x           what the kernel starts first
    app 1.0    gzip           x     x     x     os-release and an application
    app 1.1    zstd                 x           changes it: a whiteout, an opaque directory
    initramfs  none                       x     a new one
    app 2.0    zstd                       x     changes the application again
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from kit import debian
from kit.images import Dir, Entry, File, Hardlink, ImageBuilder, Layer, Opaque, Symlink, Whiteout

VERSIONS = ("1.0", "1.1", "2.0")

APPLETS = ("cat", "chmod", "cp", "dd", "echo", "grep", "hostname", "ls", "mkdir", "mount", "mv", "ps", "rm", "sed",
           "sh", "sleep", "sync", "tar", "umount", "uname", "vi")
SYSTEM_APPLETS = ("init", "insmod", "modprobe", "poweroff", "reboot", "switch_root")

CAP_NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""struct vfs_cap_data, revision 2, effective: what `setcap cap_net_raw+ep` writes."""

LONG_PATH = ["usr/share/app", *(f"a-rather-long-directory-name-number-{number:02}" for number in range(7))]

INIT = """\
#!/bin/sh
# The first program of the small Debian image. It shows what the kernel was told and leaves the rest to you.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "small Debian, initramfs of version {version}"
cat /proc/cmdline
exec sh
"""


def packages() -> list[str]:
    """The Debian packages that the image is made of."""
    return [debian.kernel_package(), "systemd-boot-efi", "busybox-static", "base-files"]


def build() -> dict[str, ImageBuilder]:
    """The images by version. Downloads the packages unless they are cached; raises DebianError."""
    kernel, boot, busybox, base_files = debian.fetch(packages()).values()
    program = next(content for info, content in debian.members(busybox) if info.name.endswith("bin/busybox"))
    modules = _from_packages(kernel, boot)
    version = next(path.split("/")[3] for path in modules if path.endswith("/vmlinuz"))
    base = Layer(_base(program, _from_packages(base_files)), "gzip")
    kernel_layer = Layer(modules.values(), "zstd")
    app = Layer(_app_1_0(program), "gzip")
    initramfs = {number: Layer(_initramfs(program, version, number), None) for number in ("1.0", "2.0")}
    layers = {
        "1.0": [base, kernel_layer, initramfs["1.0"], app],
        "1.1": [base, kernel_layer, initramfs["1.0"], app, Layer(_app_1_1(), "zstd")],
        "2.0": [base, kernel_layer, initramfs["2.0"], app, Layer(_app_2_0(), "zstd")],
    }
    return {number: ImageBuilder(layers[number], {
        "org.opencontainers.image.title": "small Debian",
        "org.opencontainers.image.version": number,
        "containers.bootc": "1",
    }, created=f"2025-0{1 + VERSIONS.index(number)}-01T00:00:00Z") for number in VERSIONS}


def _from_packages(*packages: Path) -> dict[str, Entry]:
    """The packages' files by path, where an image with merged /usr and its kernel beside its modules has them.

    In byte order of the paths, so parents come before children; hard links last, after their targets.
    """
    found: dict[str, Entry] = {}
    for info, content in chain.from_iterable(map(debian.members, packages)):
        path = _merged(info.name)
        if path.startswith("boot/vmlinuz-"):
            path = f"usr/lib/modules/{path.removeprefix('boot/vmlinuz-')}/vmlinuz"
        elif path.startswith(("boot/", "usr/share/lintian/", "usr/share/doc/linux-image")):
            continue
        common: dict[str, Any] = {"mode": info.mode, "uid": info.uid, "gid": info.gid, "mtime": int(info.mtime)}
        if path in ("", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"):
            continue
        if info.isdir():
            found[path] = Dir(path, **common)
        elif info.isreg():
            found[path] = File(path, content, **common)
        elif info.issym():
            found[path] = Symlink(path, info.linkname, **common)
        elif info.islnk():
            found[path] = Hardlink(path, _merged(info.linkname.removeprefix("./")))
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[1], Hardlink), item[0])))


def _merged(path: str) -> str:
    return f"usr/{path}" if path.split("/")[0] in ("bin", "sbin", "lib", "lib64") else path


def _base(busybox: bytes, base_files: dict[str, Entry]) -> Iterable[Entry]:
    for path in ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "var", "boot", "sysroot"):
        yield Dir(path)
    for path in ("proc", "sys"):
        yield Dir(path, mode=0o555)
    for path in ("bin", "sbin", "lib", "lib64"):
        yield Symlink(path, f"usr/{path}")
    made = {"usr", "etc", "var", "boot", "proc", "sys", "usr/lib/os-release"}
    yield from (entry for path, entry in base_files.items() if path not in made)
    yield File("usr/bin/busybox", busybox, mode=0o755)
    for name in APPLETS:
        yield Hardlink(f"usr/bin/{name}", "usr/bin/busybox")
    for name in SYSTEM_APPLETS:
        yield Hardlink(f"usr/sbin/{name}", "usr/bin/busybox")
    yield File("usr/bin/su", busybox, mode=0o4755)  # a file of its own with the content of busybox: one object for both
    yield File("usr/bin/ping", busybox, mode=0o755, xattrs={"security.capability": CAP_NET_RAW})
    yield File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:990:990::/var/lib/app:/bin/sh\n")
    yield File("etc/group", b"root:x:0:\nmail:x:8:\napp:x:990:\n")
    yield File("etc/shadow", b"root:*:20000:0:99999:7:::\n", mode=0o640, gid=42)
    yield File("etc/hostname", b"small-debian\n")
    yield Symlink("etc/localtime", "../usr/share/zoneinfo/Etc/UTC")  # leads nowhere


def _initramfs(busybox: bytes, kernel_version: str, version: str) -> Iterable[Entry]:
    yield File(f"usr/lib/modules/{kernel_version}/initramfs.img", cpio([
        ("bin", 0o040755, b""), ("dev", 0o040755, b""), ("proc", 0o040755, b""), ("sys", 0o040755, b""),
        ("bin/busybox", 0o100755, busybox),
        *((f"bin/{name}", 0o120777, b"busybox") for name in ("sh", "mount", "cat", "ls", "echo")),
        ("init", 0o100755, INIT.format(version=version).encode()),
    ]))


def _os_release(version: str) -> Entry:
    return File("usr/lib/os-release", (
        f'PRETTY_NAME="Small Debian {version}"\nNAME="Small Debian"\nID=small-debian\nID_LIKE=debian\n'
        f'VERSION_ID="{version}"\nIMAGE_ID=small-debian\nIMAGE_VERSION={version}\n').encode())


def _app_1_0(busybox: bytes) -> Iterable[Entry]:
    yield _os_release("1.0")
    yield File("usr/bin/app", b"#!/bin/sh\necho app 1.0\n", mode=0o755)
    yield File("usr/bin/app-legacy", b"#!/bin/sh\nexec app --old-style\n", mode=0o2755, gid=990)
    yield Dir("usr/share/app", xattrs={"user.comment": b"application data"})
    yield File("usr/share/app/table.bin", _filler(b"table", 2 << 20), xattrs={"user.checksum": bytes(range(32))})
    yield Hardlink("usr/share/app/table-alias.bin", "usr/share/app/table.bin")
    yield File("usr/share/app/tiny.txt", b"stored inside the image, since it is tiny\n")
    yield File("usr/share/app/Grüße aus Köln – 東京 🚀.txt", "Namen müssen nicht ASCII sein.\n".encode() * 10)
    yield File(b"usr/share/app/not-utf-8-\xff\xfe.txt", b"Names need not even be text.\n" * 10)
    for depth in range(2, len(LONG_PATH) + 1):
        yield Dir("/".join(LONG_PATH[:depth]))
    yield File("/".join([*LONG_PATH, "deep.txt"]), b"a path of more than 255 bytes\n" * 10)
    yield File("usr/share/app/" + "n" * 255, b"a name of 255 bytes\n" * 10)
    yield Dir("etc/app")
    yield File("etc/app/app.conf", b"[app]\nlevel = 1\n")
    yield Dir("etc/app/conf.d")
    yield File("etc/app/conf.d/10-old.conf", b"[old]\n")
    yield File("etc/app/conf.d/20-older.conf", b"[older]\n")
    yield Dir("var/lib/app", mode=0o2750, uid=990, gid=990)
    yield Dir("usr/lib/bootc")
    yield Dir("usr/lib/bootc/kargs.d")
    yield File("usr/lib/bootc/kargs.d/10-console.toml", b'kargs = ["console=ttyS0"]\n')


def _app_1_1() -> Iterable[Entry]:
    yield _os_release("1.1")
    yield File("usr/bin/app", b"#!/bin/sh\necho app 1.1\n", mode=0o755)
    yield Whiteout("usr/bin/app-legacy")
    yield Dir("etc/app/conf.d")
    yield Opaque("etc/app/conf.d")
    yield File("etc/app/conf.d/10-new.conf", b"[new]\n")
    yield File("etc/app/app.conf", b"[app]\nlevel = 2\n")
    yield File("usr/share/app/more.bin", _filler(b"more", 512 << 10))
    yield File("usr/lib/bootc/kargs.d/20-quiet.toml", b'kargs = ["quiet"]\n')


def _app_2_0() -> Iterable[Entry]:
    yield _os_release("2.0")
    yield File("usr/bin/app", b"#!/bin/sh\necho app 2.0\n", mode=0o755)
    yield Whiteout("usr/bin/app-legacy")
    yield Whiteout("etc/app/conf.d")
    yield File("usr/share/app/table.bin", _filler(b"table 2", 3 << 20))


def _filler(seed: bytes, size: int) -> bytes:
    """Bytes that look like data: neither constant nor incompressible."""
    lines = (b"%s %d %d\n" % (seed, number, number * number * 2654435761 % 4294967291) for number in range(size // 16))
    return b"".join(lines)[:size]


def cpio(files: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive in the `newc` format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, of
    (path, st_mode, content or link target)."""
    archive = bytearray()
    for inode, (path, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        links = 2 if mode & 0o170000 == 0o040000 else 1
        fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4)
        archive += content
        archive += bytes(-len(archive) % 4)
    return bytes(archive + bytes(-len(archive) % 512))
