# SPDX-License-Identifier: Apache-2.0
"""UKIs made by the real ukify, signed by sbsign inside it or elsewhere, and taken into a root directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.errors import (
    BootcdError,
    NotBootable,
    PeError,
    SealMismatch,
    SignatureError,
    SignatureMissing,
    TargetInUse,
    Unsupported,
    UsageError,
)
from bootcd.formats.dump import parse_dump
from bootcd.formats.erofs.layout import Version
from bootcd.formats.erofs.writer import write_image
from bootcd.formats.fsverity import Algorithm, measure
from bootcd.formats.pe import Pe
from bootcd.ops.lint import lint
from bootcd.ops.lints.subject import Subject
from bootcd.ops.rootfs import Rootfs
from bootcd.ops.uki import UkiRequest, UkiResult, attach, make_addon, split_kernel, ukify
from crash.program import snapshot
from kit.rootfs import KERNEL, KVER, MODULES, UKI, Keys, add_uki, clean_rootfs, digest, initrd, write
from kit.ukify import install_ukify


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return clean_rootfs(tmp_path / "root")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ukify is on PATH."""
    if not install_ukify(tmp_path / "bin"):
        pytest.skip("ukify is not at hand: 'make test-vm' gets Debian's")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if not Keys.available():
        pytest.skip("sbsigntool is not installed")
    return Keys(tmp_path_factory.mktemp("keys"))


def make(root: Path, **options: object) -> UkiResult:
    return ukify(root, UkiRequest(architecture="x86_64", **options), lambda text: None)  # type: ignore[arg-type]


def findings(root: Path) -> set[str]:
    return {one.lint for one in lint(Subject(Rootfs(root), architecture="x86_64")).findings}


def by_ukify(keys: Keys) -> tuple[str, ...]:
    return f"--secureboot-private-key={keys.key}", f"--secureboot-certificate={keys.certificate}"


# --- the kernel goes out ----------------------------------------------------------------------------------------------


def test_the_kernel_goes_out(root: Path, tmp_path: Path) -> None:
    assert split_kernel(root, tmp_path / "kernels") == KVER
    target = tmp_path / "kernels" / KVER
    assert (target / "vmlinuz").read_bytes() == KERNEL
    assert (target / "initramfs.img").read_bytes() == initrd()
    assert sorted(os.listdir(root / MODULES)) == ["modules.builtin"]
    assert os.listdir(tmp_path / "kernels") == [KVER]


@pytest.mark.parametrize(("before", "error"), [
    (lambda root, output: (output / KVER).mkdir(parents=True), TargetInUse),
    (lambda root, output: write(root, "usr/lib/modules/6.1/vmlinuz"), NotBootable),
    (lambda root, output: (root / MODULES / "initramfs.img").unlink(), NotBootable),
    (lambda root, output: add_uki(root), NotBootable),
    (lambda root, output: output.write_bytes(b""), BootcdError),
])
def test_a_kernel_that_stays(
    root: Path, tmp_path: Path, before: Callable[[Path, Path], object], error: type[BootcdError],
) -> None:
    output = tmp_path / "kernels"
    before(root, output)
    state = snapshot(tmp_path)
    with pytest.raises(error):
        split_kernel(root, output)
    assert snapshot(tmp_path) == state


# --- ukify ------------------------------------------------------------------------------------------------------------


def test_a_uki_names_the_tree_that_it_is_put_into(root: Path, program: None) -> None:
    before = digest(root)
    result = make(root)
    assert result.path == str(root / UKI)
    assert (result.signature, result.signer) == ("absent", "")
    assert result.cmdline == f"console=ttyS0 quiet composefs.digest=v1-sha512-12:{before}"
    assert digest(root) == before
    assert findings(root) == {"uki-unsigned"}
    pe = Pe.parse((root / UKI).read_bytes())
    assert pe.text(".uname").strip() == KVER
    assert "Test OS" in pe.text(".osrel")
    assert bytes(pe.section(".initrd")) == initrd()


def test_a_uki_of_a_kernel_that_went_out(root: Path, tmp_path: Path, program: None, keys: Keys) -> None:
    split_kernel(root, tmp_path / "kernels")
    result = make(root, kernel=tmp_path / "kernels" / KVER, arguments=by_ukify(keys))
    assert (result.signature, result.signer) == ("valid", "CN=key")
    assert findings(root) == set()


