# SPDX-License-Identifier: Apache-2.0
"""Every lint has a tree that trips it, and there is a tree that trips none."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bootcd.errors import BootcdError, Refused, UsageError
from bootcd.formats.erofs.layout import Version
from bootcd.formats.fsverity import Algorithm
from bootcd.formats.tree import RegularFile
from bootcd.ops.imageroot import ImageRoot
from bootcd.ops.inspect import inspect
from bootcd.ops.lint import LintReport, lint
from bootcd.ops.lints.subject import Subject
from bootcd.ops.lints.table import LINTS
from bootcd.ops.rootfs import Rootfs
from bootcd.ops.tools import digests
from kit.images import MTIME, File, ImageBuilder, Layer
from kit.rootfs import INITRD, KERNEL, KVER, MODULES, UKI, Keys, add_uki, archive, clean_rootfs, initrd, write

KARGS = "usr/lib/bootc/kargs.d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return clean_rootfs(tmp_path / "root")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if not Keys.available():
        pytest.skip("sbsigntool is not installed")
    return Keys(tmp_path_factory.mktemp("keys"))


def look(root: Path, **options: object) -> LintReport:
    return lint(Subject(Rootfs(root), architecture="x86_64", **options))  # type: ignore[arg-type]


def found(report: LintReport) -> set[str]:
    return {one.lint for one in report.findings}


def test_nothing_is_wrong_with_a_clean_tree(root: Path) -> None:
    report = look(root, esp_budget=1 << 20, previous=Rootfs(root).tree)
    assert report.findings == ()
    assert report.checked == tuple(one.name for one in LINTS)
    assert not report.fails(warnings=True)


def test_nothing_is_wrong_with_a_signed_image(root: Path, keys: Keys) -> None:
    uki = add_uki(root, keys=keys)
    write(root, f"{UKI}.extra.d/debug.addon.efi", keys.sign(uki.read_bytes()))
    shutil.copy(uki, root / "boot" / f"{KVER}.dump")
    os.utime(root / "boot", (1_700_000_000, 1_700_000_000))
    assert look(root).findings == ()


TRIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "usr": (lambda root: (root / "usr").rename(root / "moved"), "/usr does not exist"),
    "api-base-directories": (lambda root: (root / "proc").rmdir(), "/proc does not exist"),
    "baseimage-root": (lambda root: ((root / "sysroot").rmdir(), write(root, "sysroot")),
                       "/sysroot is no directory"),
    "var-run": (lambda root: ((root / "var/run").unlink(), (root / "var/run").mkdir()),
                "/var/run is a directory instead of a link to ../run"),
    "etc-usretc": (lambda root: (root / "usr/etc").mkdir(), "/usr/etc is there beside /etc"),
    "utf8": (lambda root: (root / os.fsdecode(b"usr/bin/\xff")).touch(),
             r"/usr/bin/\xff has a name that is not UTF-8"),
    "device-nodes": (lambda root: os.mkfifo(root / "usr/pipe"), "/usr/pipe is a named pipe"),
    "kernel": (lambda root: write(root, "usr/lib/modules/6.1.0/vmlinuz"),
               "/usr/lib/modules has 2 kernels: 6.1.0, 6.12.0-test"),
    "kernel-missing": (lambda root: (root / MODULES / "vmlinuz").unlink(),
                       "/usr/lib/modules has no kernel, and /boot/EFI/Linux has no UKI"),
    "initramfs-missing": (lambda root: (root / MODULES / "initramfs.img").unlink(),
                          f"/{MODULES}/initramfs.img does not exist"),
    "initrd-unreadable": (lambda root: write(root, f"{MODULES}/initramfs.img", b"\x02\x21\x4c\x18" + bytes(100)),
                          f"/{MODULES}/initramfs.img cannot be looked into: initrd: what begins at byte 0 is "
                          "compressed by lz4, which is not read here"),
    "initrd-program": (lambda root: write(root, f"{MODULES}/initramfs.img", initrd(dict(list(INITRD.items())[1:]))),
                       f"/{MODULES}/initramfs.img has neither bootcd-setup-root nor the program of bootc"),
    "initrd-drivers": (lambda root: write(root, f"{MODULES}/initramfs.img", initrd(dict(list(INITRD.items())[:2]))),
                       f"/{MODULES}/initramfs.img lacks the driver overlay, which is not part of the kernel"),
    "uki-malformed": (lambda root: write(root, UKI, b"MZ"), f"/{UKI} cannot be used: {KVER}.efi: this is no PE file"),
    "uki-unsigned": (add_uki, f"/{UKI} has no signature"),
    "bootc-kargs": (lambda root: write(root, f"{KARGS}/20.toml", 'kargs = "quiet"'),
                    f"/{KARGS}/20.toml kargs is no list"),
    "kargs-conflict": (lambda root: write(root, f"{KARGS}/20.toml", 'kargs = ["loglevel=3", "loglevel=7"]'),
                       f"/{KARGS}/20.toml asks for loglevel=7, but /{KARGS}/20.toml asks for loglevel=3"),
    "etc-rules": (lambda root: write(root, "usr/lib/bootcd/etc-rules.d/a.toml", "[[rule]]\npaths = 1\n"),
                  "/usr/lib/bootcd/etc-rules.d/a.toml rule 1: paths: expected a list of strings"),
    "selinux-policy": (lambda root: write(root, "etc/selinux/config", "SELINUXTYPE=targeted\n"),
                       "/etc/selinux etc/selinux/targeted/contexts/files: there is no such directory, but "
                       "etc/selinux/config has SELINUXTYPE=targeted"),
    "os-release": (lambda root: (root / "usr/lib/os-release").unlink(), "/usr/lib/os-release does not exist"),
    "baseimage-composefs": (lambda root: write(root, "usr/lib/ostree/prepare-root.conf", "[composefs]\nenabled = no\n"),
                            "/usr/lib/ostree/prepare-root.conf does not say enabled = yes in [composefs]"),
    "buildah-injected": (lambda root: write(root, "etc/resolv.conf"),
                         "/etc/resolv.conf is empty, as containers tools leave it"),
    "machine-identity": (lambda root: write(root, "etc/ssh/ssh_host_ed25519_key", "secret"),
                         "/etc/ssh/ssh_host_ed25519_key is a secret key, which everybody has who has the image"),
    "nonempty-boot": (lambda root: write(root, "boot/grub/grub.cfg"), "/boot/grub is not copied to any machine"),
    "nonempty-run-tmp": (lambda root: write(root, "tmp/left"), "/tmp/left is hidden on every machine"),
    "var-log": (lambda root: write(root, "var/log/dpkg.log", "installed"),
                "/var/log/dpkg.log has 9 bytes that were logged while the image was built"),
    "var-tmpfiles": (lambda root: write(root, "var/lib/data/file"),
                     "/var/lib/data is a directory with content that no tmpfiles.d makes"),
    "sysusers": (lambda root: write(root, "etc/passwd", "root:x:0:0::/:/\nstray:x:9:9::/:/\n"),
                 "/etc/passwd has the user 'stray', which no sysusers.d makes"),
    "setuid": (lambda root: write(root, "usr/bin/mine", b"x", 0o6755), "/usr/bin/mine is setuid and setgid for user 0"),
}
"""By lint: what trips it, and what it then says. Those that need more have tests of their own below."""


@pytest.mark.parametrize("name", TRIPS)
def test_a_lint_is_tripped(name: str, root: Path) -> None:
    trip, said = TRIPS[name]
    trip(root)
    report = look(root)
    assert said in {f"{one.path} {one.message}" for one in report.findings if one.lint == name}
    fatal = next(one.fatal for one in LINTS if one.name == name)
    assert {one.level for one in report.findings if one.lint == name} == {"fatal" if fatal else "warning"}
    assert report.fails(warnings=True)
    if fatal:
        assert report.fails(warnings=False)
    image = lint(Subject(ImageRoot(str(archive(root, root.parent / "root.tar"))), architecture="x86_64"))
    assert image == report, "its tar has the same findings"


def test_an_image_is_looked_at_without_unpacking_it(root: Path, tmp_path: Path, keys: Keys) -> None:
    add_uki(root, keys=keys)
    tar = archive(root, tmp_path / "root.tar")
    ImageBuilder([Layer(tar=tar.read_bytes()), Layer([File("usr/bin/mine", b"x", mode=0o4755)])]).write_layout(
        tmp_path / "layout", "1")
    subject = Subject(ImageRoot(f"oci:{tmp_path}/layout:1"), architecture="x86_64")
    assert found(lint(subject)) == {"setuid", "uki-digest"}, "the layer on top breaks the seal"
    write(root, "usr/bin/mine", b"x", 0o4755)
    os.utime(root / "usr/bin/mine", (MTIME, MTIME))
    os.utime(root / "usr/bin", (MTIME, MTIME))
    assert inspect(subject) == inspect(Subject(Rootfs(root), architecture="x86_64"))
    with pytest.raises(UsageError, match="an image is not mended"):
        lint(subject, fix=True)


def test_what_an_image_is_not_asked_for(root: Path, tmp_path: Path) -> None:
    image = ImageRoot(str(archive(root, tmp_path / "root.tar")))
    program, name = image.tree.lookup(b"/usr/bin/su"), image.tree.lookup(b"/etc/passwd")
    assert isinstance(program, RegularFile)
    assert isinstance(name, RegularFile)
    with pytest.raises(BootcdError, match=r"root.tar: /usr/bin/su is not among the contents that are kept"):
        image.read(program)
    with open(image.open(name), "rb") as file:
        assert file.read() == image.read(name) == (root / "etc/passwd").read_bytes()


def test_the_esp_has_a_budget(root: Path) -> None:
    (one,) = look(root, esp_budget=1000).findings
    size = len(KERNEL) + len(initrd())
    assert (one.lint, one.message) == (
        "esp-budget", f"takes {size} bytes of the boot partition (the kernel {len(KERNEL)}, the initrd "
        f"{len(initrd())}), the budget is 1000")


def test_a_signature_must_be_that_of_the_file(root: Path, keys: Keys) -> None:
    path = add_uki(root, keys=keys)
    content = bytearray(path.read_bytes())
    content[content.index(b"kernel")] ^= 1
    path.write_bytes(content)
    (one,) = look(root).findings
    assert (one.lint, one.path) == ("uki-signature", f"/{UKI}")
    assert one.message == "has a signature that does not count: the file was changed after it was signed"


def test_a_uki_is_stale(root: Path) -> None:
    add_uki(root)
    write(root, "etc/late", "put there after the UKI was made")
    (one,) = (one for one in look(root).findings if one.lint == "uki-digest")
    assert one.level == "fatal"
    assert "is stale: it names " in one.message


@pytest.mark.parametrize("karg", ["", "composefs=" + "0" * 64, "composefs.digest=v1-sha256-12:" + "1" * 64])
def test_a_uki_names_no_digest_of_the_tree(root: Path, karg: str) -> None:
    add_uki(root, f"console=ttyS0 quiet {karg}")
    assert found(look(root)) == {"uki-digest", "uki-unsigned"}


def test_a_uki_may_name_several_digests(root: Path) -> None:
    def of(version: Version, algorithm: Algorithm) -> str:
        return digests(root, algorithm, [version])[version].hex()

    add_uki(root, f"console=ttyS0 quiet composefs.digest=v1-sha256-12:{of(Version.V1, Algorithm.SHA256)} "
            f"composefs.digest=v2-sha512-12:{of(Version.V2, Algorithm.SHA512)}")
    assert found(look(root)) == {"uki-unsigned"}


def test_arguments_that_are_not_in_the_uki(root: Path) -> None:
    add_uki(root)
    write(root, f"{KARGS}/20.toml", 'kargs = ["nosmt"]')
    (one,) = (one for one in look(root).findings if one.lint == "uki-kargs")
    assert (one.path, one.message) == (f"/{KARGS}/20.toml", "asks for nosmt, which is not in the UKI")


def test_two_ukis(root: Path) -> None:
    add_uki(root)
    write(root, "boot/EFI/Linux/other.efi", b"MZ")
    assert {"kernel"} == {one.lint for one in look(root).findings if one.level == "fatal"}


@pytest.mark.parametrize("arguments", [
    '["root=LABEL=x"]', '["ro", "rw"]', '["selinux=0", "selinux=1"]', f'["{"x" * 2100}"]',
])
def test_arguments_that_do_not_go_together(root: Path, arguments: str) -> None:
    write(root, f"{KARGS}/20.toml", f"kargs = {arguments}")
    assert found(look(root)) == {"kargs-conflict"}


def test_arguments_that_may_be_repeated(root: Path) -> None:
    write(root, f"{KARGS}/20.toml", 'kargs = ["console=tty0", "quiet", "systemd.mask=a", "systemd.mask=b"]')
    assert look(root).findings == ()


def test_types_in_etc_that_change(root: Path, tmp_path: Path) -> None:
    previous = tmp_path / "previous"
    shutil.copytree(root, previous, symlinks=True)
    write(previous, "etc/app")
    (root / "etc/app").mkdir()
    (previous / "etc/gone").mkdir()
    (one,) = look(root, previous=Rootfs(previous).tree).findings
    assert (one.lint, one.path) == ("etc-types", "/etc/app")
    assert one.message == "is a directory, in the previous image it is a file"


def test_what_may_be_setuid_can_be_told(root: Path) -> None:
    write(root, "usr/lib/app/helper", b"x", 0o4755)
    assert found(look(root)) == {"setuid"}
    assert look(root, allow_setuid=("/usr/lib/app/*",)).findings == ()


def test_sockets_and_devices(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(root / "usr/s"))
    try:
        os.mknod(root / "usr/null", stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "usr/gone", stat.S_IFCHR, os.makedev(0, 0))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    said = {f"{one.path} {one.message}" for one in look(root).findings}
    assert said == {"/usr/s is a socket", "/usr/null is a character device", "/usr/gone is a whiteout of overlayfs"}


@pytest.mark.parametrize(("line", "path"), [
    ("C /var/lib/data - - - -", "var/lib/data/below/file"), ("d %S/data", "var/lib/data"),
    ("L+ /var/lib/data/file", "var/lib/data/file"), ("f /var/lib/*.conf", "var/lib/app.conf"),
])
def test_what_tmpfiles_makes_may_be_there(root: Path, line: str, path: str) -> None:
    write(root, "usr/lib/tmpfiles.d/data.conf", f"{line}\n")
    write(root, path)
    assert look(root).findings == ()


def test_tmpfiles_of_the_administrator_take_the_place_of_others(root: Path) -> None:
    write(root, "etc/tmpfiles.d/app.conf", "# nothing\n")
    assert found(look(root)) == {"var-tmpfiles"}


def test_directories_of_services_may_be_there(root: Path) -> None:
    write(root, "usr/lib/systemd/system/s.service", "[Service]\nStateDirectory=s s/x:y\nCacheDirectory=c\n")
    for path in ("var/lib/s/x", "var/cache/c"):
        (root / path).mkdir(parents=True)
    assert look(root).findings == ()


@pytest.mark.parametrize("lz", ["gzip", "xz", "zstd", "plain"])
def test_initrds_are_looked_into(root: Path, lz: str) -> None:
    squeeze = {"gzip": gzip.compress, "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
               "zstd": zstandard.compress, "plain": bytes}[lz]
    early = initrd({"kernel/x86/microcode/GenuineIntel.bin": b"early"})
    write(root, f"{MODULES}/initramfs.img", early + squeeze(initrd()))
    assert look(root).findings == ()
    write(root, f"{MODULES}/initramfs.img", early + squeeze(initrd({})))
    assert found(look(root)) == {"initrd-program", "initrd-drivers"}


# --- mending ----------------------------------------------------------------------------------------------------------


def test_what_can_be_mended_is(root: Path) -> None:
    (root / "proc").rmdir()
    (root / "tmp").rmdir()
    (root / "var/run").unlink()
    (root / "var/run").mkdir()
    write(root, "etc/resolv.conf")
    write(root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    write(root, "var/lib/systemd/random-seed", b"seed")
    write(root, "run/lock/apt/lock", "x")
    write(root, "var/log/apt/history.log", "x")
    write(root, "usr/lib/tmpfiles.d/systemd.conf", "d /var/lib/systemd\n")
    before = look(root)
    (root / "run/secrets").mkdir()  # buildah's
    report = lint(Subject(Rootfs(root)), fix=True)
    assert all(one.fixed for one in report.findings)
    assert {(one.lint, one.path) for one in report.findings} == {
        (one.lint, one.path) for one in before.findings if one.lint != "var-tmpfiles"}
    assert look(root).findings == ()
    assert os.readlink(root / "var/run") == "../run"
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "etc/machine-id").read_bytes() == b""


def test_what_mending_would_destroy_stays(root: Path) -> None:
    (root / "var/run").unlink()
    write(root, "var/run/socket")
    (root / "sys").rmdir()
    write(root, "sys")
    write(root, "etc/ssh/ssh_host_rsa_key", "secret")
    report = lint(Subject(Rootfs(root)), fix=True)
    assert {(one.lint, one.fixed) for one in report.findings} == {
        ("var-run", False), ("api-base-directories", False), ("machine-identity", False)}
    assert (root / "var/run/socket").exists()


def test_links_lead_mending_nowhere(root: Path, tmp_path: Path) -> None:
    write(tmp_path, "outside/log/precious.log", "x")
    shutil.rmtree(root / "var")
    (root / "var").symlink_to("../outside")
    lint(Subject(Rootfs(root)), fix=True)
    assert (tmp_path / "outside/log/precious.log").exists()


def test_a_sealed_image_is_not_mended(root: Path) -> None:
    add_uki(root)
    write(root, "tmp/left")
    with pytest.raises(Refused, match="has a UKI"):
        lint(Subject(Rootfs(root)), fix=True)
    assert (root / "tmp/left").exists()


# --- in a container ---------------------------------------------------------------------------------------------------

INSIDE = """
import os, sys
from pathlib import Path
from bootcd.ops.lint import lint
from bootcd.ops.lints.subject import Subject
from bootcd.ops.rootfs import Rootfs
os.chroot(sys.argv[1])
os.chdir("/")
for one in lint(Subject(Rootfs(Path("/")), architecture="x86_64"), fix=True).findings:
    print(one.lint, one.path, one.fixed)
