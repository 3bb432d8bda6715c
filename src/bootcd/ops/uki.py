# SPDX-License-Identifier: Apache-2.0
"""UKIs for an image that is being built: the kernel taken out of its root directory, a UKI that names the digest of the
tree made by systemd's ukify, and what was signed elsewhere taken in.

    /usr/lib/modules/<kver>/{vmlinuz,initramfs.img}    taken out to OUTPUT/<kver>/
    /boot/EFI/Linux/<kver>.efi                         where the UKI goes
    /boot/EFI/Linux/<kver>.efi.extra.d/                where its addons go

Whatever is put into /boot does not change the digest. For composefs-rs before 0.9.3 the nanoseconds of the directory's
time did (`formats.transform`), so they are put back. What gets a name is complete and was checked: a UKI that names
another digest, or has a signature that is not of its bytes, is never seen.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..boot import kargs
from ..boot.discover import UKI_DIRECTORY, find_boot_resources, find_ukis, resolve
from ..errors import (
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
from ..formats.dump import format_dump
from ..formats.erofs.layout import Version
from ..formats.erofs.writer import write_image
from ..formats.fsverity import Algorithm, measure
from ..formats.pe import Pe
from ..formats.tree import Directory, RegularFile
from ..linux import files, run
from .chain import signature_in
from .results import SignatureInfo
from .rootfs import Rootfs
from .seal import Seals
from .tools import canonical_tree

ADDON = ".addon.efi"
_EFI = ".efi"
_PLACES = ("ukify", "/usr/lib/systemd/ukify")
_OWN_OPTIONS = ("--linux", "--cmdline", "--output", "--uname", "--config")
"""What is given to ukify here, and what could take its place."""
_MAX_LINES = 3
_MAX_UKI = 2 << 30


@dataclass(frozen=True, slots=True)
class UkiResult:
    """A UKI or an addon that was written: where, its command line, the state of its signature and its signer."""

    path: str
    cmdline: str
    signature: str
    signer: str


def split_kernel(root: Path, output: Path) -> str:
    """Move kernel and initrd out of a root directory, to a directory of the kernel's version in `output`; returns that
    version. Raises NotBootable, TargetInUse, and BootcdError for what cannot be read or written."""
    rootfs = Rootfs(root)
    found = find_boot_resources(rootfs.tree)
    if found.vmlinuz is None or found.initrd is None or found.kver is None:
        raise NotBootable("the image boots from a UKI", advice="Take the kernel out before the UKI is made.")
    target = output / found.kver
    if os.path.lexists(target):
        raise TargetInUse(f"{target} exists")
    hidden = output / f".{found.kver}.{secrets.token_hex(6)}"
    pair = {"vmlinuz": found.vmlinuz, "initramfs.img": found.initrd}
    try:
        with files.translate(f"cannot write {target}"):
            hidden.mkdir(parents=True)
            for name, file in pair.items():
                _copy(rootfs, file, hidden / name)
            hidden.rename(target)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    for file in pair.values():
        path = rootfs.where(file)
        with files.translate(f"cannot remove {path}"):
            path.unlink()
    return found.kver


def _copy(rootfs: Rootfs, file: RegularFile, target: Path) -> None:
    source = rootfs.open(file)
    try:
        with open(target, "xb", buffering=0) as stream:
            files.copy_file(source, stream.fileno())
            if os.fstat(stream.fileno()).st_size != file.size:
                raise BootcdError(f"{rootfs.where(file)} changed while it was read")
    finally:
        os.close(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class UkiRequest:
    """A UKI to make. `kernel` is a directory that `split_kernel` has made, None for the image itself; `output` a file,
    None for its place in the image; `dump` a file for the tree that the digest is of; `arguments` are ukify's.
    `whole_seconds` is for a tree that goes through a tool which cuts off fractions of seconds."""

    kernel: Path | None = None
    output: Path | None = None
    kargs: tuple[str, ...] = ()
    version: Version = Version.V1
    algorithm: Algorithm = Algorithm.SHA512
    allow_missing_verity: bool = False
    whole_seconds: bool = False
    dump: Path | None = None
    arguments: tuple[str, ...] = ()
    architecture: str = ""


def ukify(root: Path, request: UkiRequest, note: Callable[[str], None]) -> UkiResult:
    """Make a UKI for a root directory as it is now.

    Raises NotBootable without kernel and initrd, UsageError for arguments that say what is said here, Unsupported
    without ukify, SignatureError when the signature is not right, as by a key that is not that of the certificate, and
    BootcdError with ukify's words when that fails.
    """
    program = _program(request.arguments)
    rootfs = Rootfs(root)
    kver, vmlinuz, initrd = _parts(rootfs, request.kernel)
    place = request.output or _image_place(rootfs, f"{kver}{_EFI}")
    release = resolve(rootfs.tree, b"/etc/os-release") or resolve(rootfs.tree, b"/usr/lib/os-release")
    said = f"@{rootfs.where(release)}" if isinstance(release, RegularFile) else "ID=linux"
    arguments = [*kargs.image_kargs(rootfs.tree, rootfs.read, request.architecture), *request.kargs]
    kargs.check_machine_kargs(request.kargs)
    fractions = sum(1 for path, node in rootfs.tree.walk() if node.mtime_nsec and not path.startswith(b"/boot/"))
    if fractions and not request.whole_seconds:
        note(f"names in {root} with fractions of seconds in their times: {fractions}; tools that build containers cut "
             "those off. Say --whole-seconds if the tree goes through one, or machines will compute another digest.")
    tree = canonical_tree(root, request.algorithm, whole_seconds=request.whole_seconds)
    digest = measure(write_image(tree, request.version, request.algorithm), request.algorithm)
    karg = kargs.karg_for(digest, request.version, request.algorithm, secure=not request.allow_missing_verity)
    cmdline = " ".join([*arguments, karg])
    kargs.check_length(cmdline)
    with _built([program, "build", f"--linux={vmlinuz}", f"--initrd={initrd}", f"--uname={kver}",
                 f"--os-release={said}", f"--cmdline={cmdline}", *request.arguments]) as made:
        with _opened(made, place.name) as pe:
            if kargs.join_cmdline(pe.text(".cmdline")) != kargs.join_cmdline(cmdline):
                raise SealMismatch(f"ukify has made a UKI with another command line: {pe.text('.cmdline')!r}")
        signature = _checked_signature(made, place.name)
        if request.dump is not None:
            files.atomic_write(request.dump, b"".join(format_dump(tree)), durable=False)
        with _same_time(root):
            _install(made, place)
    return UkiResult(os.fspath(place), cmdline, signature.state, signature.signer)


def make_addon(root: Path, name: str, request: UkiRequest) -> UkiResult:
    """Make an addon with kernel arguments for the UKI of a root directory. Raises what `ukify` raises."""
    program = _program(request.arguments)
    if not request.kargs:
        raise UsageError("an addon without kernel arguments adds nothing", advice="Give some with --karg.")
    kargs.check_machine_kargs(request.kargs)
    if request.output is not None:
        place = request.output
    else:
        place = _addon_place(Rootfs(root), name.removesuffix(ADDON) + ADDON)
    cmdline = " ".join(request.kargs)
    with _built([program, "build", f"--cmdline={cmdline}", *request.arguments]) as made:
        signature = _checked_signature(made, place.name)
        with _same_time(root):
            _install(made, place)
    return UkiResult(os.fspath(place), cmdline, signature.state, signature.signer)


def attach(root: Path, file: Path, *, name: str = "", allow_unsigned: bool = False) -> UkiResult:
    """Take a UKI, or an addon, that was signed elsewhere into a root directory.

    Raises SealMismatch when it does not name the digest of the tree, SignatureMissing without a signature,
    SignatureError with one that is not of its bytes, PeError, TargetInUse where another UKI is, and NotBootable.
    """
    rootfs = Rootfs(root)
    with files.private_directory("uki") as directory:
        copy = directory / "uki.efi"  # what is looked at is what is taken, whoever writes to the file meanwhile
        _install(file, copy)
        with _opened(copy, os.fspath(file)) as pe:
            cmdline = pe.text(".cmdline") if ".cmdline" in pe.sections else ""
            uname = pe.text(".uname").strip() if ".uname" in pe.sections else ""
            is_addon = ".linux" not in pe.sections
        if is_addon:
            if any(map(kargs.is_composefs, kargs.split_cmdline(cmdline))):
                raise SealMismatch(f"{file} has no kernel, but names the image to boot: an addon must not")
            place = _addon_place(rootfs, (name or file.name).removesuffix(_EFI).removesuffix(".addon") + ADDON)
        else:
            called = (name or uname or file.name).removesuffix(_EFI)
            if not called or "/" in called or called in (".", ".."):
                raise UsageError(f"{called!r} is no name for a UKI")
            place = _image_place(rootfs, called + _EFI)
            _check_seal(root, file, cmdline)
        signature = _checked_signature(copy, os.fspath(file))
        if signature.state == "absent" and not allow_unsigned:
            raise SignatureMissing(f"{file} has no signature", advice="Have it signed, or say --allow-unsigned.")
        with _same_time(root):
            _install(copy, place)
    return UkiResult(os.fspath(place), cmdline, signature.state, signature.signer)


def _check_seal(root: Path, file: Path, cmdline: str) -> None:
    named = kargs.find_kargs(cmdline)
    if not named:
        raise SealMismatch(f"{file} names no composefs digest", advice="Make it with 'bootcctl container ukify'.")
    for karg, real in Seals(root).stale(named):
        raise SealMismatch(f"{file} names {karg.digest.hex()[:12]}, but the tree in {root} has {real.hex()[:12]}",
                           advice="The tree was changed since, or is another; make the UKI anew.")


def _program(arguments: Iterable[str]) -> str:
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in _OWN_OPTIONS:
            raise UsageError(f"{option} cannot be given to ukify here",
                             advice="Kernel arguments go into kargs.d of the image, or are given with --karg.")
    for place in _PLACES:
        found = run.find(place)
        if found is not None:
            return found
    raise Unsupported("ukify is missing", advice="It is in the package systemd-ukify of Debian 13, Fedora and Arch.")


def _parts(rootfs: Rootfs, directory: Path | None) -> tuple[str, Path, Path]:
    """Version, kernel and initrd. Raises NotBootable."""
    if directory is not None:
        pair = directory / "vmlinuz", directory / "initramfs.img"
        for path in pair:
            if not path.is_file():
                raise NotBootable(f"there is no file {path}",
                                  advice="Name the directory that 'bootcctl container split-kernel' has made.")
        return directory.resolve().name, *pair
    tree = rootfs.tree
    boot = tree.entries.get(b"boot")
    without = Directory()
    without.entries = {name: node for name, node in tree.entries.items() if node is not boot}
    found = find_boot_resources(without)  # a UKI that is there is to be replaced
    assert found.kver is not None
    assert found.vmlinuz is not None
    assert found.initrd is not None
    return found.kver, rootfs.where(found.vmlinuz), rootfs.where(found.initrd)


def _image_place(rootfs: Rootfs, name: str) -> Path:
    """Where a UKI goes in the image. Raises TargetInUse when there is one of another name, NotBootable without
    /boot."""
    if not isinstance(rootfs.tree.entries.get(b"boot"), Directory):
        raise NotBootable("/boot of the image does not exist", advice="Create /boot in the image.")
    for other, _ in find_ukis(rootfs.tree):
        if other.lower() != os.fsencode(name).lower():
            raise TargetInUse(f"the image has the UKI {os.fsdecode(other)} already, and would have {name} beside it",
                              advice="Remove it first.")
    return rootfs.path / os.fsdecode(UKI_DIRECTORY[1:]) / name


def _addon_place(rootfs: Rootfs, name: str) -> Path:
    """Where an addon of the image's one UKI goes."""
    ukis = find_ukis(rootfs.tree)
    if len(ukis) != 1:
        raise NotBootable(f"the image has {len(ukis)} UKIs, and an addon belongs to one",
                          advice="Make the UKI first, or name a file with --output.")
    if "/" in name or name == ADDON:
        raise UsageError(f"{name!r} is no name for an addon")
    return rootfs.path / os.fsdecode(UKI_DIRECTORY[1:]) / f"{os.fsdecode(ukis[0][0])}.extra.d" / name