def test_a_uki_goes_out_and_comes_back_signed(root: Path, tmp_path: Path, program: None, keys: Keys) -> None:
    plain = tmp_path / "plain.efi"
    make(root, output=plain)
    assert not (root / "boot/EFI").exists()
    with pytest.raises(SignatureMissing):
        attach(root, plain)
    signed = tmp_path / "signed.efi"
    signed.write_bytes(keys.sign(plain.read_bytes()))
    assert attach(root, signed).path == str(root / UKI)
    assert findings(root) == set()


@pytest.mark.parametrize(("options", "karg"), [
    ({"version": Version.V2}, "composefs="), ({"algorithm": Algorithm.SHA256}, "composefs.digest=v1-sha256-12:"),
    ({"allow_missing_verity": True}, "composefs.digest=?v1-sha512-12:"),
])
def test_digests_of_other_kinds(root: Path, program: None, options: dict[str, object], karg: str) -> None:
    result = make(root, kargs=("nosmt",), **options)
    assert f" nosmt {karg}" in result.cmdline
    assert findings(root) == {"uki-unsigned"}


def test_the_dump_is_that_of_the_digest(root: Path, tmp_path: Path, program: None) -> None:
    make(root, dump=tmp_path / "dump")
    tree = parse_dump((tmp_path / "dump").read_bytes().splitlines(keepends=True))
    assert measure(write_image(tree, Version.V1, Algorithm.SHA512), Algorithm.SHA512).hex() == digest(root)


def test_a_uki_is_replaced(root: Path, program: None) -> None:
    make(root)
    write(root, "etc/late", "a change")
    assert "uki-digest" in findings(root)
    make(root)
    assert findings(root) == {"uki-unsigned"}


def test_fractions_of_seconds_are_told(root: Path, program: None) -> None:
    os.utime(root / "etc/passwd", ns=(1, 1))
    said: list[str] = []
    ukify(root, UkiRequest(architecture="x86_64"), said.append)
    assert len(said) == 1
    os.utime(root / "boot", (1_700_000_000, 1_700_000_000))
    make(root, whole_seconds=True)
    assert findings(root) == {"uki-digest", "uki-unsigned"}
    os.utime(root / "etc/passwd", (0, 0))
    assert findings(root) == {"uki-unsigned"}
    assert said[0].startswith(f"names in {root} with fractions of seconds in their times: 1; ")


def test_a_tree_that_cannot_be_written(root: Path, tmp_path: Path, program: None) -> None:
    """As a stage of a Containerfile is mounted in another."""
    if os.geteuid():
        pytest.skip("needs root")
    mounted = 'mount --bind -o ro "$1" "$1"; shift; exec "$@"'
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-ec", mounted, "sh", root, sys.executable, "-m",
         "bootcd.cli", "container", "ukify", "--rootfs", root, "--output", tmp_path / "out.efi"], check=True,
        capture_output=True)
    assert attach(root, tmp_path / "out.efi", allow_unsigned=True).path == str(root / UKI)


def test_an_addon(root: Path, program: None, keys: Keys) -> None:
    make(root, arguments=by_ukify(keys))
    result = make_addon(root, "debug", UkiRequest(kargs=("debug", "loglevel=7"), arguments=by_ukify(keys)))
    assert result == UkiResult(str(root / f"{UKI}.extra.d/debug.addon.efi"), "debug loglevel=7", "valid", "CN=key")
    assert findings(root) == set()


def test_an_addon_comes_back_signed(root: Path, tmp_path: Path, program: None, keys: Keys) -> None:
    make(root, arguments=by_ukify(keys))
    plain = tmp_path / "plain.efi"
    make_addon(root, "", UkiRequest(kargs=("debug",), output=plain))
    signed = tmp_path / "debug.addon.efi"
    signed.write_bytes(keys.sign(plain.read_bytes()))
    assert attach(root, signed).path == str(root / f"{UKI}.extra.d/debug.addon.efi")
    assert findings(root) == set()


def test_keys_that_do_not_match(root: Path, tmp_path: Path, program: None, keys: Keys) -> None:
    other = Keys(tmp_path, "other")
    state = snapshot(root)
    with pytest.raises(BootcdError, match=r"^ukify failed: |the signature does not count"):
        make(root, arguments=(f"--secureboot-private-key={keys.key}", f"--secureboot-certificate={other.certificate}"))
    assert snapshot(root) == state