"""
MOUNTS = """
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run/secrets"
touch "$1/run/secrets/key"
mount --bind "$1/usr/lib" "$1/tmp/context"
mount --bind /etc/passwd "$1/etc/resolv.conf"
shift
exec "$@"
"""


def test_what_is_mounted_in_a_container_is_no_part_of_it(root: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    for name in ("run/secrets", "tmp/context"):
        (root / name).mkdir()
    write(root, "etc/resolv.conf")
    write(root, "tmp/left")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-ec", MOUNTS, "sh", root, sys.executable, "-c", INSIDE,
         root], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("nonempty-run-tmp /tmp/left True\n", "")
    assert not (root / "tmp/left").exists()
    assert (root / "tmp/context").is_dir()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_lint_can_be_left_out(root: Path) -> None:
    write(root, "tmp/left")
    report = lint(Subject(Rootfs(root)), skip=["nonempty-run-tmp"])
    assert report.findings == ()
    assert "nonempty-run-tmp" not in report.checked
    with pytest.raises(UsageError, match="there is no lint 'nonsense'"):
        lint(Subject(Rootfs(root)), skip=["nonsense"])


def test_what_is_no_directory() -> None:
    with pytest.raises(BootcdError, match="cannot read /dev/null"):
        Rootfs(Path("/dev/null"))


def test_a_file_that_changes(root: Path) -> None:
    write(root, "etc/passwd", "root:x:0:0::/:/bin/sh\n" * 30)
    rootfs = Rootfs(root)
    write(root, "etc/passwd", "root:x:0:0::/:/bin/sh\n" * 40)
    with pytest.raises(BootcdError, match="etc/passwd changed while it was read"):
        lint(Subject(rootfs))


def test_files_that_are_no_text(root: Path) -> None:
    for path in ("etc/passwd", "etc/group", "usr/lib/sysusers.d/app.conf", "usr/lib/tmpfiles.d/app.conf",
                 "usr/lib/os-release", f"{KARGS}/10-console.toml", "usr/lib/ostree/prepare-root.conf", "etc/machine-id",
                 "usr/lib/bootcd/etc-rules.d/a.toml", "etc/selinux/config", f"{MODULES}/modules.builtin"):
        write(root, path, bytes(range(256)) * 2)
    assert {"bootc-kargs", "etc-rules"} <= found(look(root))
    for path in (f"{MODULES}/initramfs.img", UKI):
        write(root, path, bytes(range(256)) * 2)
    assert {"uki-malformed"} <= found(look(root))


def test_every_lint_is_tested() -> None:
    others = {"esp-budget", "uki-signature", "uki-digest", "uki-kargs", "etc-types"}
    assert set(TRIPS) | others == {one.name for one in LINTS}
    assert len({one.name for one in LINTS}) == len(LINTS)