@contextlib.contextmanager
def _built(words: Sequence[str]) -> Iterator[Path]:
    """What ukify makes, in a directory of its own."""
    with files.private_directory("ukify") as directory:
        made = directory / "made.efi"
        done = run.run([*words, f"--output={made}"], check=False)
        if done.returncode or not made.is_file():
            raise BootcdError(f"ukify failed: {_last_words(done.stderr.decode('utf-8', 'replace'))}")
        yield made


def _last_words(text: str) -> str:
    """What ukify says is wrong: the lines before its traceback, without the commands that it tells; else its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    before = list(itertools.takewhile(lambda line: not line.startswith("Traceback"), lines))
    said = [line for line in before if not line.startswith(("+ ", "Wrote "))] or lines[-1:] or ["it has made nothing"]
    return "; ".join(said[-_MAX_LINES:])


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Pe]:
    """The sections of a PE file. Raises PeError."""
    with (files.translate(f"cannot read {path}", named=True),
          open(files.open_regular(os.fspath(path), follow=True), "rb") as stream):
        size = os.fstat(stream.fileno()).st_size
        if size > _MAX_UKI:
            raise PeError(f"{name} has {size} bytes, more than {_MAX_UKI}")
        yield Pe.parse(stream.read(), name)


def _checked_signature(path: Path, name: str) -> SignatureInfo:
    """The state of a signature, which may be absent. Raises SignatureError, PeError."""
    with files.translate(f"cannot read {path}", named=True), open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        found = signature_in(stream.fileno(), size, name)
    if found.state == "broken":
        raise SignatureError(f"{name}: the signature does not count: {found.problem}",
                             advice="Is the key that of the certificate? Was the file changed after it was signed?")
    return found


@contextlib.contextmanager
def _same_time(root: Path) -> Iterator[None]:
    """/boot has the time afterwards that it had before."""
    boot = root / "boot"
    before = boot.stat() if boot.is_dir() else None
    try:
        yield
    finally:
        if before is not None and boot.stat().st_mtime_ns != before.st_mtime_ns:
            with files.translate(f"cannot set the time of {boot}"):
                os.utime(boot, ns=(before.st_atime_ns, before.st_mtime_ns))


def _install(made: Path, place: Path) -> None:
    """Give a file its name, in one step."""
    with files.translate(f"cannot read {made}", named=True):
        descriptor = files.open_regular(os.fspath(made), follow=True)
    with open(descriptor, "rb") as source, files.translate(f"cannot write {place}"):
        place.parent.mkdir(parents=True, exist_ok=True)
        hidden = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
        try:
            with open(hidden, "xb", buffering=0) as target:
                files.copy_file(source.fileno(), target.fileno())
                os.fchmod(target.fileno(), 0o644)
            hidden.rename(place)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