def test_a_key_that_is_missing(root: Path, program: None) -> None:
    state = snapshot(root)
    with pytest.raises(BootcdError, match=r"^ukify failed: .*nonexistent"):
        make(root, arguments=("--secureboot-private-key=/nonexistent", "--secureboot-certificate=/nonexistent"))
    assert snapshot(root) == state


def test_without_ukify(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    if Path("/usr/lib/systemd/ukify").exists():
        pytest.skip("ukify is installed here")
    with pytest.raises(Unsupported, match="ukify is missing") as caught:
        make(root)
    assert "systemd-ukify" in caught.value.hint


@pytest.mark.parametrize(("before", "options", "error"), [
    (lambda root: None, {"arguments": ("--cmdline=quiet",)}, UsageError),
    (lambda root: None, {"arguments": ("--output", "x")}, UsageError),
    (lambda root: None, {"kargs": ("composefs=x",)}, UsageError),
    (lambda root: None, {"kernel": Path("/nonexistent")}, NotBootable),
    (lambda root: (root / MODULES / "vmlinuz").unlink(), {}, NotBootable),
    (lambda root: write(root, "usr/lib/modules/6.1/vmlinuz"), {}, NotBootable),
    (lambda root: shutil.rmtree(root / "boot"), {}, NotBootable),
    (lambda root: write(root, "boot/EFI/Linux/other.efi"), {}, TargetInUse),
    (lambda root: write(root, "usr/lib/bootc/kargs.d/x.toml", "kargs"), {}, BootcdError),
])
def test_no_uki_of_what_makes_none(
    root: Path, program: None, before: Callable[[Path], object], options: dict[str, object], error: type[BootcdError],
) -> None:
    before(root)
    state = snapshot(root)
    with pytest.raises(error):
        make(root, **options)
    assert snapshot(root) == state


# --- what comes from elsewhere ----------------------------------------------------------------------------------------


def test_a_stale_uki_is_not_taken(root: Path, tmp_path: Path, keys: Keys) -> None:
    signed = shutil.move(add_uki(root, keys=keys), tmp_path / "signed.efi")
    write(root, "etc/late", "a change")
    state = snapshot(root)
    with pytest.raises(SealMismatch, match=r"names [0-9a-f]{12}, but the tree in .*/root has [0-9a-f]{12}"):
        attach(root, signed)
    assert snapshot(root) == state


def test_a_uki_for_nothing_is_not_taken(root: Path, tmp_path: Path) -> None:
    plain = shutil.move(add_uki(root, "quiet"), tmp_path / "plain.efi")
    with pytest.raises(SealMismatch, match="names no composefs digest"):
        attach(root, plain, allow_unsigned=True)


def test_a_uki_that_was_changed_is_not_taken(root: Path, tmp_path: Path, keys: Keys) -> None:
    signed = shutil.move(add_uki(root, keys=keys), tmp_path / "signed.efi")
    content = bytearray(signed.read_bytes())
    content[content.index(b"kernel")] ^= 1
    signed.write_bytes(content)
    with pytest.raises(SignatureError, match="the file was changed after it was signed"):
        attach(root, signed)
    assert not list((root / "boot/EFI/Linux").iterdir())


def test_what_is_no_uki(root: Path, tmp_path: Path) -> None:
    for content in (b"", b"MZ", bytes(range(256)) * 50):
        (tmp_path / "x.efi").write_bytes(content)
        with pytest.raises(PeError):
            attach(root, tmp_path / "x.efi")
    for path in (tmp_path / "missing.efi", tmp_path):
        with pytest.raises(BootcdError):
            attach(root, path)


def test_names_of_ukis(root: Path, tmp_path: Path) -> None:
    plain = Path(shutil.move(add_uki(root), tmp_path / "plain.efi"))
    with pytest.raises(UsageError):
        attach(root, plain, name="../escape", allow_unsigned=True)
    assert attach(root, plain, name="mine", allow_unsigned=True).path.endswith("/boot/EFI/Linux/mine.efi")
    with pytest.raises(TargetInUse, match=r"has the UKI mine\.efi already"):
        attach(root, plain, allow_unsigned=True)


def test_an_addon_needs_its_uki(root: Path, tmp_path: Path, program: None) -> None:
    request = UkiRequest(kargs=("debug",))
    with pytest.raises(NotBootable, match="has 0 UKIs"):
        make_addon(root, "x", request)
    with pytest.raises(UsageError):
        make_addon(root, "x", UkiRequest())
